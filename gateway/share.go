package gateway

import (
	"fmt"

	"github.com/waystation-iot/waystation/buffer"
)

// Shares of the lanes, in percent of the bytes sent.
const (
	retiredShare = 5  // of all lanes together that are no longer configured
	maxShares    = 50 // of all lanes together: one batch in two at most goes ahead of a higher lane

	// MaxShares is what the shares of the configured lanes add up to at most.
	MaxShares = maxShares - retiredShare
)

// shareQuantum is how much a lane is owed before it gets a batch for it, bytes.
const shareQuantum = 64 << 10

// DefaultShare is the share of a lane, of so many configured ones, for which
// none is given. The first lane is served before all others and needs none.
func DefaultShare(lane, configured int) int {
	switch lane {
	case 0:
		return 0
	case 1:
		return 10
	}
	return max(1, min(5, (MaxShares-10)/(configured-2)))
}

// Peeker tells whether a Read of a lane would find something; *buffer.Cursor
// is one. It must be cheap: every lane is asked before every batch.
type Peeker interface{ Waiting(lane int) bool }

// shares picks the lane that the next batch is taken from: the first that has
// something waiting, but lower lanes have a guaranteed share.
//
// A lane that waits while others are served earns its share of the bytes that
// are sent. When it is owed shareQuantum it gets a batch of what it is owed,
// ahead of the higher lane, and pays for it. A lane that is served in its turn,
// or has nothing waiting, is owed nothing.
//
// Two such batches never follow each other, and none goes ahead of a lane
// which has had nothing waiting for as many choices as there are lanes. So what
// is new in the first lane waits for the batch in flight and no other, unless
// that lane is under flow itself: then for one more at most. And whatever the
// pattern of the others, one of as many choices as there are lanes finds the
// way free for a lane that is owed a batch.
type shares struct {
	accounts []account // of the configured lanes, and one for all retired ones
	lanes    int       // of the queue
	choice   uint64    // counts the calls of pick
	top, by  int       // accounts: the first that waits, the one picked; -1 = none
	ahead    bool      // the batch before was sent ahead of a higher lane
}

// account is what a lane is owed.
type account struct {
	percent int64
	credit  int64  // bytes * 100
	seen    uint64 // the last choice at which it had something waiting
	lane    int    // what it has waiting; -1 = nothing
}

// newShares makes the shares of a queue of so many lanes, the first configured
// of them being those that are not retired. percent may be shorter.
func newShares(percent []int, configured, lanes int) (*shares, error) {
	if len(percent) > configured {
		return nil, fmt.Errorf("%d shares given for %d lanes", len(percent), configured)
	}
	s := &shares{lanes: lanes, top: -1, by: -1}
	sum := retiredShare
	for i := range configured {
		p := DefaultShare(i, configured)
		if i < len(percent) {
			p = percent[i]
		}
		if p < 0 || p > maxShares {
			return nil, fmt.Errorf("share of lane %d is %d %%: use 0 to %d", i, p, maxShares)
		}
		sum += p
		s.accounts = append(s.accounts, account{percent: int64(p)})
	}
	if sum > maxShares {
		return nil, fmt.Errorf("the shares of all lanes add up to %d %%, with %d %% for lanes that are no longer configured: use at most %d", sum, retiredShare, maxShares)
	}
	s.accounts = append(s.accounts, account{percent: retiredShare})
	return s, nil
}

// pick returns the lane to read, -1 when nothing waits, and how much of it.
// free says that something which can wait may be sent ahead of it instead.
func (s *shares) pick(q Peeker) (lane int, lim buffer.Limit, free bool) {
	s.choice++
	s.top, s.by = -1, -1
	fresh := false
	for i := range s.accounts {
		a := &s.accounts[i]
		a.lane = s.waiting(i, q)
		if a.lane < 0 {
			a.credit = 0
			continue
		}
		if s.top < 0 {
			s.top = i
			fresh = a.seen == 0 || s.choice-a.seen > uint64(len(s.accounts))
		}
		a.seen = s.choice
	}
	lim = buffer.Limit{Records: maxBatchRecords, Bytes: maxBatchBytes}
	if s.top < 0 {
		return -1, lim, true
	}
	s.by = s.top
	if s.ahead || fresh {
		return s.accounts[s.top].lane, lim, false
	}
	for i := s.top + 1; i < len(s.accounts); i++ {
		if c := s.accounts[i].credit; c >= 100*shareQuantum && (s.by == s.top || c > s.accounts[s.by].credit) {
			s.by = i
		}
	}
	if s.by != s.top {
		lim.Bytes = int(min(s.accounts[s.by].credit/100, maxBatchBytes))
	}
	return s.accounts[s.by].lane, lim, s.by == s.top
}

// waiting returns the first lane of account i that has something waiting, or -1.
func (s *shares) waiting(i int, q Peeker) int {
	end := i + 1
	if i == len(s.accounts)-1 {
		end = s.lanes
	}
	for lane := i; lane < end; lane++ {
		if q.Waiting(lane) {
			return lane
		}
	}
	return -1
}

// sent notes that a batch of the picked lane was confirmed.
func (s *shares) sent(bytes int) {
	for i := range s.accounts {
		a := &s.accounts[i]
		if i == s.top && s.by == s.top {
			a.credit = 0
			continue
		}
		if a.lane >= 0 {
			a.credit += int64(bytes) * a.percent
		}
		if i == s.by {
			a.credit -= int64(bytes) * 100
		}
	}
	s.ahead = s.by != s.top
}

// passed notes that something else was sent ahead of what is waiting.
func (s *shares) passed() { s.ahead = s.top >= 0 }
