package kafka

// producer is who we are towards the brokers: the producer id and epoch they
// gave us and the next sequence number of each partition (KIP-98). It is kept
// over reconnects and restarts of Kafka, so that a chunk in doubt can be sent
// again as the same chunk.
//
// With a transactional id (InitProducerId, coordinator.go) the identity also
// fences whoever had it before.
type producer struct {
	known bool
	id    int64
	epoch int16
	next  map[partitionKey]int32
}

// partitionKey names a partition.
type partitionKey struct {
	topic string
	id    int32
}

// adopt starts a new identity: every sequence begins at 0.
func (p *producer) adopt(id int64, epoch int16) {
	p.known, p.id, p.epoch = true, id, epoch
	p.next = make(map[partitionKey]int32)
}

// forget gives the identity up. It must not be called while a chunk in doubt
// can still be settled under it.
func (p *producer) forget() { p.known = false }

// sequence returns the sequence number of the next record of the partition.
func (p *producer) sequence(k partitionKey) int32 { return p.next[k] }

// advance counts n confirmed records. After 2^31-1 comes 0
// (org.apache.kafka.common.record.DefaultRecordBatch.incrementSequence).
func (p *producer) advance(k partitionKey, n int) {
	p.next[k] = int32((uint32(p.next[k]) + uint32(n)) & 0x7fffffff)
}
