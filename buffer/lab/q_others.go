package main

import (
	"context"
	"database/sql"
	"errors"
	"path/filepath"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/tidwall/wal"
	_ "modernc.org/sqlite" // the driver
)

// walQueue is tidwall/wal, which Telegraf's disk buffer is built on.
type walQueue struct {
	l    *wal.Log
	w, r uint64 // last index written, next to read
}

func openWAL(dir string) (queue, error) {
	l, err := wal.Open(filepath.Join(dir, "wal"), &wal.Options{AllowEmpty: true, NoCopy: true})
	if err != nil {
		return nil, err
	}
	q := &walQueue{l: l}
	if q.w, err = l.LastIndex(); err != nil {
		return nil, err
	}
	q.r, err = l.FirstIndex()
	q.r = max(q.r, 1)
	return q, err
}

func (q *walQueue) append(recs [][]byte) error {
	var b wal.Batch
	for _, r := range recs {
		q.w++
		b.Write(q.w, r)
	}
	return q.l.WriteBatch(&b)
}

func (q *walQueue) drain(max int, fn func([]byte)) (n int, err error) {
	for ; n < max && q.r <= q.w; n++ {
		p, err := q.l.Read(q.r)
		if err != nil {
			return n, err
		}
		fn(p)
		q.r++
	}
	if n == 0 {
		return 0, nil
	}
	return n, q.l.TruncateFront(q.r)
}

func (q *walQueue) close() error { return q.l.Close() }

// sqlQueue is SQLite as Redpanda Connect's buffer uses it.
type sqlQueue struct{ db *sql.DB }

func openSQL(dir string) (queue, error) {
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "q.sqlite")+
		"?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=page_size(4096)")
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	_, err = db.Exec("create table if not exists q(id integer primary key, d blob)")
	return &sqlQueue{db}, err
}

func (q *sqlQueue) append(recs [][]byte) error {
	tx, err := q.db.Begin()
	if err != nil {
		return err
	}
	insert, err := tx.Prepare("insert into q(d) values(?)")
	if err != nil {
		return errors.Join(err, tx.Rollback())
	}
	for _, r := range recs {
		if _, err := insert.Exec(r); err != nil {
			return errors.Join(err, tx.Rollback())
		}
	}
	return tx.Commit()
}

func (q *sqlQueue) drain(max int, fn func([]byte)) (n int, err error) {
	rows, err := q.db.Query("select id, d from q order by id limit ?", max)
	if err != nil {
		return 0, err
	}
	var id int64
	var d sql.RawBytes
	for ; rows.Next(); n++ {
		if err := rows.Scan(&id, &d); err != nil {
			return n, errors.Join(err, rows.Close())
		}
		fn(d)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil || n == 0 {
		return n, err
	}
	_, err = q.db.Exec("delete from q where id <= ?", id)
	return n, err
}

func (q *sqlQueue) close() error { return q.db.Close() }

// natsQueue is JetStream's file store, its server within this process.
type natsQueue struct {
	s  *server.Server
	nc *nats.Conn
	js jetstream.JetStream
	c  jetstream.Consumer
}

func openNATS(dir string) (queue, error) {
	s, err := server.NewServer(&server.Options{DontListen: true, JetStream: true, StoreDir: filepath.Join(dir, "js"),
		NoLog: true, NoSigs: true, SyncAlways: true, MaxPayload: 8 << 20})
	if err != nil {
		return nil, err
	}
	go s.Start()
	if !s.ReadyForConnections(20 * time.Second) {
		return nil, errors.New("nats: not ready within 20 s")
	}
	q := &natsQueue{s: s}
	if q.nc, err = nats.Connect("", nats.InProcessServer(s)); err != nil {
		return nil, err
	}
	if q.js, err = jetstream.New(q.nc, jetstream.WithPublishAsyncMaxPending(1<<16)); err != nil {
		return nil, err
	}
	ctx := context.Background()
	if _, err = q.js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{Name: "Q", Subjects: []string{"q"},
		Storage: jetstream.FileStorage, Retention: jetstream.WorkQueuePolicy}); err != nil {
		return nil, err
	}
	q.c, err = q.js.CreateOrUpdateConsumer(ctx, "Q", jetstream.ConsumerConfig{Durable: "d",
		AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: -1})
	return q, err
}

func (q *natsQueue) append(recs [][]byte) error {
	futures := make([]jetstream.PubAckFuture, len(recs))
	for i, r := range recs {
		f, err := q.js.PublishAsync("q", r)
		if err != nil {
			return err
		}
		futures[i] = f
	}
	for _, f := range futures {
		select {
		case <-f.Ok():
		case err := <-f.Err():
			return err
		case <-time.After(time.Minute):
			return errors.New("nats: no acknowledgement within a minute")
		}
	}
	return nil
}

func (q *natsQueue) drain(max int, fn func([]byte)) (n int, err error) {
	batch, err := q.c.FetchNoWait(max)
	if err != nil {
		return 0, err
	}
	var last jetstream.Msg
	for m := range batch.Messages() {
		fn(m.Data())
		n++
		if last != nil { // a work queue wants each acknowledged by itself
			if err := last.Ack(); err != nil {
				return n, err
			}
		}
		last = m
	}
	if last == nil {
		return 0, batch.Error()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return n, last.DoubleAck(ctx)
}

func (q *natsQueue) close() error {
	q.nc.Close()
	q.s.Shutdown()
	q.s.WaitForShutdown()
	return nil
}
