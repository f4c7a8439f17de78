package buffer

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
)

// platter is what a disk holds at one point of a tape.
type platter struct {
	durable map[int][]byte      // content of files at their last sync
	pending []diskOp            // writes and truncates since, in order
	names   map[string]int      // durable names; 0 = a directory
	moves   []diskOp            // changes of names since the last sync of their directory, in order
	handed  [2]uint64           // per lane: records below this were handed over
	acked   [2]uint64           // and acknowledged
	freed   map[string][]uint64 // per cursor and lane: released at most below this
}

// play takes one entry of the tape.
func (d *platter) play(op diskOp) {
	switch op.kind {
	case opWrite, opTruncate:
		d.pending = append(d.pending, op)
	case opSync:
		d.pending = slices.DeleteFunc(d.pending, func(w diskOp) bool {
			if w.id == op.id {
				d.durable[w.id] = apply(d.durable[w.id], w)
			}
			return w.id == op.id
		})
	case opMkdir, opCreate, opRename, opUnlink:
		d.moves = append(d.moves, op)
	case opSyncDir:
		d.moves = slices.DeleteFunc(d.moves, func(m diskOp) bool {
			if filepath.Dir(m.path) == op.path {
				renameIn(d.names, m)
			}
			return filepath.Dir(m.path) == op.path
		})
	case opAppend:
		d.handed[op.lane] = op.seq
	case opAck:
		d.acked[op.lane] = op.seq
	case opRelease:
		if d.freed[op.cursor] == nil {
			d.freed[op.cursor] = []uint64{firstSeq, firstSeq}
		}
		d.freed[op.cursor][op.lane] = op.seq
	}
}

// apply does a write or truncate to a file's content.
func apply(p []byte, op diskOp) []byte {
	need := int(op.off) + len(op.data)
	if need > len(p) {
		p = append(p, make([]byte, need-len(p))...)
	}
	if op.kind == opTruncate {
		return p[:op.off]
	}
	copy(p[op.off:], op.data)
	return p
}

// renameIn does a change of names.
func renameIn(names map[string]int, op diskOp) {
	switch op.kind {
	case opUnlink:
		delete(names, op.path)
	case opRename:
		if _, ok := names[op.path]; ok {
			delete(names, op.path)
			names[op.to] = op.id
		}
	default:
		names[op.path] = op.id
	}
}

// The ways in which a power cut treats what was not synced.
const (
	cutNothing   = iota // none of it arrived
	cutAll              // all of it arrived
	cutSectors          // some sectors and some names, in any order
	cutPrefix           // a beginning, the last write torn
	cutDataOnly         // all writes, no names
	cutNamesOnly        // all names, no writes
	cutModes
)

// cut makes a state in dir that a power cut at this point can leave.
func (d *platter) cut(t testing.TB, dir string, mode int, r *rand.Rand) {
	t.Helper()
	files, names := map[int][]byte{}, map[string]int{}
	for id, p := range d.durable {
		files[id] = slices.Clone(p)
	}
	for n, id := range d.names {
		names[n] = id
	}
	stop := r.IntN(len(d.pending) + 1)
	for i, w := range d.pending {
		switch {
		case mode == cutAll || mode == cutDataOnly || mode == cutPrefix && i < stop:
			files[w.id] = apply(files[w.id], w)
		case mode == cutPrefix && i == stop:
			w.data = w.data[:r.IntN(len(w.data)/512+1)*512]
			files[w.id] = apply(files[w.id], w)
		case mode == cutSectors:
			files[w.id] = scatter(files[w.id], w, r)
		}
	}
	stop = r.IntN(len(d.moves) + 1)
	for i, m := range d.moves {
		if mode == cutAll || mode == cutNamesOnly || mode == cutPrefix && i < stop || mode == cutSectors && r.IntN(2) == 0 {
			renameIn(names, m)
		}
	}
	for name, id := range names {
		path := filepath.Join(dir, name)
		if id == 0 {
			must(t, os.MkdirAll(path, 0o700))
			continue
		}
		if _, ok := names[filepath.Dir(name)]; ok { // else the directory is gone with all that is in it
			must(t, os.MkdirAll(filepath.Dir(path), 0o700))
			must(t, os.WriteFile(path, files[id], 0o600))
		}
	}
}

// scatter does some sectors of a write.
func scatter(p []byte, w diskOp, r *rand.Rand) []byte {
	if w.kind == opTruncate {
		if r.IntN(2) == 0 {
			p = apply(p, w)
		}
		return p
	}
	for at := 0; at < len(w.data); at += 512 {
		if r.IntN(2) == 0 {
			part := w
			part.off, part.data = w.off+int64(at), w.data[at:min(at+512, len(w.data))]
			p = apply(p, part)
		}
	}
	return p
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// check opens a state: every record that was acknowledged and not released is
// read, nothing else than was appended is, no loss is made up, no cursor is
// ahead of what was released, and the queue goes on under new seqs.
func (d *platter) check(t testing.TB, o Options) {
	t.Helper()
	l, err := Open(o)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	defer mustClose(t, l)
	if q := l.Stats().Quarantined; q != 0 {
		t.Fatalf("%d segments set aside", q)
	}
	for _, name := range []string{"fast", "slow"} {
		c := mustCursor(t, l, name)
		for lane := range 2 {
			at := c.Stats()[lane].Next
			if freed := d.freed[name]; at > firstSeq && (freed == nil || at > freed[lane]) {
				t.Fatalf("lane %d: cursor %s at %d, released %v", lane, name, at, freed)
			}
			r := follow(t, c, lane, laneRecord)
			if len(r.losses) > 0 || r.end < d.acked[lane] || r.end > max(d.handed[lane], firstSeq) {
				t.Fatalf("lane %d: cursor %s read %d..%d, acknowledged %d, handed over %d, losses %+v",
					lane, name, r.from, r.end, d.acked[lane], d.handed[lane], r.losses)
			}
		}
		balanced(t, c)
	}
	for lane := range 2 {
		next := l.Stats().Lanes[lane].Next
		if next < d.acked[lane] {
			t.Fatalf("lane %d: seq %d is given twice", lane, next)
		}
		b := &Batch{}
		b.Add(record(^next, 30))
		if err := appendWait(l, lane, b); err != nil {
			t.Fatalf("append: %v", err)
		}
		r := follow(t, mustCursor(t, l, "slow"), lane, func(lane int, seq uint64) []byte {
			if seq == next {
				return record(^next, 30)
			}
			return laneRecord(lane, seq)
		})
		if r.end != next+1 || len(r.losses) > 0 {
			t.Fatalf("lane %d: read up to %d after appending %d, losses %+v", lane, r.end, next, r.losses)
		}
	}
}

// work runs a queue on a tape: two lanes that fill several segments and are
// drained, with pages used again while a lane is short, and restarts.
type work struct {
	t    *testing.T
	tape *tape
	o    Options
	l    *Log
	r    *rand.Rand
	next [2]uint64
	cur  map[string]*Cursor
}

func (w *work) open() {
	var l *Log
	l, err := open(w.o, func(op, path string) error {
		w.tape.fault(l, op, path)
		return nil
	})
	must(w.t, err)
	w.l = l
	w.cur = map[string]*Cursor{"fast": mustCursor(w.t, l, "fast"), "slow": mustCursor(w.t, l, "slow")}
}

// append appends a few batches at once and waits for them.
func (w *work) append(lane int) {
	n := 1 + w.r.IntN(3)
	done := make(chan error, n)
	for range n {
		b := &Batch{}
		for range 1 + w.r.IntN(60) {
			b.Add(laneRecord(lane, w.next[lane]))
			w.next[lane]++
		}
		end := w.next[lane]
		w.tape.note(diskOp{kind: opAppend, lane: lane, seq: end})
		w.l.Append(lane, b, func(err error) {
			if err == nil {
				w.tape.note(diskOp{kind: opAck, lane: lane, seq: end})
			}
			done <- err
		})
	}
	for range n {
		must(w.t, <-done)
	}
}

// release reads a lane and releases a part of it or all.
func (w *work) release(name string, lane int, all bool) {
	c := w.cur[name]
	r := follow(w.t, c, lane, laneRecord)
	if r.end == r.from {
		return
	}
	to := r.end
	if !all {
		to = r.from + w.r.Uint64N(r.end-r.from+1)
	}
	w.tape.note(diskOp{kind: opRelease, lane: lane, cursor: name, seq: to})
	c.Release(lane, to, Released{Sent: to - r.from})
	if w.r.IntN(4) == 0 {
		mustSync(w.t, c)
	}
}

func (w *work) run(steps int) {
	w.open()
	for i := range steps {
		short := i/20%2 == 1 // phases: a backlog grows; everything is sent at once
		w.append(w.r.IntN(4) / 3)
		for _, name := range []string{"fast", "slow"} {
			for lane := range 2 {
				if short || w.r.IntN(12) == 0 {
					w.release(name, lane, short)
				}
			}
		}
		if i%57 == 56 {
			mustClose(w.t, w.l)
			w.open()
		}
	}
	mustClose(w.t, w.l)
	w.tape.note(diskOp{kind: opAppend, seq: w.next[0]})
}

// TestPowerCut records a queue at work and builds from the record states that
// a power cut can leave: everything up to the last sync of each file and
// directory, and of what came later nothing, all, or some sectors and names in
// any order. WAYSTATION_POWERCUTS sets how many for each variant.
func TestPowerCut(t *testing.T) {
	for i, v := range variants() {
		t.Run(v.name, func(t *testing.T) {
			n := 40
			if i == 0 {
				n = 240
			}
			cutPower(t, v, times(t, "WAYSTATION_POWERCUTS", n))
		})
	}
}

func cutPower(t *testing.T, v variant, states int) {
	base := fastDir(t)
	o := small(filepath.Join(base, "run", "q"))
	o.Compression = Zstd
	v.set(&o)
	must(t, os.MkdirAll(o.Dir, 0o700)) // what is made in a directory before it is watched is not seen
	w := &work{t: t, tape: newTape(t, filepath.Join(base, "run"), "q"), o: o, r: rand.New(rand.NewPCG(1, 2)), next: [2]uint64{firstSeq, firstSeq}}
	w.run(min(max(states/5, 120), 400))
	ops := w.tape.ops
	count := map[opKind]int{}
	for _, op := range ops {
		count[op.kind]++
	}
	if count[opUnlink] < 3 || count[opRename] < 4 || count[opWrite] < 300 {
		t.Fatalf("the tape has too little on it: %v", count)
	}
	d := &platter{durable: map[int][]byte{}, names: map[string]int{".": 0, "q": 0}, freed: map[string][]uint64{}}
	at, began := 0, time.Now()
	for i := range states {
		for to := (i + 1) * len(ops) / states; at < to; at++ {
			d.play(ops[at])
		}
		mode := i % cutModes
		dir := fmt.Sprintf("%s/%d", base, i)
		d.cut(t, dir, mode, w.r)
		o.Dir = filepath.Join(dir, "q")
		t.Run("", func(t *testing.T) {
			defer func() {
				if t.Failed() {
					t.Logf("state %d: after %d of %d operations, mode %d", i, at, len(ops), mode)
				}
			}()
			d.check(t, o)
		})
		if t.Failed() {
			return
		}
		must(t, os.RemoveAll(dir))
	}
	t.Logf("%d states of %d operations in %v", states, len(ops), time.Since(began).Round(time.Millisecond))
}

// TestBboltSyncs holds what the tape takes for granted of bbolt: it syncs the
// data pages before it writes the meta page, and the meta page before Update
// returns. From the write in question on the DB has a pipe in the place of its
// file, which cannot be synced.
func TestBboltSyncs(t *testing.T) {
	for _, meta := range []bool{false, true} {
		db, err := bolt.Open(filepath.Join(fastDir(t), "x"), 0o600, boltOptions(64<<10, false))
		must(t, err)
		file := boltField[*os.File](db, "file")
		write := boltField[func([]byte, int64) (int, error)](db, "ops", "writeAt")
		own, real, wrote := *file, *write, false
		pipe, other, err := os.Pipe()
		must(t, err)
		*write = func(p []byte, off int64) (int, error) {
			isMeta := off < 2*pageBytes
			wrote = wrote || isMeta
			if isMeta == meta {
				*file = pipe
			}
			return real(p, off)
		}
		err = db.Update(func(tx *bolt.Tx) error {
			_, err := tx.CreateBucket([]byte("b"))
			return err
		})
		*file = own
		if err != syscall.EINVAL || wrote != meta {
			t.Errorf("sync of the meta page %v: update says %v, meta page written %v", meta, err, wrote)
		}
		_, _ = pipe.Close(), other.Close()
		must(t, db.Close())
	}
}
