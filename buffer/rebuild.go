package buffer

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"maps"
	"os"
	"slices"
)

// apply does one job of a repair and reports it.
func (x *repairer) apply(j *repairJob) error {
	a := RepairAction{Lane: j.ln.Dir, File: j.path, Why: j.why, Missing: j.missing, Blocks: j.blocks + len(j.fill), Done: "nothing to do"}
	for _, b := range j.fill {
		a.Back = addRange(a.Back, SeqRange{max(b.first, j.first), b.end - 1})
	}
	switch {
	case j.m == nil && j.live == nil: // what was set aside is of no use
		a.File, a.Why = j.aside[0].Path, "nothing in it can be read that a cursor still waits for"
		a.Missing = j.missing
	case j.m == nil:
		a.File, a.Why, a.Missing = j.aside[0].Path, "the segment in use has all that can be read of it", j.missing
	case j.live == nil:
		a.Done, a.Why = "brought back", "set aside as damaged before"
	default:
		a.Done = "rebuilt"
		if a.Why == "" {
			a.Why = "blocks were found that it lacks"
		}
	}
	if x.o.DryRun {
		x.rep.Actions = append(x.rep.Actions, a)
		return nil
	}
	var err error
	if j.m != nil {
		a.Kept, err = x.rebuild(j)
	}
	if err == nil && x.o.Discard {
		err = x.discard(j, &a)
	}
	if err != nil {
		return err
	}
	x.rep.Actions = append(x.rep.Actions, a)
	return nil
}

// rebuild makes the segment anew and puts it in place.
func (x *repairer) rebuild(j *repairJob) (kept string, err error) {
	made, err := fillSegment(j.ln.path, j.m, x.blocksOf(j))
	if err != nil {
		return "", err
	}
	if j.live != nil {
		if kept, err = putAside(j.path); err != nil {
			return "", err
		}
	} else {
		kept = j.aside[0].Path
	}
	if err := made.install(j.ln.path); err != nil {
		return kept, wrapSpace("put the rebuilt segment in place", err)
	}
	return kept, nil
}

// blocksOf yields the whole blocks of the segment in use, and between them
// those found elsewhere.
func (x *repairer) blocksOf(j *repairJob) blockSeq {
	return func(yield func(found, error) bool) {
		fill := j.fill
		until := func(seq uint64) bool {
			for ; len(fill) > 0 && fill[0].first < seq; fill = fill[1:] {
				if !yield(fill[0], nil) {
					return false
				}
			}
			return true
		}
		if j.live != nil {
			if r, err := openBlocks(x.q.coder, j.live.Path, j.first, j.end); err == nil {
				defer r.close()
				for b, ok := r.next(); ok; b, ok = r.next() {
					if b.err == nil && (!until(b.first) || !yield(b, nil)) {
						return
					}
				}
			}
		}
		until(noCursor)
	}
}

// discard deletes the damaged originals of a job.
func (x *repairer) discard(j *repairJob, a *RepairAction) error {
	files := []string{}
	for _, s := range j.aside {
		files = append(files, s.Path)
	}
	if a.Kept != "" && !slices.Contains(files, a.Kept) {
		files = append(files, a.Kept)
	}
	for _, f := range files {
		if err := os.Remove(f); err != nil && !isGone(err) {
			return wrapSpace("delete the damaged original", err)
		}
	}
	if a.Kept = ""; a.Done == "nothing to do" {
		a.Done = "removed"
	}
	return syncDir(j.ln.path)
}

// addRange appends a run of seqs, joined with the last when it continues it.
func addRange(rs []SeqRange, r SeqRange) []SeqRange {
	if n := len(rs); n > 0 && rs[n-1].Last+1 == r.First {
		rs[n-1].Last = r.Last
		return rs
	}
	return append(rs, r)
}

// deepVersions bounds how many versions of a piece are kept.
const deepVersions = 4

// deepScan reads every page of a file, also those that no commit refers to any
// longer, and returns the whole blocks that they hold, by seq. Blocks of which
// two versions are whole are left out: one of them was never acknowledged. It
// holds what it finds in memory, at most the file.
func deepScan(k *coder, path string) (out []found, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	pieces := map[string][][]byte{}
	p := make([]byte, pageBytes)
	for at := int64(2 * pageBytes); ; at += pageBytes {
		if n, _ := f.ReadAt(p, at); n < len(p) {
			if st, err := f.Stat(); err != nil || at >= st.Size() {
				break
			}
			continue // a bad sector
		}
		if binary.NativeEndian.Uint16(p[8:]) == pageLeaf {
			deepPage(p, pieces)
		}
	}
	for key := range maps.Keys(pieces) {
		first, piece, _ := splitKey([]byte(key))
		if piece != 0 {
			continue
		}
		if b := deepBlock(k, first, pieces); b.block != nil {
			out = append(out, b)
		}
	}
	slices.SortFunc(out, func(a, b found) int { return cmp.Compare(a.first, b.first) })
	return out, nil
}

// deepPage takes what looks like pieces from a page.
func deepPage(p []byte, pieces map[string][][]byte) {
	n := node{p: p, leaf: true, count: int(binary.NativeEndian.Uint16(p[10:]))}
	for i := 0; i < n.count && pageHeader+(i+1)*elementSize <= len(p); i++ {
		key, ok := n.key(i)
		flags, v, _ := n.value(i)
		if !ok || flags != 0 || v == nil || len(key) != keyBytes || len(v) > pieceBytes {
			continue
		}
		had := pieces[string(key)]
		if len(had) < deepVersions && !slices.ContainsFunc(had, func(o []byte) bool { return bytes.Equal(o, v) }) {
			pieces[string(key)] = append(had, bytes.Clone(v))
		}
	}
}

// deepBlock puts a block together if just one version of it is whole.
func deepBlock(k *coder, first uint64, pieces map[string][][]byte) (b found) {
	for version := range deepVersions {
		var p []byte
		for i := range 1 << 16 {
			had := pieces[string(pieceKey(first, uint16(i)))]
			if len(had) == 0 {
				break
			}
			v := had[min(version, len(had)-1)]
			if p = append(p, v...); len(v) < pieceBytes || wholeBlock(p) {
				break
			}
		}
		h, err := parseHeader(p)
		if err != nil || h.first != first || h.span == 0 || h.span > maxSegmentRecords || k.check(p) != nil || bytes.Equal(p, b.block) {
			continue
		}
		if b.block != nil {
			return found{}
		}
		b = found{first: first, end: first + h.span, block: p}
	}
	return b
}

// wholeBlock reports whether p is as long as its header says.
func wholeBlock(p []byte) bool {
	h, err := parseHeader(p)
	return err == nil && len(p) >= h.body+h.bodyLen
}
