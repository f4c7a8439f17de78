package kafka

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// A spool is a directory with two files for each value that is on its way to
// the store:
//
//	<id>.data   the value
//	<id>.json   the claim: whose it is, its hash, how far its upload is
//
// id is the hash of the value and some of that of its key: two records with
// the same value are two objects. A file is written under a name that ends in
// .tmp, brought to the disk and renamed; the second file comes when the first
// is on the disk. So what has a claim is whole, and what has none is the rest
// of a crash and is deleted: the record is still in the queue.
type spool struct {
	dir string
	max int64 // bytes of values
}

const (
	dataSuffix  = ".data"
	claimSuffix = ".json"
	tempSuffix  = ".tmp"
	// staleAfter is how long a claim is kept that nobody asks for: its record was
	// evicted from the queue, or the queue was made anew.
	staleAfter = 30 * 24 * time.Hour
)

// recordID names a record. A replay of it is another claim to the same object.
type recordID struct {
	Gateway    string `json:"gateway"`
	Generation string `json:"generation"`
	Lane       string `json:"lane"`
	Seq        uint64 `json:"seq"`
	Replayed   bool   `json:"replayed,omitempty"`
}

// claim is a value on its way to the store, or there.
type claim struct {
	ID     string     `json:"id"` // name of its files
	Record recordID   `json:"record"`
	Store  string     `json:"store"` // id of the store
	Key    string     `json:"key"`
	Bytes  int64      `json:"bytes"`
	SHA256 string     `json:"sha256"`
	Type   string     `json:"content_type"`
	Done   bool       `json:"done"`           // the store has it
	Sent   bool       `json:"sent,omitempty"` // all of it was taken; it was not yet seen to be there
	Asked  time.Time  `json:"asked"`
	Upload *multipart `json:"upload,omitempty"` // the uploader's while it has the claim

	hasData   bool      // its value is in the spool
	unchecked bool      // it was found at the start: its hash was not compared yet
	busy      bool      // the spooler or the uploader has it
	spooling  bool      // it is not in the spool yet
	gone      bool      // nobody wants it any more
	refused   string    // why the store will never take it; "" = it may
	trouble   error     // of the last try
	notBefore time.Time // of the next try
	order     uint64    // claims are uploaded in the order in which they came
}

func (s *spool) data(id string) string  { return filepath.Join(s.dir, id+dataSuffix) }
func (s *spool) claim(id string) string { return filepath.Join(s.dir, id+claimSuffix) }

// open makes the directory and returns the claims of before; what a crash has
// left, and what belongs to another store, is deleted.
func (s *spool) open(store string) ([]*claim, error) {
	if s.dir == "" {
		return nil, errors.New("open spool: there is no directory for the state of this sink")
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, fmt.Errorf("open spool: %w", err)
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("open spool: %w", err)
	}
	var found []*claim
	keep := map[string]bool{}
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), claimSuffix)
		if !ok {
			continue
		}
		if c := s.load(id, store); c != nil {
			found = append(found, c)
			keep[id+claimSuffix], keep[id+dataSuffix] = true, true
		}
	}
	for _, e := range entries {
		if !keep[e.Name()] && !e.IsDir() {
			err = errors.Join(err, removeIfThere(filepath.Join(s.dir, e.Name())))
		}
	}
	if err != nil {
		return nil, fmt.Errorf("clear spool: %w", err)
	}
	return found, nil
}

// load reads a claim, nil when it is of no use.
func (s *spool) load(id, store string) *claim {
	b, err := os.ReadFile(s.claim(id))
	if err != nil {
		return nil
	}
	c := &claim{}
	if json.Unmarshal(b, c) != nil || c.ID != id || c.Store != store || c.Key == "" || len(c.SHA256) != 64 {
		return nil
	}
	info, err := os.Stat(s.data(id))
	c.hasData = err == nil && info.Size() == c.Bytes
	if !c.hasData && !c.Done || time.Since(c.Asked) > staleAfter {
		return nil
	}
	if m := c.Upload; m != nil && (m.ID == "" || m.Part <= 0 || int64(len(m.Parts))*m.Part >= c.Bytes+m.Part) {
		c.Upload = nil
	}
	c.unchecked = true
	return c
}

// write puts a new claim and its value on the disk.
func (s *spool) write(ctx context.Context, c *claim, value []byte) error {
	if err := writeDurably(ctx, s.data(c.ID), value); err != nil {
		return errors.Join(fmt.Errorf("spool a large value: %w", err), s.remove(c))
	}
	if err := s.save(c); err != nil {
		return errors.Join(err, s.remove(c))
	}
	return nil
}

// save writes a claim down.
func (s *spool) save(c *claim) error {
	b, err := json.Marshal(c)
	if err != nil {
		return err
	}
	if err := writeDurably(context.Background(), s.claim(c.ID), b); err != nil {
		return fmt.Errorf("spool a large value: %w", err)
	}
	return nil
}

// remove deletes the files of a claim, the claim first.
func (s *spool) remove(c *claim) error {
	return errors.Join(removeIfThere(s.claim(c.ID)), removeIfThere(s.data(c.ID)),
		removeIfThere(s.data(c.ID)+tempSuffix), removeIfThere(s.claim(c.ID)+tempSuffix))
}

// verify makes sure that a value found at the start is what was written.
func (s *spool) verify(ctx context.Context, c *claim, f *os.File) error {
	if !c.unchecked {
		return nil
	}
	sum, err := hashOf(ctx, f)
	if err != nil {
		return err
	}
	if sum != c.SHA256 {
		return errSpoolDamaged
	}
	return nil
}

// errSpoolDamaged says that a value in the spool is not what was written. It
// is spooled again from the queue.
var errSpoolDamaged = errors.New("the value in the spool is damaged")

// writeDurably writes a file that is there whole or not at all.
func writeDurably(ctx context.Context, path string, b []byte) error {
	temp := path + tempSuffix
	f, err := os.OpenFile(temp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	for err == nil && len(b) > 0 {
		n := min(len(b), 1<<20)
		if err = ctx.Err(); err == nil {
			_, err = f.Write(b[:n])
		}
		b = b[n:]
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, removeIfThere(temp))
	}
	if err := os.Rename(temp, path); err != nil {
		return errors.Join(err, removeIfThere(temp))
	}
	return syncDir(filepath.Dir(path))
}
