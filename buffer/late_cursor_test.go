package buffer

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
)

// A new cursor that a crash kept from the disk begins where it began before,
// though every other has released what it needs.
func TestNewCursorSurvivesACrash(t *testing.T) {
	o := Options{Dir: t.TempDir(), Lanes: NamedLanes("a"), MaxBytes: MinBytes, SegmentBytes: 64 << 10, CursorDelay: time.Hour, Compression: None}
	l, err := Open(o)
	must(t, err)
	old, err := l.Cursor("old")
	must(t, err)
	_, err = l.Cursor("new")
	must(t, err)
	for range 8 {
		b := &Batch{}
		for range 60 {
			b.Add(make([]byte, 1000))
		}
		must(t, appendWait(l, 0, b))
	}
	end := l.Stats().Lanes[0].Next
	old.Release(0, end, Released{Sent: end - firstSeq})
	must(t, l.Close(context.Background()))

	// What a kill before the commit that wrote the new cursor leaves.
	segments, err := filepath.Glob(filepath.Join(o.Dir, "a", "*"+segSuffix))
	must(t, err)
	if len(segments) < 2 {
		t.Fatalf("%d segments", len(segments))
	}
	for _, path := range segments {
		db, err := bolt.Open(path, 0o600, nil)
		must(t, err)
		must(t, db.Update(func(tx *bolt.Tx) error { return tx.Bucket([]byte(bucketMeta)).Delete([]byte(cursorPrefix + "new")) }))
		must(t, db.Close())
	}

	l, err = Open(o)
	must(t, err)
	defer func() { must(t, l.Close(context.Background())) }()
	for range 2 { // the second waits until the first is tidied up after
		l.Forget([]string{"old", "new"})
	}
	_, err = l.Cursor("old")
	must(t, err)
	fresh, err := l.Cursor("new")
	must(t, err)
	if got := fresh.Stats()[0].Next; got != firstSeq {
		t.Fatalf("begins at %d of %d, want %d", got, end, firstSeq)
	}
	fresh.Release(0, end, Released{Sent: end - firstSeq})
	must(t, fresh.Sync(context.Background()))
	for range 2 {
		l.Forget([]string{"old", "new"})
	}
	if got := l.Stats().Lanes[0].First; got == firstSeq {
		t.Fatal("what everybody released is kept")
	}
}
