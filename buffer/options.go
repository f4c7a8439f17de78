package buffer

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"time"
)

// Limits that hold for every queue.
const (
	// MaxRecordBytes is the largest record that can be appended. A block has at
	// most 65,536 pieces of pieceBytes, which is 30 MiB.
	MaxRecordBytes = 28 << 20
	// MinBytes is the smallest budget that leaves room for a few segments per lane.
	MinBytes = 4 << 20
	// maxSegmentBytes bounds a segment so that its map fits a 32-bit address space.
	maxSegmentBytes = 128 << 20
	minSegmentBytes = 64 << 10
)

// Errors a caller decides by.
var (
	// ErrClosed is returned after Close.
	ErrClosed = errors.New("queue is closed")
	// ErrFull says that the disk has no space left, or that the budget cannot be met.
	ErrFull = errors.New("no space for the queue")
	// ErrReadOnly says that the file system is mounted read-only.
	ErrReadOnly = errors.New("file system is read-only")
	// ErrRecordTooLarge says that a record exceeds MaxRecordBytes.
	ErrRecordTooLarge = errors.New("record too large for the queue")
	// ErrInUse says that another process has the directory open.
	ErrInUse = errors.New("queue is in use by another process")
	// ErrNewerFormat says that a newer version wrote the queue; nothing was touched.
	ErrNewerFormat = errors.New("queue was written by a newer version")
)

// Compression selects how blocks are compressed.
type Compression string

// The compressions.
const (
	Zstd Compression = "zstd" // smallest; about 0.5 µs per record of JSON telemetry
	S2   Compression = "s2"   // faster, about half the ratio
	None Compression = "none"
)

// Policy says what makes room when a budget is reached.
type Policy string

// The policies.
const (
	LowestLane Policy = "lowest-lane" // the oldest segment of the lowest lane that has one to give
	Oldest     Policy = "oldest"      // the segment, of any lane, whose last record is oldest
	Reject     Policy = "reject"      // nothing: appending fails with ErrFull until there is room
	Thin       Policy = "thin"        // the oldest segments keep a part of their records over their whole span; then as LowestLane
)

// LaneOptions are the options of one lane.
type LaneOptions struct {
	Name     string
	MaxBytes int64         // budget for the lane's files, bytes; 0 = that of the queue alone
	Policy   Policy        // when the lane's own budget is reached; "" = the queue's, LowestLane meaning its own oldest
	MaxDelay time.Duration // how long a batch that nobody waits for (Batch.Lazy) may wait for its commit; 0 = not at all
}

// NamedLanes returns lanes with default options.
func NamedLanes(names ...string) []LaneOptions {
	out := make([]LaneOptions, len(names))
	for i, n := range names {
		out[i].Name = n
	}
	return out
}

// Retention says how long segments are kept after every cursor has released
// them: until the last record is older than For, or they take more than Bytes.
// A limit of zero does not bind; both zero keep nothing. The budget of the
// queue takes them before anything that was not delivered.
type Retention struct {
	For   time.Duration
	Bytes int64
}

// Key is a key of encryption at rest, AES-256.
type Key [32]byte

// Thinner picks which records of one segment stay when the queue is thinned.
type Thinner interface {
	// Observe is called for every record of the segment in order; i counts from 0.
	// rec is valid only during the call.
	Observe(i int, rec []byte)
	// Keep is called once after that and tells for each i whether it stays.
	Keep() []bool
}

// Options configure a Log.
type Options struct {
	Dir          string         // made when missing
	Lanes        []LaneOptions  // in the order of their numbers; the number is the priority
	MaxBytes     int64          // hard budget for all files of the queue, bytes; at least MinBytes
	Policy       Policy         // what goes when the budget is reached; "" = LowestLane
	HighWater    int            // percent of a budget above which Stats and the log warn; 0 = 80
	Thin         func() Thinner // makes what policy Thin asks; required by it
	Retain       Retention      // how long delivered segments are kept for replay; zero = not at all
	Keys         []Key          // the first encrypts, all decrypt; none = blocks are stored in plain
	Prefill      bool           // write zeros ahead of small commits, so that they overwrite instead of extend
	SegmentBytes int64          // size at which a new segment is begun; 0 = 16 MiB or an eighth of the budget
	Compression  Compression    // "" = zstd
	// CursorDelay is how long a release may wait for an append to carry it to
	// disk; 0 = one second. After a crash at most this much is sent again,
	// unless the reader calls Cursor.Sync.
	CursorDelay time.Duration
	Log         *slog.Logger     // nil = discard
	Now         func() time.Time // nil = time.Now; stamps blocks
}

// withDefaults returns o with defaults filled in, or what is wrong with it.
func (o Options) withDefaults() (Options, error) {
	if o.Dir == "" {
		return o, errors.New("open queue: no directory given")
	}
	if len(o.Lanes) == 0 || len(o.Lanes) > 16 {
		return o, fmt.Errorf("open queue %s: %d lanes: need 1 to 16", o.Dir, len(o.Lanes))
	}
	if o.MaxBytes < MinBytes {
		return o, fmt.Errorf("open queue %s: budget of %d bytes is too small: need at least %d", o.Dir, o.MaxBytes, MinBytes)
	}
	if o.Policy == "" {
		o.Policy = LowestLane
	}
	if o.HighWater == 0 {
		o.HighWater = 80
	}
	if err := o.checkPolicies(); err != nil {
		return o, fmt.Errorf("open queue %s: %w", o.Dir, err)
	}
	if o.SegmentBytes == 0 {
		o.SegmentBytes = 16 << 20
	}
	if least := int64(len(o.Lanes)) << 20; o.MaxBytes < least {
		return o, fmt.Errorf("open queue %s: budget of %d bytes is too small for %d lanes: need at least %d", o.Dir, o.MaxBytes, len(o.Lanes), least)
	}
	o.SegmentBytes = max(minSegmentBytes, min(o.SegmentBytes, maxSegmentBytes, o.MaxBytes/int64(4+2*len(o.Lanes))))
	for i, ln := range o.Lanes {
		if ln.MaxBytes > 0 {
			o.SegmentBytes = max(minSegmentBytes, min(o.SegmentBytes, ln.MaxBytes/6))
		}
		if !laneName(ln.Name) {
			return o, fmt.Errorf("open queue %s: lane name %q: use 1 to 32 of a-z 0-9 _ -", o.Dir, ln.Name)
		}
		if ln.MaxDelay < 0 {
			return o, fmt.Errorf("open queue %s: lane %s: delay of %v is below zero", o.Dir, ln.Name, ln.MaxDelay)
		}
		if slices.ContainsFunc(o.Lanes[:i], func(x LaneOptions) bool { return x.Name == ln.Name }) {
			return o, fmt.Errorf("open queue %s: two lanes are named %q", o.Dir, ln.Name)
		}
	}
	switch o.Compression {
	case "":
		o.Compression = Zstd
	case Zstd, S2, None:
	default:
		return o, fmt.Errorf("open queue %s: unknown compression %q: use zstd, s2 or none", o.Dir, o.Compression)
	}
	if o.CursorDelay == 0 {
		o.CursorDelay = time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return o, nil
}
