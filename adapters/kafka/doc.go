// Package kafka forwards records to Apache Kafka: exactly once where the cluster
// can do it, idempotent and acks=all in any case, one batch at a time, at most
// one request in flight per partition.
//
// The wire code is sarama's (metadata, connections, TLS, SASL, encoding); its
// producer is not used. Sequence numbers are ours (producer.go), because only
// then can a batch whose outcome is unknown be sent again, after a reconnect
// or a restart of Kafka, under the sequence number it had, so that the broker
// recognises it (KIP-98).
//
// # Why nothing is lost or reordered
//
// Within a partition records go out in the order of the batch, cut into
// chunks. A chunk is sent only when the one before it is confirmed or refused.
// Every answer is one of these (outcome.go):
//
//   - confirmed, or DUPLICATE_SEQUENCE_NUMBER: the sequence moves on;
//   - surely not appended: the same chunk again, same sequence;
//   - unknown (connection lost after the request was written, time-out, not
//     enough replicas after the append): the chunk is "in doubt" and is only
//     ever sent again with the same records under the same sequence;
//   - rejected for its content: nothing of it was appended (Kafka appends a
//     batch whole or not at all), so it is cut in half under the same sequence
//     until the guilty record is alone and is refused;
//   - the producer id is no longer known, or a chunk in doubt is now rejected:
//     a new id is taken. At least once: not before every other chunk in doubt
//     is settled under the old one. Exactly once: at once, for it rolls back.
//
// This state outlives Send: it is kept until the forwarder hands over another
// batch.
//
// # Why nothing arrives twice
//
// The position of a lane, the seq that comes next, is the offset of a consumer
// group of its own, written in the transaction that carries the records
// (txn.go, fill.go). So Kafka has the records below the position, and none of
// this lane above it:
//
//   - A transactional id is taken before the first transaction (InitProducerId).
//     That fences every predecessor and completes or rolls back what it left.
//   - Then the position is read, as stable (KIP-447): it is that of the last
//     committed transaction, and no other is under way.
//   - Of each batch what is below the position is not sent. The rest is, in
//     one transaction, with the position after it.
//   - Only EndTxn answered with yes ends this. After any other answer, or none,
//     and after every error that says the transaction is over, it begins anew:
//     the id is taken, the position is read, and that decides. Nothing is sent
//     again on a guess.
//   - A request that may still be on its way belongs to an epoch that taking
//     the id has ended. Chunks in doubt are sent again within one transaction
//     only, under their sequence numbers.
//   - A batch that the forwarder gives up is rolled back the same way, and so is
//     what is open when the sink is closed while the connections work.
//
// The position passes over refused records. They are not among the dead letters
// before Send returns, so the metadata of the offset lists them (note.go), and
// they are refused again when they come again after a crash. A batch of which
// it cannot list all goes without a position.
//
// The position belongs to a generation of a queue, and lanes of other queues
// have their own. Which process wrote it, and the sum of the record before it,
// tell that another gateway has our id, or that our queue is an older copy; the
// sink stops then (fence.go, position.go). Batches of a replay carry no
// position and are never left out.
//
// Offsets of a group expire (7 days by default), so the position may also be
// kept in a compacted topic, written in the same transaction (poscopy.go).
//
// # At least once
//
// Without transactions a batch that was given up while a chunk of it was in
// doubt costs the producer id, which can repeat records if the old batch is
// sent again later: its sequence may or may not be used up, and using it again
// could make the broker take new records for old ones and drop them.
//
// Repeats are also possible when the broker has forgotten the producer
// (producer.id.expiration.ms, one day by default) between a chunk in doubt and
// its repetition, and when the gateway restarts in between. The headers
// gateway, generation, lane and seq tell a consumer.
package kafka
