package main

import (
	"context"
	"path/filepath"
	"time"

	"github.com/waystation-iot/waystation/buffer"
)

type oursOptions struct {
	prefill  bool
	segment  int64 // bytes; 0 = default
	maxBytes int64 // budget; 0 = 64 GiB
	delay    time.Duration
}

// ours is package buffer through its public API: one lane and one cursor.
type ours struct {
	log    *buffer.Log
	cursor *buffer.Cursor
	batch  buffer.Batch
	done   chan error
	ch     buffer.Chunk
}

func openOurs(dir string, o oursOptions) (queue, error) {
	if o.maxBytes == 0 {
		o.maxBytes = 64 << 30
	}
	l, err := buffer.Open(buffer.Options{Dir: filepath.Join(dir, "q"), Lanes: buffer.NamedLanes("telemetry"),
		MaxBytes: o.maxBytes, Prefill: o.prefill, SegmentBytes: o.segment, CursorDelay: o.delay})
	if err != nil {
		return nil, err
	}
	c, err := l.Cursor("sink")
	return &ours{log: l, cursor: c, done: make(chan error, 1)}, err
}

func (q *ours) append(recs [][]byte) error {
	q.batch.Reset()
	for _, r := range recs {
		q.batch.Add(r)
	}
	q.log.Append(0, &q.batch, func(err error) { q.done <- err })
	return <-q.done
}

// submit queues one record and does not wait: the queue gathers what waits
// into a commit itself.
func (q *ours) submit(rec []byte, done func(error)) {
	b := &buffer.Batch{}
	b.Add(rec)
	q.log.Append(0, b, done)
}

func (q *ours) drain(max int, fn func([]byte)) (n int, err error) {
	for n < max {
		if err := q.cursor.Read(0, buffer.Limit{Records: max - n, Bytes: 4 << 20}, &q.ch); err != nil {
			return n, err
		}
		if len(q.ch.Records) == 0 && q.ch.Loss == nil {
			break
		}
		released := buffer.Released{Sent: uint64(len(q.ch.Records))}
		for _, r := range q.ch.Records {
			fn(r)
		}
		if q.ch.Loss != nil {
			released.Lost = q.ch.Loss.Count()
		}
		q.cursor.Release(0, q.ch.Next(), released)
		n += len(q.ch.Records)
	}
	return n, nil
}

func (q *ours) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return q.log.Close(ctx)
}
