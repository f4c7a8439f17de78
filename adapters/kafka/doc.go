// Package kafka forwards records to Apache Kafka: idempotent, acks=all, one
// batch at a time, at most one request in flight per partition.
//
// The wire code is sarama's (metadata, connections, TLS, SASL, encoding); its
// producer is not used. Sequence numbers are ours (producer.go), because only
// then can a batch whose outcome is unknown be sent again, after a reconnect
// or a restart of Kafka, under the sequence number it had, so that the broker
// recognises it (KIP-98).
//
// # Why nothing is lost, doubled or reordered
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
//     a new id is taken, but not before every other chunk in doubt is settled
//     under the old one.
//
// This state outlives Send: it is kept until the forwarder hands over another
// batch. If that happens while a chunk is in doubt (the forwarder gave the
// batch up), its sequence may or may not be used up; using it again could make
// the broker take new records for old ones and drop them. So a new producer id
// is taken, which can repeat records if the old batch is sent again later.
//
// Repeats are also possible when the broker has forgotten the producer
// (producer.id.expiration.ms, one day by default) between a chunk in doubt and
// its repetition, and when the gateway restarts in between. The headers
// gateway, generation, lane and seq tell a consumer.
package kafka
