package gateway

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/waystation-iot/waystation/buffer"
)

// Bounds of replays.
const (
	DefaultReplayRate = 500    // records per second
	MaxReplayRate     = 10_000 // records per second
	maxOpenReplays    = 16
	keepReplays       = 50 // in the list, with those that ended
	maxFilterBytes    = 512

	replayBatch    = 256 // records: what a live record may have to wait for
	replayBytes    = 256 << 10
	replayScanRate = 50_000 // records per second that are looked at and not sent
	replaySave     = 5 * time.Second
	replayTries    = 3           // of a batch, before live records go ahead of it
	replayPause    = time.Minute // after so many
	// replayLag is how much later than its receipt a record may have been
	// committed: while the disk took no writes, or nobody waited for the commit.
	replayLag = 10 * time.Minute
)

// Errors of replays.
var (
	// ErrReplayRequest says that what was asked for cannot be done.
	ErrReplayRequest = errors.New("no such replay is possible")
	// ErrNoReplay says that there is no replay of that id.
	ErrNoReplay = errors.New("no replay has this id")
)

// ReplayRequest asks to send stored records again: those that were received
// from From on and before To, and were sent to the sink before.
type ReplayRequest struct {
	From   time.Time `json:"from"`
	To     time.Time `json:"to"`
	Sink   string    `json:"sink"`             // "" = the only one
	Source string    `json:"source,omitempty"` // name, or a pattern with * and ?; "" = all
	Device string    `json:"device,omitempty"` // as Source
	Rate   int       `json:"rate,omitempty"`   // records per second at most; 0 = DefaultReplayRate
}

// check returns the request with defaults filled in, or what is wrong with it.
func (q ReplayRequest) check() (ReplayRequest, error) {
	fault := func(format string, args ...any) (ReplayRequest, error) {
		return q, fmt.Errorf("%w: %s", ErrReplayRequest, fmt.Sprintf(format, args...))
	}
	if q.Rate == 0 {
		q.Rate = DefaultReplayRate
	}
	switch {
	case q.From.IsZero() || q.To.IsZero():
		return fault("from and to must be given, as RFC 3339 times")
	case !storable(q.From) || !storable(q.To):
		return fault("from and to must lie between the years 1678 and 2261")
	case !q.From.Before(q.To):
		return fault("from (%s) must be before to (%s)", q.From.Format(time.RFC3339), q.To.Format(time.RFC3339))
	case q.Rate < 1 || q.Rate > MaxReplayRate:
		return fault("rate %d: use 1 to %d records per second", q.Rate, MaxReplayRate)
	case len(q.Source) > maxFilterBytes || len(q.Device) > maxFilterBytes || len(q.Sink) > maxFilterBytes:
		return fault("sink, source and device have at most %d bytes", maxFilterBytes)
	}
	return q, nil
}

// wants reports whether the request asks for r.
func (q *ReplayRequest) wants(r *Record) bool {
	return !r.Received.Before(q.From) && r.Received.Before(q.To) &&
		(q.Source == "" || like(q.Source, r.Source)) && (q.Device == "" || like(q.Device, r.Device))
}

// like reports whether s is what the pattern describes: * is any text, ? any
// one byte, all else itself.
func like(pattern, s string) bool {
	p, i, star, mark := 0, 0, -1, 0
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, i
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == s[i]):
			p, i = p+1, i+1
		case star >= 0:
			mark++
			p, i = star+1, mark
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}

// ReplayState is how far a replay is.
type ReplayState string

// The states of a replay.
const (
	ReplayWaiting   ReplayState = "waiting"   // for its turn: a sink has one replay at a time
	ReplayRunning   ReplayState = "running"   // it goes on after a restart
	ReplayDone      ReplayState = "done"      // all that was stored is sent
	ReplayCancelled ReplayState = "cancelled" // by a person
	ReplayFailed    ReplayState = "failed"    // Error says why
)

// Replay is one request and what became of it.
type Replay struct {
	ID string `json:"id"`
	ReplayRequest
	State   ReplayState  `json:"state"`
	Error   string       `json:"error,omitempty"` // why it failed, or why it does not go on at present
	Created time.Time    `json:"created"`
	Ended   *time.Time   `json:"ended,omitempty"`
	Sent    uint64       `json:"sent"`    // confirmed by the far side
	Refused uint64       `json:"refused"` // by the far side, for good; not kept as dead letters again
	Skipped uint64       `json:"skipped"` // looked at, and not what was asked for
	Gone    uint64       `json:"gone"`    // no longer stored
	Lanes   []ReplayLane `json:"lanes,omitempty"`
}

// ReplayLane is how far a replay is in one lane.
type ReplayLane struct {
	Lane       string `json:"lane"`
	Generation string `json:"generation"`
	First      uint64 `json:"first"` // seq it began at
	Next       uint64 `json:"next"`  // seq it goes on at
	End        uint64 `json:"end"`   // seq it ends before
}

// open reports whether the replay is not over.
func (r *Replay) open() bool { return r.State == ReplayWaiting || r.State == ReplayRunning }

// copy returns r with memory of its own.
func (r *Replay) copy() Replay {
	c := *r
	c.Lanes = append([]ReplayLane(nil), r.Lanes...)
	return c
}

// history is the queue as replays read it; *buffer.Log is one.
type history interface {
	// ReadAt is buffer.Log.ReadAt.
	ReadAt(lane int, seq uint64, lim buffer.Limit, ch *buffer.Chunk) error
	// SeqAt returns the first seq of a lane that was committed at or after t.
	SeqAt(lane int, t time.Time) (uint64, error)
}

// plan sets which seqs the replay looks at: those that may have been received
// in its time and that the sink had released, up to released, when it was made.
func (r *Replay) plan(h history, lanes []buffer.LaneInfo, released []uint64) error {
	r.Lanes = []ReplayLane{}
	for i, ln := range lanes {
		first, err := h.SeqAt(i, r.From)
		if err != nil {
			return fmt.Errorf("find where the replay begins: %w", err)
		}
		end, err := h.SeqAt(i, r.To.Add(replayLag))
		if err != nil {
			return fmt.Errorf("find where the replay ends: %w", err)
		}
		if end = min(end, released[i]); first < end {
			r.Lanes = append(r.Lanes, ReplayLane{Lane: ln.Name, Generation: ln.Generation, First: first, Next: first, End: end})
		}
	}
	return nil
}

// Replays returns the replays, oldest first, with those that ended lately.
func (g *Gateway) Replays() []Replay { return g.replays.list() }

// EndReplay cancels a replay, or takes one that is over off the list. The
// error is ErrNoReplay when there is none of that id.
func (g *Gateway) EndReplay(id string) error { return g.replays.end(id) }

// StartReplay has stored records sent again. It goes on after a restart. The
// error is ErrReplayRequest when the request makes no sense.
func (g *Gateway) StartReplay(q ReplayRequest) (Replay, error) {
	q, err := q.check()
	if err != nil {
		return Replay{}, err
	}
	r := &Replay{ReplayRequest: q, State: ReplayWaiting, Created: g.o.Clock.Now()}
	if err := g.planReplay(r); err != nil {
		return Replay{}, err
	}
	made := r.copy()
	if made.ID, err = g.replays.add(r); err != nil {
		return Replay{}, err
	}
	g.o.Log.Info("replay asked for", "id", made.ID, "sink", made.Sink, "from", made.From, "to", made.To, "rate", made.Rate)
	return made, nil
}

// planReplay finds the sink of a replay and what it has to look at.
func (g *Gateway) planReplay(r *Replay) error {
	names := make([]string, len(g.forward))
	for i, f := range g.forward {
		names[i] = f.name
	}
	if r.Sink == "" && len(names) == 1 {
		r.Sink = names[0]
	}
	i := slices.Index(names, r.Sink)
	if i < 0 {
		return fmt.Errorf("%w: there is no sink %q; name one of: %s", ErrReplayRequest, r.Sink, strings.Join(names, ", "))
	}
	released := make([]uint64, len(g.lanes))
	for lane, c := range g.cursors[i].Stats() {
		released[lane] = c.Next
	}
	if err := r.plan(g.history, g.lanes, released); err != nil || len(r.Lanes) > 0 {
		return err
	}
	return fmt.Errorf("%w: nothing of that time that sink %s has had is still stored (how long delivered records are kept is set by the retention of the buffer)",
		ErrReplayRequest, r.Sink)
}

// adoptReplays makes the replays found on disk go on: those left by the tools
// while the gateway was stopped are planned now. It runs before the forwarders.
func (g *Gateway) adoptReplays() {
	s := g.replays
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.jobs {
		if !r.open() {
			continue
		}
		_, err := r.ReplayRequest.check()
		if err == nil && r.Lanes == nil {
			err = g.planReplay(r)
		} else if err == nil && !slices.ContainsFunc(g.forward, func(f *forwarder) bool { return f.name == r.Sink }) {
			err = fmt.Errorf("sink %s is not configured any more", r.Sink)
		}
		if err != nil {
			r.Error = err.Error()
			s.finish(r, ReplayFailed)
		}
	}
}

// LeaveReplay leaves a replay in the directory of a queue that is not in use:
// the gateway that is started with it next sends the records.
func LeaveReplay(dir string, q ReplayRequest, now time.Time) (Replay, error) {
	q, err := q.check()
	if err != nil {
		return Replay{}, err
	}
	s := openReplays(dir, slog.New(slog.DiscardHandler), SystemClock())
	r := &Replay{ReplayRequest: q, State: ReplayWaiting, Created: now}
	if _, err := s.add(r); err != nil {
		return Replay{}, err
	}
	if st, err := os.Stat(dir); err == nil && os.Geteuid() == 0 { // the gateway must be able to write it
		if owner, ok := st.Sys().(*syscall.Stat_t); ok {
			if err := os.Chown(s.path, int(owner.Uid), int(owner.Gid)); err != nil {
				return Replay{}, fmt.Errorf("give the list of replays to the owner of %s: %w", dir, err)
			}
		}
	}
	return r.copy(), nil
}
