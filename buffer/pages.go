package buffer

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// pageTree is one committed state of a bbolt file, read without bbolt and
// without its lock, also while another process writes the file.
//
// bbolt copies on write: the commit after state T overwrites no page of T, the
// one after that may. So what was read is T if the newest meta page is still
// that of T afterwards. Otherwise it may be anything, and the reader takes a
// newer state and reads again: see blockReader.
type pageTree struct {
	f    io.ReaderAt
	txid uint64
	root uint64 // page of the root bucket
	size uint64 // pages in use
	torn bool   // one of the two meta pages is not valid, or they do not follow each other
	read int64  // bytes read
}

// newestTree returns the state of the newer valid meta page.
func newestTree(f io.ReaderAt) (*pageTree, error) {
	ne := binary.NativeEndian
	t := &pageTree{f: f}
	var txids [2]uint64
	valid := 0
	for id := range uint64(2) {
		p := make([]byte, pageBytes)
		if _, err := f.ReadAt(p, int64(id)*pageBytes); err != nil || !validMeta(p, id) {
			continue
		}
		valid++
		txids[id] = ne.Uint64(p[64:])
		if valid == 1 || txids[id] > t.txid {
			t.txid, t.root, t.size = txids[id], ne.Uint64(p[32:]), ne.Uint64(p[56:])
		}
	}
	if valid == 0 {
		return nil, fmt.Errorf("%w: no valid meta page", errDamaged)
	}
	t.torn = valid < 2 || max(txids[0], txids[1])-min(txids[0], txids[1]) != 1
	return t, nil
}

// maxOverflow is how many pages may follow the first of a node: one largest
// value with what may lie beside it.
const maxOverflow = 2 * MaxRecordBytes / pageBytes

// node reads the page of a node, with all that overflow into it if whole.
func (t *pageTree) node(id uint64, whole bool) ([]byte, error) {
	if id < 2 || id >= t.size || id > 1<<40 {
		return nil, fmt.Errorf("%w: page %d is not there", errDamaged, id)
	}
	p := make([]byte, pageBytes)
	if err := t.fill(p, id); err != nil {
		return nil, err
	}
	if binary.NativeEndian.Uint64(p) != id {
		return nil, fmt.Errorf("%w: page %d is another", errDamaged, id)
	}
	n := uint64(binary.NativeEndian.Uint32(p[12:]))
	if n == 0 || !whole {
		return p, nil
	}
	if n > maxOverflow || id+n >= t.size {
		return nil, fmt.Errorf("%w: page %d overflows into %d pages", errDamaged, id, n)
	}
	p = append(p, make([]byte, n*pageBytes)...)
	return p, t.fill(p[pageBytes:], id+1)
}

func (t *pageTree) fill(p []byte, id uint64) error {
	n, err := t.f.ReadAt(p, int64(id)*pageBytes)
	t.read += int64(n)
	if err != nil && n < len(p) {
		return fmt.Errorf("%w: page %d: %w", errDamaged, id, err)
	}
	return nil
}

// node is one page of a tree on the way to a key.
type node struct {
	p         []byte
	leaf      bool
	count, at int
	low, high []byte // keys are >= low and < high; nil = no bound
}

// errNoBucket says that a file has no bucket of that name.
var errNoBucket = errors.New("no such bucket")

// parseNode checks that p is a page whose keys ascend within its bounds.
func parseNode(p []byte, low, high []byte) (node, error) {
	n := node{p: p, low: low, high: high}
	if len(p) < pageHeader {
		return n, fmt.Errorf("%w: page cut short", errDamaged)
	}
	flags := binary.NativeEndian.Uint16(p[8:])
	n.count = int(binary.NativeEndian.Uint16(p[10:]))
	if flags != pageLeaf && flags != pageBranch || pageHeader+n.count*elementSize > len(p) || flags == pageBranch && n.count == 0 {
		return n, fmt.Errorf("%w: not a page of a tree", errDamaged)
	}
	n.leaf = flags == pageLeaf
	for i := range n.count {
		k, ok := n.key(i)
		if !ok || i == 0 && low != nil && bytes.Compare(k, low) < 0 || high != nil && bytes.Compare(k, high) >= 0 {
			return n, fmt.Errorf("%w: key out of bounds", errDamaged)
		}
		if i > 0 {
			if before, _ := n.key(i - 1); bytes.Compare(before, k) >= 0 {
				return n, fmt.Errorf("%w: keys do not ascend", errDamaged)
			}
		}
	}
	return n, nil
}

// key returns the key of an element.
func (n *node) key(i int) ([]byte, bool) {
	at := pageHeader + i*elementSize
	ne := binary.NativeEndian
	pos, size := uint64(ne.Uint32(n.p[at:])), uint64(ne.Uint32(n.p[at+4:]))
	if n.leaf {
		pos, size = uint64(ne.Uint32(n.p[at+4:])), uint64(ne.Uint32(n.p[at+8:]))
	}
	from := uint64(at) + pos
	if from+size > uint64(len(n.p)) {
		return nil, false
	}
	return n.p[from : from+size], true
}

// child returns the page below an element of a branch.
func (n *node) child(i int) uint64 {
	return binary.NativeEndian.Uint64(n.p[pageHeader+i*elementSize+8:])
}

// value returns the flags, the value and the size of the value of an element
// of a leaf. The value is nil when it lies outside of what was read.
func (n *node) value(i int) (flags uint32, v []byte, size uint64) {
	at := pageHeader + i*elementSize
	ne := binary.NativeEndian
	size = uint64(ne.Uint32(n.p[at+12:]))
	from := uint64(at) + uint64(ne.Uint32(n.p[at+4:])) + uint64(ne.Uint32(n.p[at+8:]))
	if from+size <= uint64(len(n.p)) {
		v = n.p[from : from+size : from+size]
	}
	return ne.Uint32(n.p[at:]), v, size
}

// walker goes through one bucket of a state in the order of the keys. After an
// error it goes on behind what could not be read.
type walker struct {
	t     *pageTree
	root  uint64 // page; 0 = the bucket lies in inline
	small []byte // the page of a bucket kept inside the root bucket
	heads bool   // read only the first page of a node: for keys and sizes
	path  []node
}

// bucket returns a walker of the bucket of that name, before its first key.
func (t *pageTree) bucket(name string) (*walker, error) {
	w := &walker{t: t, root: t.root}
	for {
		k, v, err := w.nextItem(1)
		switch {
		case err != nil:
			return nil, err
		case k == nil:
			return nil, fmt.Errorf("%w: %w %q", errDamaged, errNoBucket, name)
		case string(k) != name:
			continue
		case len(v) < 16:
			return nil, fmt.Errorf("%w: bucket %q cut short", errDamaged, name)
		}
		b := &walker{t: t, root: binary.NativeEndian.Uint64(v)}
		if b.root == 0 {
			b.small = v[16:]
		}
		return b, nil
	}
}

// push reads a node and puts it on the path.
func (w *walker) push(id uint64, low, high []byte) error {
	if len(w.path) > maxDepth {
		return fmt.Errorf("%w: pages nested too deep", errDamaged)
	}
	p, err := w.small, error(nil)
	if id != 0 || w.small == nil {
		p, err = w.t.node(id, !w.heads)
	}
	if err != nil {
		return err
	}
	n, err := parseNode(p, low, high)
	if w.heads && n.leaf && binary.NativeEndian.Uint32(p[12:]) > 0 { // keys lie behind values that were not read
		err = nil
	}
	if err != nil {
		return fmt.Errorf("page %d: %w", id, err)
	}
	w.path = append(w.path, n)
	return nil
}

// below reads the child that the last node of the path stands at, and moves
// that node on.
func (w *walker) below() error {
	n := &w.path[len(w.path)-1]
	i := n.at
	n.at++
	low, _ := n.key(i)
	high := n.high
	if i+1 < n.count {
		high, _ = n.key(i + 1)
	}
	return w.push(n.child(i), low, high)
}

// seek moves before the first key that is not below key, or with last before
// the last of all.
func (w *walker) seek(key []byte, last bool) error {
	if w.path = w.path[:0]; w.path == nil {
		w.path = make([]node, 0, 4)
	}
	if err := w.push(w.root, nil, nil); err != nil {
		return err
	}
	for {
		n := &w.path[len(w.path)-1]
		n.at = 0
		for i := range n.count {
			k, _ := n.key(i)
			if c := bytes.Compare(k, key); !last && (c > 0 || c == 0 && n.leaf) {
				break
			}
			n.at = i
			if n.leaf && !last {
				n.at++
			}
		}
		if n.leaf {
			return nil
		}
		if err := w.below(); err != nil {
			return err
		}
	}
}

// before returns the key before the one the walker stands at, if it is in the
// same leaf.
func (w *walker) before() []byte {
	if len(w.path) == 0 {
		return nil
	}
	n := &w.path[len(w.path)-1]
	if !n.leaf || n.at == 0 || n.at > n.count {
		return nil
	}
	k, _ := n.key(n.at - 1)
	return k
}

// next returns the next key and value, a nil key at the end.
func (w *walker) next() (k, v []byte, err error) { return w.nextItem(0) }

// nextItem returns the next item with the given flags.
func (w *walker) nextItem(flags uint32) (k, v []byte, err error) {
	n, err := w.nextPlace()
	if n == nil || err != nil {
		return nil, nil, err
	}
	i := n.at
	n.at++
	got, v, _ := n.value(i)
	k, _ = n.key(i)
	if got != flags || v == nil {
		return nil, nil, fmt.Errorf("%w: item %x is not what it should be", errDamaged, k)
	}
	return k, v, nil
}

// nextPlace returns the leaf that holds the next item, standing at it, or nil
// at the end.
func (w *walker) nextPlace() (*node, error) {
	if w.path == nil {
		w.path = make([]node, 0, 4)
		if err := w.push(w.root, nil, nil); err != nil {
			return nil, err
		}
	}
	for len(w.path) > 0 {
		n := &w.path[len(w.path)-1]
		switch {
		case n.at >= n.count:
			w.path = w.path[:len(w.path)-1]
		case n.leaf:
			return n, nil
		default:
			if err := w.below(); err != nil {
				return nil, err
			}
		}
	}
	return nil, nil
}

// values reads all items of a bucket. It implements metaValues. Of what
// cannot be read err is the first cause.
type values struct {
	items map[string][]byte
	err   error
}

// maxMetaItems bounds the items of a meta bucket: cursors are few.
const maxMetaItems = 1 << 12

func (t *pageTree) values(name string) (*values, error) {
	w, err := t.bucket(name)
	if err != nil {
		return nil, err
	}
	out := &values{items: map[string][]byte{}}
	for len(out.items) < maxMetaItems {
		k, v, err := w.next()
		if err != nil {
			out.err = errors.Join(out.err, err)
			if len(w.path) == 0 {
				return out, nil
			}
			continue
		}
		if k == nil {
			return out, nil
		}
		out.items[string(k)] = v
	}
	return out, nil
}

// Get implements metaValues.
func (x *values) Get(key []byte) []byte { return x.items[string(key)] }

// ForEach implements metaValues.
func (x *values) ForEach(fn func(k, v []byte) error) error {
	for k, v := range x.items {
		if err := fn([]byte(k), v); err != nil {
			return err
		}
	}
	return nil
}
