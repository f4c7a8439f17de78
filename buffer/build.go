package buffer

import (
	"bytes"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"strconv"

	bolt "go.etcd.io/bbolt"
)

// chunkBytes is how much of a segment that is built from blocks one
// transaction holds in memory.
const chunkBytes = 4 << 20

// blockSeq yields blocks in the order of their seqs; each is valid until the next.
type blockSeq = iter.Seq2[found, error]

// fillSegment makes a segment of blocks, complete and synced, under the name
// of one that is being made; install gives it its own. The next seq is at
// least that of m, also as blocks leaves it, and the end of the last block.
func fillSegment(dir string, m *meta, blocks blockSeq) (*segment, error) {
	s, err := buildSegment(dir, minSegmentBytes, m, func(*bolt.Bucket) error { return nil })
	if err != nil {
		return nil, err
	}
	s.db.NoSync = true // until it is complete
	s.db.AllocSize = chunkBytes / 4
	var chunk []found
	size := 0
	flush := func() error {
		_, err := s.update(func(tx *bolt.Tx) error {
			b := tx.Bucket([]byte(bucketBlocks))
			b.FillPercent = 1
			for _, x := range chunk {
				if err := putPieces(b, x.first, x.block); err != nil {
					return err
				}
			}
			return nil
		})
		chunk, size = chunk[:0], 0
		return err
	}
	for b, e := range blocks {
		if err = e; err != nil {
			break
		}
		h, e := parseHeader(b.block)
		if err = e; err != nil {
			break
		}
		m.next = max(m.next, h.first+h.span)
		chunk = append(chunk, found{first: h.first, block: bytes.Clone(b.block)})
		if size += len(b.block); size >= chunkBytes {
			if err = flush(); err != nil {
				break
			}
		}
	}
	if err == nil {
		err = flush()
	}
	if err == nil {
		_, err = s.update(func(tx *bolt.Tx) error { return putNext(tx.Bucket([]byte(bucketMeta)), m.next) })
	}
	if err == nil {
		err = s.db.Sync()
	}
	if err != nil {
		_ = s.close()
		_ = os.Remove(filepath.Join(dir, newName))
		return nil, wrapSpace(fmt.Sprintf("build segment %s", s.path), err)
	}
	return s, s.close()
}

// putAside keeps a damaged segment under a name that tells so, and leaves the
// file in place too where the file system can: what is renamed over it then
// leaves no moment without it.
func putAside(path string) (kept string, err error) {
	kept = path + ".bad"
	for i := 2; i < 1<<16; i++ {
		if _, err := os.Lstat(kept); isGone(err) {
			break
		}
		kept = path + ".bad." + strconv.Itoa(i)
	}
	if err := os.Link(path, kept); err != nil {
		if err := os.Rename(path, kept); err != nil {
			return "", err
		}
	}
	return kept, syncDir(filepath.Dir(path))
}
