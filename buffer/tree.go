package buffer

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"os"
)

// bbolt's file format, as far as checkTree reads it. Integers have the
// machine's byte order.
const (
	pageHeader  = 16 // id u64, flags u16, count u16, overflow u32
	pageBranch  = 1
	pageLeaf    = 2
	elementSize = 16         // branch: pos, ksize u32, page u64; leaf: flags, pos, ksize, vsize u32
	metaMagic   = 0xED0CDAED // of a meta page, after its header
	maxDepth    = 12         // a segment's tree has no more than four levels
)

// tree walks the branch pages of a closed file.
type tree struct {
	f     *os.File
	pages uint64          // how many the file has
	seen  map[uint64]bool // branch pages, and the root of each bucket
}

// checkTree follows the branch pages of a closed segment, a few dozen, and
// reports a page that is referred to twice or is not what it is referred to
// as. bbolt follows such references until the stack overflows, which ends the
// process and cannot be recovered from. Leaf pages are not read: what is wrong
// in them the checksums of the blocks show.
func checkTree(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	t := tree{f: f, pages: uint64(st.Size()) / pageBytes, seen: map[uint64]bool{}}
	root, err := t.root()
	if err != nil {
		return err
	}
	buckets, err := t.walk(root, true)
	if err != nil {
		return err
	}
	for _, b := range buckets {
		if _, err := t.walk(b, false); err != nil {
			return err
		}
	}
	return nil
}

// root returns the root page of the newer valid meta page.
func (t *tree) root() (root uint64, err error) {
	ne := binary.NativeEndian
	var newest uint64
	found := false
	for id := range uint64(2) {
		p, err := t.page(id)
		if err != nil || !validMeta(p, id) {
			continue
		}
		if txid := ne.Uint64(p[64:]); !found || txid > newest {
			root, newest, found = ne.Uint64(p[32:]), txid, true
		}
	}
	if !found {
		return 0, fmt.Errorf("%w: no valid meta page", errDamaged)
	}
	return root, nil
}

// hasTornMeta reports whether one of a file's two meta pages is not valid.
// bbolt then uses the other without a word: when the damaged one is the newer,
// the last commit has vanished.
func hasTornMeta(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return true
	}
	defer f.Close()
	t := tree{f: f}
	var txid [2]uint64
	for id := range uint64(2) {
		p, err := t.page(id)
		if err != nil || !validMeta(p, id) {
			return true
		}
		txid[id] = binary.NativeEndian.Uint64(p[64:])
	}
	return max(txid[0], txid[1])-min(txid[0], txid[1]) != 1 // each commit writes the other one
}

func validMeta(p []byte, id uint64) bool {
	ne := binary.NativeEndian
	h := fnv.New64a()
	_, _ = h.Write(p[16:72])
	return ne.Uint64(p) == id && ne.Uint64(p[64:])%2 == id && ne.Uint32(p[16:]) == metaMagic && ne.Uint32(p[24:]) == pageBytes && h.Sum64() == ne.Uint64(p[72:])
}

// page reads one page.
func (t *tree) page(id uint64) ([]byte, error) {
	p := make([]byte, pageBytes)
	if _, err := t.f.ReadAt(p, int64(id)*pageBytes); err != nil {
		return nil, fmt.Errorf("%w: page %d: %w", errDamaged, id, err)
	}
	return p, nil
}

// walk checks the tree below a page level by level. All leaves of a bbolt tree
// are on one level: only the first page of each is read to know which it is.
// With leaves set it returns the roots of the buckets in them.
func (t *tree) walk(root uint64, leaves bool) (buckets []uint64, err error) {
	level := []uint64{root}
	for range maxDepth {
		var below []uint64
		for i, id := range level {
			if id < 2 || id >= t.pages || t.seen[id] {
				return nil, fmt.Errorf("%w: page %d is referred to twice or is not there", errDamaged, id)
			}
			p, err := t.page(id)
			if err != nil {
				return nil, err
			}
			ne := binary.NativeEndian
			flags, count := ne.Uint16(p[8:]), int(ne.Uint16(p[10:]))
			if ne.Uint64(p) != id || flags != pageBranch && flags != pageLeaf {
				return nil, fmt.Errorf("%w: page %d is another", errDamaged, id)
			}
			if flags == pageLeaf && i == 0 && !leaves {
				return nil, t.unseen(level)
			}
			if leaves && flags == pageLeaf {
				buckets = append(buckets, bucketRoots(p, count)...)
				continue
			}
			t.seen[id] = true
			if flags == pageLeaf {
				return nil, fmt.Errorf("%w: page %d is a leaf among branches", errDamaged, id)
			}
			for e := range min(count, (pageBytes-pageHeader)/elementSize) {
				below = append(below, ne.Uint64(p[pageHeader+e*elementSize+8:]))
			}
		}
		if len(below) == 0 {
			return buckets, nil
		}
		level = below
	}
	return nil, fmt.Errorf("%w: pages nested too deep", errDamaged)
}

// unseen checks that none of the leaves is a branch page that was walked.
func (t *tree) unseen(leaves []uint64) error {
	for _, id := range leaves {
		if id < 2 || id >= t.pages || t.seen[id] {
			return fmt.Errorf("%w: page %d is referred to twice or is not there", errDamaged, id)
		}
	}
	return nil
}

// bucketRoots returns the root pages of the buckets in a leaf; 0 is a bucket
// kept inside the leaf.
func bucketRoots(p []byte, count int) (roots []uint64) {
	ne := binary.NativeEndian
	for e := range min(count, (pageBytes-pageHeader)/elementSize) {
		at := pageHeader + e*elementSize
		flags, pos, ksize := ne.Uint32(p[at:]), uint64(ne.Uint32(p[at+4:])), uint64(ne.Uint32(p[at+8:]))
		if v := uint64(at) + pos + ksize; flags == 1 && v+8 <= uint64(len(p)) {
			if root := ne.Uint64(p[v:]); root != 0 {
				roots = append(roots, root)
			}
		}
	}
	return roots
}
