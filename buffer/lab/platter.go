package main

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
)

// platter is what a disk holds at one point of a record.
type platter struct {
	journal  bool           // the sync of a file makes all names durable, as on ext4
	durable  map[int][]byte // content of files at their last sync
	pending  []op           // writes and truncates since, in order
	names    map[string]int // durable names; 0 = a directory
	moves    []op           // changes of names since the last sync of their directory, in order
	handed   map[int]uint64 // by lane: records below this were handed over
	acked    map[int]uint64 // and acknowledged
	released map[string]map[int]uint64
}

func newPlatter(journal bool) *platter {
	return &platter{journal: journal, durable: map[int][]byte{}, names: map[string]int{".": 0}, handed: map[int]uint64{}, acked: map[int]uint64{},
		released: map[string]map[int]uint64{}}
}

// play takes one operation. Without a journal names are durable only when their
// directory was synced, the least that POSIX promises.
func (d *platter) play(o op) {
	switch o.kind {
	case opWrite, opTruncate:
		d.pending = append(d.pending, o)
	case opSync:
		d.pending = slices.DeleteFunc(d.pending, func(w op) bool {
			if w.id == o.id {
				d.durable[w.id] = apply(d.durable[w.id], w)
			}
			return w.id == o.id
		})
		if d.journal {
			d.settle(func(op) bool { return true })
		}
	case opSyncDir:
		d.settle(func(m op) bool { return d.journal || filepath.Dir(m.path) == o.path })
	case opHanded:
		d.handed[o.lane] = o.n
	case opAcked:
		d.acked[o.lane] = o.n
	case opReleased:
		if d.released[o.cursor] == nil {
			d.released[o.cursor] = map[int]uint64{}
		}
		d.released[o.cursor][o.lane] = o.n
	default:
		d.moves = append(d.moves, o)
	}
}

// settle makes changes of names durable.
func (d *platter) settle(which func(op) bool) {
	d.moves = slices.DeleteFunc(d.moves, func(m op) bool {
		if which(m) {
			move(d.names, m)
		}
		return which(m)
	})
}

// apply does a write or truncate to the content of a file.
func apply(p []byte, o op) []byte {
	if need := int(o.off) + len(o.data); need > len(p) {
		p = append(p, make([]byte, need-len(p))...)
	}
	if o.kind == opTruncate {
		return p[:o.off]
	}
	copy(p[o.off:], o.data)
	return p
}

// move does a change of names.
func move(names map[string]int, o op) {
	switch o.kind {
	case opUnlink:
		delete(names, o.path)
	case opRename:
		if _, ok := names[o.path]; ok {
			delete(names, o.path)
			names[o.to] = o.id
		}
	default:
		names[o.path] = o.id
	}
}

// The ways in which a power cut treats what was not synced.
const (
	cutNothing   = iota // none of it arrived
	cutAll              // all of it arrived
	cutSectors          // some sectors of 512 bytes and some names, in any order
	cutPrefix           // a beginning, the last write torn
	cutDataOnly         // all writes, no names
	cutNamesOnly        // all names, no writes
	cutModes
)

// cut makes in dir a state that a power cut at this point can leave.
func (d *platter) cut(dir string, mode int, r *rand.Rand) error {
	files := map[int][]byte{}
	for id, p := range d.durable {
		files[id] = slices.Clone(p)
	}
	stop := r.IntN(len(d.pending) + 1)
	for i, w := range d.pending {
		switch {
		case mode == cutAll, mode == cutDataOnly, mode == cutPrefix && i < stop:
			files[w.id] = apply(files[w.id], w)
		case mode == cutPrefix && i == stop && w.kind == opWrite:
			w.data = w.data[:r.IntN(len(w.data)/512+1)*512]
			files[w.id] = apply(files[w.id], w)
		case mode == cutSectors:
			files[w.id] = scatter(files[w.id], w, r)
		}
	}
	names := map[string]int{}
	for n, id := range d.names {
		names[n] = id
	}
	stop = r.IntN(len(d.moves) + 1)
	for i, m := range d.moves {
		if mode == cutAll || mode == cutNamesOnly || mode == cutPrefix && i < stop || mode == cutSectors && r.IntN(2) == 0 {
			move(names, m)
		}
	}
	var err error
	for name, id := range names {
		path := filepath.Join(dir, name)
		if id == 0 {
			err = errors.Join(err, os.MkdirAll(path, 0o700))
		} else if _, ok := names[filepath.Dir(name)]; ok { // else it is gone with its directory
			err = errors.Join(err, os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, files[id], 0o600))
		}
	}
	return err
}

// scatter does some sectors of a write.
func scatter(p []byte, w op, r *rand.Rand) []byte {
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
