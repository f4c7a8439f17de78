// Command lab compares the queue of package buffer with other durable queues,
// in one run and on the same records, and cuts its power on a recording file
// system. It is a module of its own: what it imports is not in the product.
package main

// queue is what every design has to do.
type queue interface {
	// append returns when the whole batch is durable.
	append(recs [][]byte) error
	// drain reads up to max records in order and returns how many. They are
	// removed durably before it returns, or, when the design says so, within a
	// second: a crash then repeats records, it loses none.
	drain(max int, fn func(rec []byte)) (int, error)
	close() error
}

// design is a queue under test.
type design struct {
	name, note string
	open       func(dir string) (queue, error)
}

func designs() []design {
	return []design{
		{"raw", "file, CRC per record, one fdatasync per batch; cursor file", func(d string) (queue, error) { return openRaw(d, rawOptions{}) }},
		{"raw-pre", "the same, file filled with zeros before (not counted)", func(d string) (queue, error) { return openRaw(d, rawOptions{prefill: 256 << 20}) }},
		{"raw-zstd", "file, one zstd block per batch, one fdatasync", func(d string) (queue, error) { return openRaw(d, rawOptions{zstd: true}) }},
		{"waystation", "package buffer, defaults", func(d string) (queue, error) { return openOurs(d, oursOptions{}) }},
		{"waystation-prefill", "the same with Options.Prefill (zeros counted)", func(d string) (queue, error) { return openOurs(d, oursOptions{prefill: true}) }},
		{"bb-key", "bbolt, key per record, best options", openBolt},
		{"tidwall", "tidwall/wal, one fsync per batch, TruncateFront", openWAL},
		{"sqlite", "SQLite (modernc), WAL, synchronous=FULL, row per record", openSQL},
		{"nats", "NATS JetStream file store, sync always, message per record", openNATS},
	}
}
