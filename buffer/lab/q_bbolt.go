package main

import (
	"encoding/binary"
	"path/filepath"

	bolt "go.etcd.io/bbolt"
)

// boltQueue keeps a key per record in one bbolt file.
type boltQueue struct {
	db   *bolt.DB
	next uint64
	head uint64 // the first key that may exist
}

func openBolt(dir string) (queue, error) {
	db, err := bolt.Open(filepath.Join(dir, "q.db"), 0o600,
		&bolt.Options{NoFreelistSync: true, FreelistType: bolt.FreelistMapType, PageSize: 4096, NoStatistics: true})
	if err != nil {
		return nil, err
	}
	q := &boltQueue{db: db}
	return q, db.Update(func(tx *bolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists([]byte("b"))
		if err != nil {
			return err
		}
		if k, _ := b.Cursor().Last(); k != nil {
			q.next = binary.BigEndian.Uint64(k) + 1
		}
		return nil
	})
}

func boltKey(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func (q *boltQueue) append(recs [][]byte) error {
	err := q.db.Update(func(tx *bolt.Tx) error {
		b := tx.Bucket([]byte("b"))
		b.FillPercent = 1
		for i, r := range recs {
			if err := b.Put(boltKey(q.next+uint64(i)), r); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		q.next += uint64(len(recs))
	}
	return err
}

func (q *boltQueue) drain(max int, fn func([]byte)) (int, error) {
	var keys []uint64
	err := q.db.View(func(tx *bolt.Tx) error {
		c := tx.Bucket([]byte("b")).Cursor()
		for k, v := c.Seek(boltKey(q.head)); k != nil && len(keys) < max; k, v = c.Next() {
			fn(v)
			keys = append(keys, binary.BigEndian.Uint64(k))
		}
		return nil
	})
	if err != nil || len(keys) == 0 {
		return 0, err
	}
	q.head = keys[len(keys)-1] + 1
	return len(keys), q.db.Update(func(tx *bolt.Tx) error {
		b := tx.Bucket([]byte("b"))
		for _, k := range keys {
			if err := b.Delete(boltKey(k)); err != nil {
				return err
			}
		}
		return nil
	})
}

func (q *boltQueue) close() error { return q.db.Close() }
