package gateway

import (
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// oldestBelievable is before any gateway of this version was built: an earlier
// clock was never set.
const oldestBelievable = 1_760_000_000 // 2025-10-09, Unix seconds

// clockCheckEvery is how long an answer of the kernel about its clock holds.
const clockCheckEvery = 10 * time.Second

// Clock tells the time and whether it is believed: a gateway without a battery
// starts in 1970 and learns the time later. Tests set the functions.
type Clock struct {
	now    func() time.Time
	synced func() bool // whether the kernel says its clock is synchronised

	checked atomic.Int64 // when synced was asked, ns since start
	answer  atomic.Bool
	start   time.Time
}

// SystemClock is the clock of this machine. It is trusted when it does not
// stand before this software was made and the kernel has it synchronised
// (adjtimex, STA_UNSYNC).
func SystemClock() *Clock { return NewClock(time.Now, kernelSynced) }

// NewClock returns a clock from functions; synced may be nil for "always".
func NewClock(now func() time.Time, synced func() bool) *Clock {
	c := &Clock{now: now, synced: synced, start: time.Now()}
	c.checked.Store(-int64(clockCheckEvery))
	return c
}

// Now returns the time.
func (c *Clock) Now() time.Time { return c.now() }

// Trusted reports whether the time is believed.
func (c *Clock) Trusted() bool {
	if c.now().Unix() < oldestBelievable {
		return false
	}
	if c.synced == nil {
		return true
	}
	since := int64(time.Since(c.start)) // monotonic: a step of the wall clock does not matter
	if since-c.checked.Load() >= int64(clockCheckEvery) {
		c.checked.Store(since)
		c.answer.Store(c.synced())
	}
	return c.answer.Load()
}

// kernelSynced asks the kernel. Where it does not answer, the clock is believed.
func kernelSynced() bool {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	return err != nil || state != unix.TIME_ERROR
}
