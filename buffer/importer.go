package buffer

import (
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"syscall"
)

// guestSegmentBytes is the stored size after which a guest's segment ends.
const guestSegmentBytes = 16 << 20

// Errors of an import that a caller decides by.
var (
	// ErrOwnArchive says that an archive is of the very queue it was to be imported into.
	ErrOwnArchive = errors.New("the archive is of this queue itself")
	// ErrNotContinuous says that an archive begins after what was imported of
	// its queue before, and that was not delivered yet.
	ErrNotContinuous = errors.New("the archive does not follow what was imported before")
)

// ImportOptions say what Import may do.
type ImportOptions struct {
	MaxBytes int64 // the queue may have no more afterwards; 0 = what the disk has
	DryRun   bool  // only check, and say what would be done
	Progress func(done, total int64)
}

// ImportReport says what became of one archive.
type ImportReport struct {
	Archive  string
	Manifest *Manifest
	Lanes    []ImportLane
}

// ImportLane says what became of one lane of it.
type ImportLane struct {
	Lane, Generation, Gateway string
	First, Next               uint64 // what was taken over; Next is First when all of it was there before
	Jumped                    uint64 // seqs left out between what was imported before, all delivered, and First
}

// Import takes archives over into a queue that no process has open: each of
// their lanes becomes a guest lane, which the gateway delivers with the
// gateway id, generation and seqs it came with. Every archive is checked whole
// before anything of it is installed. Importing what is there already changes
// nothing, and an import that was interrupted is completed by the next.
func Import(dir string, files []string, o ImportOptions) (reps []ImportReport, err error) {
	unlock, err := holdImport(dir, o.DryRun)
	if err != nil {
		return nil, fmt.Errorf("import: %w", err)
	}
	defer unlock()
	for _, f := range files {
		rep := ImportReport{Archive: f}
		if rep.Manifest, err = CheckArchive(f); err != nil {
			return nil, fmt.Errorf("import: %w", err)
		}
		reps = append(reps, rep)
	}
	slices.SortStableFunc(reps, func(a, b ImportReport) int { return a.Manifest.Made.Compare(b.Manifest.Made) })
	for i := range reps {
		x := &importer{dir: dir, o: o, rep: &reps[i]}
		if err := x.run(); err != nil {
			return reps[:i], fmt.Errorf("import %s: %w", reps[i].Archive, err)
		}
	}
	return reps, nil
}

// holdImport takes the lock of a queue, also of one that has no lane yet in a
// directory that is empty.
func holdImport(dir string, peek bool) (unlock func(), err error) {
	if _, err := Examine(dir, ExamineOptions{}); errors.Is(err, ErrNoQueue) {
		if entries, listErr := os.ReadDir(dir); listErr != nil || len(entries) > 0 {
			return nil, err
		}
	} else if err != nil {
		return nil, err
	}
	if peek {
		return func() {}, nil
	}
	lock, err := lockDir(dir)
	if err == nil && lock == nil {
		err = fmt.Errorf("%s: %w", dir, ErrReadOnly)
	}
	return func() { _ = lock.Close() }, err
}

// importer takes one archive over.
type importer struct {
	dir  string
	o    ImportOptions
	rep  *ImportReport
	jobs map[string]*importJob // by directory in the archive
	done int64
}

// importJob is what one lane of an archive needs.
type importJob struct {
	in    ArchiveLane
	dir   string // of the guest
	first uint64 // begins here
	old   *LaneState
	out   *ImportLane
}

// run checks whether the archive fits this queue, and installs it.
func (x *importer) run() error {
	m := x.rep.Manifest
	q := &Queue{}
	if have, err := Examine(x.dir, ExamineOptions{}); err == nil {
		q = have
	}
	x.jobs = map[string]*importJob{}
	x.rep.Lanes = make([]ImportLane, len(m.Lanes))
	guests := map[string]bool{}
	for _, ln := range q.Lanes {
		guests[ln.Dir] = ln.Guest
	}
	need := int64(0)
	for i, in := range m.Lanes {
		if in.Generation == q.Generation {
			return fmt.Errorf("%w: its records are here already; import it into the queue of another gateway", ErrOwnArchive)
		}
		x.rep.Lanes[i] = ImportLane{Lane: in.Lane, Generation: in.Generation, Gateway: in.Gateway, First: in.First, Next: in.Next}
		j := &importJob{in: in, first: in.First, out: &x.rep.Lanes[i]}
		g, _ := hex.DecodeString(in.Generation)
		j.dir = guestDir(in.Lane, Generation(g))
		guests[j.dir] = true
		for k := range q.Lanes {
			if q.Lanes[k].Dir == j.dir {
				j.old = &q.Lanes[k]
			}
		}
		if err := j.follow(); err != nil {
			return err
		}
		if j.first < in.Next {
			x.jobs[in.Dir] = j
			need += in.Bytes + in.Bytes/8 + 256<<10
		}
	}
	n := 0
	for _, guest := range guests {
		if guest {
			n++
		}
	}
	if n > maxGuests {
		return fmt.Errorf("the queue would have %d lanes of other gateways, at most %d: "+
			"delete the directories of those that are delivered and of which no archive comes again (waystation queue status lists them)", n, maxGuests)
	}
	if err := x.room(q, need); err != nil || x.o.DryRun || len(x.jobs) == 0 {
		return err
	}
	return x.install()
}

// follow decides from where on a lane is taken over.
func (j *importJob) follow() error {
	if j.old == nil {
		return nil
	}
	old := j.old
	if old.Err != nil {
		return fmt.Errorf("lane %s in the queue: repair it first: %w", j.dir, old.Err)
	}
	if old.Next >= j.in.First {
		j.first = min(old.Next, j.in.Next)
		j.out.First = j.first
		return nil
	}
	waiting := old.Next - min(old.First, old.Next)
	if len(old.Cursors) > 0 {
		waiting = old.Next - min(old.Next, lowest(old.cursors()))
	}
	if waiting > 0 {
		return fmt.Errorf("%w: it begins with %s/%d, but of %s %d records up to %d wait here: start the gateway until they are delivered, or first import the archive in between",
			ErrNotContinuous, j.in.Lane, j.in.First, j.in.Gateway, waiting, old.Next-1)
	}
	j.out.Jumped = j.in.First - old.Next
	return nil
}

// room checks that there is space.
func (x *importer) room(q *Queue, need int64) error {
	if x.o.MaxBytes > 0 && q.Bytes+need > x.o.MaxBytes {
		return fmt.Errorf("%w: %d bytes are there, %d more come, and --max-bytes is %d: the gateway would evict records at once", ErrFull, q.Bytes, need, x.o.MaxBytes)
	}
	var fs syscall.Statfs_t
	if err := syscall.Statfs(x.dir, &fs); err != nil {
		return nil // the first write tells
	}
	if free := int64(fs.Bavail) * int64(fs.Bsize); need > free { //nolint:unconvert // the types differ by architecture
		return fmt.Errorf("%w: %d bytes are needed, %d are free on the disk of %s: make space", ErrFull, need, free, x.dir)
	}
	return nil
}

// install builds the guests' segments from the archive, oldest first, each
// complete before it has its name.
func (x *importer) install() error {
	f, err := os.Open(x.rep.Archive)
	if err != nil {
		return err
	}
	defer f.Close()
	total := int64(0)
	for _, ln := range x.rep.Manifest.Lanes {
		total += ln.Bytes
	}
	parts := func(yield func(archived, error) bool) {
		_, err := readArchive(newCoder(None), f, func(dir string, p ArchivePart, body []byte) error {
			if x.done += p.Bytes; x.o.Progress != nil {
				x.o.Progress(x.done, total)
			}
			if x.jobs[dir] != nil && !yield(archived{dir, p, body}, nil) {
				return errEnough
			}
			return nil
		})
		if err != nil && !errors.Is(err, errEnough) {
			yield(archived{}, err)
		}
	}
	next, stop := iter.Pull2(parts)
	defer stop()
	part, err, ok := next()
	for _, ln := range x.rep.Manifest.Lanes { // in the order of the parts
		j := x.jobs[ln.Dir]
		if j == nil {
			continue
		}
		b := &guestBuilder{j: j, path: filepath.Join(x.dir, j.dir)}
		b.pull = func() (archived, bool, error) {
			if err != nil || !ok || part.dir != ln.Dir {
				return archived{}, false, err
			}
			p := part
			part, err, ok = next()
			return p, true, nil
		}
		if err := b.build(); err != nil {
			return err
		}
	}
	return nil
}

// archived is a part of an archive.
type archived struct {
	dir  string
	part ArchivePart
	body []byte
}
