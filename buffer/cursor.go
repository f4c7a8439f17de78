package buffer

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"sync"
)

// Cursor is one reader's place in every lane. Cursors do not disturb each
// other: a record is deleted when all of them have released it. A Cursor's
// methods may be called from any goroutine; Read of one lane from one at a time.
type Cursor struct {
	l     *Log
	name  string
	ready chan struct{}

	mu    sync.Mutex // guards lanes
	lanes []cursorLane
}

// cursorLane is a cursor's state in one lane.
type cursorLane struct {
	pos   position // released
	saved position // released and on disk
	read  uint64   // seq the next Read begins with
}

// Released says what became of records that are released. The counts add up
// to the number of seqs released.
type Released struct {
	Sent, Dead, Lost uint64

	Filtered uint64 // not wanted by this reader
}

// Cursor returns the cursor of that name, made at the oldest record when it is
// new, but not at records that are kept only for replay. Names are [A-Za-z0-9._-], at most 64 bytes.
func (l *Log) Cursor(name string) (*Cursor, error) {
	if ok, _ := regexp.MatchString(`^[A-Za-z0-9._-]{1,64}$`, name); !ok {
		return nil, fmt.Errorf("open cursor %q: a name is 1 to 64 letters, digits, dots, dashes or underlines", name)
	}
	l.curMu.Lock()
	defer l.curMu.Unlock()
	if c := l.cursors[name]; c != nil {
		return c, nil
	}
	c := &Cursor{l: l, name: name, ready: make(chan struct{}, 1), lanes: make([]cursorLane, len(l.lanes))}
	for i, ln := range l.lanes {
		ln.mu.RLock()
		p, ok := ln.onDisk[name]
		if !ok {
			at := l.beginning(i)
			p = position{next: at, from: at}
			if ln.begin != 0 { // it may have been there: report what was lost
				p = position{next: min(ln.begin, ln.first), from: min(ln.begin, ln.first)}
			}
			l.arm()
		}
		p.next = min(p.next, ln.next)
		ln.mu.RUnlock()
		c.lanes[i] = cursorLane{pos: p, saved: p, read: p.next}
	}
	l.cursors[name] = c
	delete(l.expected, name)
	c.signal()
	return c, nil
}

// Ready is signalled when records may have been added since the last Read.
func (c *Cursor) Ready() <-chan struct{} { return c.ready }

func (c *Cursor) signal() {
	select {
	case c.ready <- struct{}{}:
	default:
	}
}

// Release says that every record of the lane below next is done with. It
// reaches the disk with the next append, or after Options.CursorDelay, or by
// Sync. Releasing backwards has no effect.
func (c *Cursor) Release(lane int, next uint64, r Released) {
	ln := c.l.lanes[lane]
	ln.mu.RLock()
	end := ln.next
	ln.mu.RUnlock()
	if next > end { // what does not exist cannot be released: the counts shrink with it
		over := next - end - min(r.Sent, next-end)
		r.Sent -= min(r.Sent, next-end)
		r.Filtered -= min(r.Filtered, over)
		next = end
	}
	c.mu.Lock()
	cl := &c.lanes[lane]
	if next > cl.pos.next {
		cl.pos.next = next
		cl.pos.sent += r.Sent
		cl.pos.dead += r.Dead
		cl.pos.lost += r.Lost
		cl.pos.filtered += r.Filtered
		cl.read = max(cl.read, next)
	}
	c.mu.Unlock()
	c.l.arm()
}

// Rewind makes Read begin again after what was released.
func (c *Cursor) Rewind(lane int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lanes[lane].read = c.lanes[lane].pos.next
}

// Waiting reports whether the next Read of the lane finds something. It touches
// no file.
func (c *Cursor) Waiting(lane int) bool {
	ln := c.l.lanes[lane]
	ln.mu.RLock()
	end := ln.next
	ln.mu.RUnlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lanes[lane].read < end
}

// Sync returns when every release made so far is on disk, at once when it is.
// After an error a crash repeats what was released since the last success.
func (c *Cursor) Sync(ctx context.Context) error {
	c.mu.Lock()
	dirty := false
	for i := range c.lanes {
		dirty = dirty || c.lanes[i].pos != c.lanes[i].saved
	}
	c.mu.Unlock()
	for _, ln := range c.l.lanes {
		ln.mu.RLock()
		dirty = dirty || ln.stale
		ln.mu.RUnlock()
	}
	if !dirty {
		return nil
	}
	done := make(chan error, 1)
	c.l.submit(request{done: func(err error) { done <- err }})
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// cursorsOf returns the released positions in a lane and whether they must be
// written: they differ from what is on disk, or what is on disk is stale.
func (l *Log) cursorsOf(num int) (map[string]position, bool) {
	ln := l.lanes[num]
	ln.mu.RLock()
	onDisk, changed, empty := ln.onDisk, ln.stale, len(ln.segs) == 0
	ln.mu.RUnlock()
	l.curMu.RLock()
	defer l.curMu.RUnlock()
	out := make(map[string]position, len(l.cursors))
	for name, p := range onDisk { // cursors nobody has opened yet are kept
		out[name] = p
	}
	for name, c := range l.cursors {
		p, write := c.unsaved(num, onDisk[name], empty)
		changed = changed || write
		out[name] = p
	}
	return out, changed
}

// saved notes that the positions of a lane are on disk.
func (l *Log) saved(num int, cursors map[string]position) {
	l.curMu.RLock()
	defer l.curMu.RUnlock()
	for name, c := range l.cursors {
		c.mu.Lock()
		if p, ok := cursors[name]; ok {
			c.lanes[num].saved = p
		}
		c.mu.Unlock()
	}
}

// Forget drops every cursor that is not in keep and returns their names: a
// cursor that nobody reads would hold its records until the budget evicts them.
// A dropped Cursor must not be used any more. Of those to keep, one that is new,
// or that a crash kept from the disk, finds what is there now: nothing is deleted
// as delivered before it is opened. Forget must not be called by a done function.
func (l *Log) Forget(keep []string) []string {
	kept := map[string]bool{}
	for _, k := range keep {
		kept[k] = true
	}
	var names []string
	done := make(chan struct{})
	l.submit(request{keep: kept, gone: &names, done: func(error) { close(done) }})
	<-done
	return names
}

// forget drops the cursors that are not in keep. It runs on the committer.
func (l *Log) forget(keep map[string]bool) []string {
	gone := map[string]bool{}
	l.curMu.Lock()
	for name := range l.cursors {
		if !keep[name] {
			gone[name] = true
			delete(l.cursors, name)
		}
	}
	l.expected = map[string]bool{}
	for name := range keep {
		if l.cursors[name] == nil && !l.everywhere(name) {
			l.expected[name] = true
		}
	}
	l.curMu.Unlock()
	for _, ln := range l.lanes {
		ln.mu.Lock()
		next := map[string]position{}
		for name, p := range ln.onDisk {
			if keep[name] {
				next[name] = p
			} else {
				gone[name], ln.stale = true, true
			}
		}
		ln.onDisk = next
		ln.mu.Unlock()
	}
	return slices.Sorted(maps.Keys(gone))
}

// everywhere reports whether a cursor is on disk in every lane.
func (l *Log) everywhere(name string) bool {
	for _, ln := range l.lanes {
		ln.mu.RLock()
		_, ok := ln.onDisk[name]
		ln.mu.RUnlock()
		if !ok {
			return false
		}
	}
	return true
}

// noCursor is what lowest returns when there is no cursor.
const noCursor = ^uint64(0)

// lowest returns the smallest released position.
func lowest(cursors map[string]position) uint64 {
	low := noCursor
	for _, p := range cursors {
		low = min(low, p.next)
	}
	return low
}

// notifyAll wakes the reader of every cursor.
func (l *Log) notifyAll() {
	l.curMu.RLock()
	defer l.curMu.RUnlock()
	for _, c := range l.cursors {
		c.signal()
	}
}
