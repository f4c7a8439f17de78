package buffer

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// ArchiveOptions say what an archive is to hold.
type ArchiveOptions struct {
	Gateway  string // id of the gateway whose queue it is
	Cursor   string // what this sink has not released; "" = what the slowest has not
	All      bool   // everything that is stored instead
	Release  bool   // afterwards mark it as released in this queue
	Keys     []Key
	Now      time.Time
	Progress func(done, total int64)
}

// ExportArchive writes what a queue holds to a new file that Import takes. The
// file has its name only when it is complete, synced and read back. It may run
// beside the gateway, unless Release is set. With nothing to export there are
// no lanes in the manifest and no file.
func ExportArchive(dir, file string, o ArchiveOptions) (*Manifest, error) {
	if !plainText(o.Gateway) || o.Gateway == "" {
		return nil, fmt.Errorf("export: gateway id %q: give the one of the configuration", o.Gateway)
	}
	if _, err := os.Lstat(file); err == nil {
		return nil, fmt.Errorf("export: %s exists: choose another name", file)
	}
	q, unlock, err := holdQueue(dir, o.Keys, !o.Release)
	if err != nil {
		return nil, fmt.Errorf("export: %w", err)
	}
	defer unlock()
	x := &exporter{q: q, o: o, m: &Manifest{Format: archiveFormat, Made: o.Now.UTC(), Gateway: o.Gateway, Generation: q.Generation, Cursor: o.Cursor, Everything: o.All}}
	if err := x.choose(); err != nil {
		return nil, fmt.Errorf("export: %w", err)
	}
	if len(x.bounds) == 0 {
		return x.m, nil
	}
	partial := file + ".partial"
	if err := x.write(partial); err != nil {
		_ = os.Remove(partial)
		return nil, wrapSpace("export to "+file, err)
	}
	if err := os.Rename(partial, file); err != nil {
		_ = os.Remove(partial)
		return nil, wrapSpace("export", err)
	}
	if err := syncDir(filepath.Dir(file)); err != nil {
		return nil, wrapSpace("export", err)
	}
	if o.Release {
		return x.m, x.release()
	}
	return x.m, nil
}

// CheckArchive reads a whole archive and returns its manifest.
func CheckArchive(file string) (*Manifest, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	m, err := readArchive(newCoder(None), f, func(string, ArchivePart, []byte) error { return nil })
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	return m, nil
}

type exporter struct {
	q      *Queue
	o      ArchiveOptions
	m      *Manifest
	bounds map[string][2]uint64 // per directory: from, up to
	total  int64
	done   int64

	tar  *tar.Writer
	ln   *LaneState
	out  *ArchiveLane
	part ArchivePart
	body []byte
	pos  uint64
	tail map[string]map[string]position // per directory and cursor: where release moves it
}

// errEnough ends the scan of a lane.
var errEnough = errors.New("enough")

// choose finds out from where each lane is exported.
func (x *exporter) choose() error {
	x.bounds, x.tail = map[string][2]uint64{}, map[string]map[string]position{}
	var names []string
	known := x.o.Cursor == ""
	for i := range x.q.Lanes {
		ln := &x.q.Lanes[i]
		if x.o.Release && ln.Err != nil {
			return fmt.Errorf("release lane %s: its newest segment cannot be read: repair it first: %w", ln.Dir, ln.Err)
		}
		if ln.Generation == "" {
			return fmt.Errorf("lane %s: its segments do not tell the generation of the queue: repair it first", ln.Dir)
		}
		if x.o.Release && len(ln.Cursors) == 0 && ln.First < ln.Next {
			return fmt.Errorf("release lane %s: no sink has a cursor in it: start the gateway once with its sinks, or export without releasing", ln.Dir)
		}
		from := ln.First
		if low := lowest(ln.cursors()); !x.o.All && x.o.Cursor == "" && low != noCursor {
			from = low
		}
		for _, c := range ln.Cursors {
			names = append(names, c.Name)
			if c.Name == x.o.Cursor && !x.o.All {
				from, known = c.Next, true
			}
		}
		if from < ln.Next {
			x.bounds[ln.Dir] = [2]uint64{from, ln.Next}
			for _, s := range ln.Segments {
				if !s.Aside && s.Next > from {
					x.total += s.Bytes
				}
			}
		}
	}
	if !known && len(x.q.Lanes) > 0 {
		slices.Sort(names)
		return fmt.Errorf("no sink %q has a cursor in this queue; those that have are %s", x.o.Cursor, strings.Join(slices.Compact(names), ", "))
	}
	return x.settle()
}

// settle makes durable what was found: a commit that just became visible may
// not be on the medium yet, and after a power cut its seqs would be given to
// other records.
func (x *exporter) settle() error {
	for _, ln := range x.q.Lanes {
		for _, s := range ln.Segments {
			if !s.Newest || !x.q.InUse {
				continue
			}
			f, err := os.Open(s.Path)
			if isGone(err) {
				continue
			}
			if err == nil {
				err = errors.Join(f.Sync(), f.Close())
			}
			if err != nil {
				return fmt.Errorf("sync %s: %w", s.Path, err)
			}
		}
	}
	return nil
}

// write writes the archive, syncs it and reads it back.
func (x *exporter) write(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	x.tar = tar.NewWriter(f)
	for i := range x.q.Lanes {
		if err = x.lane(&x.q.Lanes[i]); err != nil {
			break
		}
	}
	if err == nil {
		err = x.finish()
	}
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	back, err := CheckArchive(path)
	if err != nil {
		return fmt.Errorf("read back what was written: %w", err)
	}
	if len(back.Lanes) != len(x.m.Lanes) {
		return fmt.Errorf("read back what was written: %w", ErrArchive)
	}
	return nil
}

// lane writes the parts of a lane.
func (x *exporter) lane(ln *LaneState) error {
	b, ok := x.bounds[ln.Dir]
	if !ok {
		return nil
	}
	x.ln, x.pos, x.part, x.body = ln, b[0], ArchivePart{}, x.body[:0]
	x.out = &ArchiveLane{Dir: ln.Dir, Lane: ln.Name, Gateway: x.o.Gateway, Generation: ln.Generation, First: b[0], Parts: []ArchivePart{}}
	if ln.Guest {
		x.out.Gateway = ln.Origin
	}
	x.tail[ln.Dir] = map[string]position{}
	for name, p := range ln.cursors() {
		if p.next >= b[0] || x.o.All {
			x.tail[ln.Dir][name] = p
		}
	}
	o := ScanOptions{Lane: ln.Dir, bounds: x.bounds, read: func(n int64) {
		if x.done += n; x.o.Progress != nil {
			x.o.Progress(min(x.done, x.total), x.total)
		}
	}}
	err := x.q.Scan(o, x.run)
	if err == nil {
		err = x.gap(b[1], errMissing)
	}
	if err != nil && !errors.Is(err, errEnough) {
		return err
	}
	if err := x.flush(); err != nil {
		return err
	}
	if x.out.Next = x.pos; x.out.Next > x.out.First {
		x.m.Lanes = append(x.m.Lanes, *x.out)
	}
	return nil
}

// run takes one run of the scan.
func (x *exporter) run(r *Run) error {
	if errors.Is(r.Err, ErrNewerFormat) {
		return r.Err
	}
	if r.Err != nil {
		return x.gap(r.Next, r.Err)
	}
	if err := x.gap(r.First, errMissing); err != nil {
		return err
	}
	if x.part.Blocks == 0 {
		x.part.First, x.part.Name = r.First, fmt.Sprintf("%s/%016x%s", x.ln.Dir, r.First, partSuffix)
	}
	x.body = binary.BigEndian.AppendUint32(x.body, uint32(len(r.Stored)))
	x.body = append(x.body, r.Stored...)
	x.part.Blocks, x.part.Next, x.part.Records = x.part.Blocks+1, r.Next, x.part.Records+int64(r.Records)
	if x.out.From.IsZero() {
		x.out.From = r.When.UTC()
	}
	x.out.To = r.When.UTC()
	if id := r.KeyID(); r.Sealed {
		x.out.Sealed = true
		if !slices.Contains(x.out.Keys, id) {
			x.out.Keys = append(x.out.Keys, id)
		}
	}
	x.pos = r.Next
	x.count(r)
	if len(x.body) >= partBytes {
		return x.flush()
	}
	return nil
}

// gap notes that nothing holds the seqs up to end. When the gateway has
// delivered them since the export began they are no loss: the lane begins
// after them, or ends before them.
func (x *exporter) gap(end uint64, cause error) error {
	if end <= x.pos {
		return nil
	}
	if x.q.InUse && errors.Is(cause, errMissing) {
		if now, err := x.q.examineLane(x.ln.Dir); err == nil && lowest(now.cursors()) != noCursor && lowest(now.cursors()) >= end {
			if x.pos > x.out.First {
				return errEnough
			}
			x.pos, x.out.First = end, end
			return nil
		}
	}
	for x.pos < end {
		l := findLoss(x.ln.Losses, x.pos, end-1)
		if l.Reason == ReasonUnknown && !errors.Is(cause, errMissing) {
			l.Reason = ReasonDamaged
		}
		x.out.Losses = append(x.out.Losses, archiveLoss(l))
		for name, p := range x.tail[x.ln.Dir] {
			if p.next <= l.Last {
				p.lost += l.Last + 1 - max(p.next, l.First)
				p.next = l.Last + 1
				x.tail[x.ln.Dir][name] = p
			}
		}
		x.pos = l.Last + 1
	}
	return nil
}

// count moves the cursors over a run, as sent.
func (x *exporter) count(r *Run) {
	for name, p := range x.tail[x.ln.Dir] {
		if p.next >= r.Next {
			continue
		}
		seqs := r.Next - max(p.next, r.First)
		sent := seqs
		if r.Sparse {
			sent = 0
			if err := r.Each(func(seq uint64, _ []byte) error {
				if seq >= p.next {
					sent++
				}
				return nil
			}); err != nil { // encrypted, and no key was given
				sent = min(seqs, uint64(r.Records))
			}
		}
		p.sent, p.lost, p.next = p.sent+sent, p.lost+seqs-sent, r.Next
		x.tail[x.ln.Dir][name] = p
	}
}

// flush writes the part that was gathered.
func (x *exporter) flush() error {
	if x.part.Blocks == 0 {
		return nil
	}
	sum := sha256.Sum256(x.body)
	x.part.Bytes, x.part.SHA256 = int64(len(x.body)), hex.EncodeToString(sum[:])
	if err := x.file(x.part.Name, x.body); err != nil {
		return err
	}
	x.out.Parts = append(x.out.Parts, x.part)
	x.out.Records, x.out.Bytes = x.out.Records+x.part.Records, x.out.Bytes+x.part.Bytes
	x.part, x.body = ArchivePart{}, x.body[:0]
	return nil
}

// file writes one file of the archive.
func (x *exporter) file(name string, p []byte) error {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(p)), Mode: 0o600, ModTime: x.o.Now.Truncate(time.Second), Format: tar.FormatPAX}
	if err := x.tar.WriteHeader(h); err != nil {
		return err
	}
	_, err := x.tar.Write(p)
	return err
}

// finish writes the manifest.
func (x *exporter) finish() error {
	p, err := json.MarshalIndent(x.m, "", "  ")
	if err != nil {
		return err
	}
	sum := sha256.Sum256(p)
	return errors.Join(x.file(manifestName, p),
		x.file(manifestName+".sha256", []byte(hex.EncodeToString(sum[:])+"  "+manifestName+"\n")), x.tar.Close())
}

// release marks what was exported as released. In each lane a new segment
// carries the moved cursors, as when the gateway begins one; the old ones go
// when the gateway next starts.
func (x *exporter) release() error {
	for _, out := range x.m.Lanes {
		i := slices.IndexFunc(x.q.Lanes, func(ln LaneState) bool { return ln.Dir == out.Dir })
		ln := &x.q.Lanes[i]
		m := *ln.meta
		m.generation, m.first, m.next, m.thinned, m.cursors = ln.scope.generation, ln.Next, ln.Next, 0, map[string]position{}
		for name, p := range ln.cursors() {
			m.cursors[name] = p
		}
		for name, p := range x.tail[out.Dir] {
			m.cursors[name] = p
		}
		s, err := createSegment(ln.path, minSegmentBytes, &m)
		if err == nil {
			err = s.close()
		}
		if err != nil {
			return wrapSpace(fmt.Sprintf("release what was exported of lane %s (the archive is complete)", ln.Dir), err)
		}
	}
	return nil
}
