package kafka

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

// closeGrace is how long close waits for the uploader: a share that does not
// answer may hold a call of the system for ever.
const closeGrace = 1500 * time.Millisecond

// start opens the spool and starts what fills and empties it, unless it runs.
func (c *claims) start() error {
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stop != nil {
		return nil
	}
	if c.ended != nil {
		select {
		case <-c.ended:
		default:
			return errors.New("upload large values: the upload of before has not ended yet")
		}
	}
	if !c.open {
		found, err := c.spool.open(c.store.id())
		if err != nil {
			return err
		}
		for _, cl := range found {
			c.last++
			cl.order = c.last
			c.all[cl.Record] = cl
			if cl.hasData {
				c.used += cl.Bytes
			}
		}
		c.open = true
	}
	ctx, stop := context.WithCancel(context.Background())
	c.stop, c.ended = stop, make(chan struct{})
	var both sync.WaitGroup
	both.Go(func() { c.runSpooler(ctx) })
	both.Go(func() { c.run(ctx) })
	go func(ended chan struct{}) { both.Wait(); close(ended) }(c.ended)
	return nil
}

// close stops spooler and uploader. What was sent so far is not lost.
func (c *claims) close() error {
	if c == nil {
		return nil
	}
	c.mu.Lock()
	stop, ended := c.stop, c.ended
	c.stop = nil
	c.mu.Unlock()
	if stop == nil {
		return nil
	}
	stop()
	t := time.NewTimer(closeGrace)
	defer t.Stop()
	select {
	case <-ended:
		return nil
	case <-t.C:
		return fmt.Errorf("stop uploading to %s: it does not answer", c.store.id())
	}
}

// run uploads what is in the spool, one value after the other, until ctx ends.
func (c *claims) run(ctx context.Context) {
	defer c.quiet()
	tries := 0 // that failed in a row because of the store or the link
	for ctx.Err() == nil {
		cl, wait := c.next(time.Now())
		if cl == nil {
			c.idle(ctx, wait)
			continue
		}
		err := c.upload(ctx, cl)
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if d := c.settle(cl, err, tries); d > 0 {
			tries++
			_ = pause(ctx, d) // the loop sees that ctx has ended
			continue
		}
		tries = 0
	}
}

// quiet closes the connections that the store has open.
func (c *claims) quiet() {
	if s, ok := c.store.(*s3Store); ok {
		s.forget()
	}
}

// idle waits for work, for d at most when it is not zero.
func (c *claims) idle(ctx context.Context, d time.Duration) {
	var due <-chan time.Time
	if d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		due = t.C
	}
	select {
	case <-c.work:
	case <-due:
	case <-ctx.Done():
	}
}

// next takes the oldest claim whose turn it is; if there is none, wait is how
// long it takes at least until there is, 0 = until something is added.
func (c *claims) next(now time.Time) (found *claim, wait time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, cl := range c.all {
		if cl.Done || cl.refused != "" || !cl.hasData || cl.spooling {
			continue
		}
		if d := cl.notBefore.Sub(now); d > 0 {
			if wait == 0 || d < wait {
				wait = d
			}
			continue
		}
		if found == nil || cl.order < found.order {
			found = cl
		}
	}
	if found != nil {
		found.busy = true
		c.moved = 0
	}
	return found, wait
}

// upload sends one value to the store.
func (c *claims) upload(ctx context.Context, cl *claim) error {
	f, err := os.Open(c.spool.data(cl.ID))
	if errors.Is(err, fs.ErrNotExist) {
		return errSpoolDamaged
	} else if err != nil {
		return err
	}
	defer f.Close()
	if err := c.spool.verify(ctx, cl, f); err != nil {
		return err
	}
	c.mu.Lock()
	cl.unchecked = false
	c.mu.Unlock()
	return c.store.put(ctx, &upload{claim: cl, file: f, pace: &c.pace,
		keep: func() error { return c.keep(cl) },
		moved: func(n int64) {
			c.mu.Lock()
			defer c.mu.Unlock()
			if c.moved += n; n == 0 {
				c.moved = 0
			}
		}})
}

// keep writes a claim down whose upload has come further.
func (c *claims) keep(cl *claim) error {
	c.mu.Lock()
	copied := *cl
	c.mu.Unlock()
	return c.spool.save(&copied)
}

// settle notes how an upload ended and returns the pause before the next one.
func (c *claims) settle(cl *claim, err error, tries int) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	cl.busy = false
	if cl.gone {
		c.forget(cl)
		return 0
	}
	switch {
	case err == nil:
		cl.Done, cl.Upload, cl.trouble = true, nil, nil
		c.stored++
		c.recovered()
		if err := c.spool.save(cl); err != nil {
			c.log.Warn("note that a large value is stored", "error", err) // it is found there after a crash
		}
		signal(c.wake)
	case errors.Is(err, context.Canceled):
	case errors.Is(err, errSpoolDamaged):
		c.log.Warn("a large value is spooled again", "error", err, "record", cl.Record.Seq, "lane", cl.Record.Lane)
		c.forget(cl)
		signal(c.wake)
	case refusedByStore(err) && c.opt.Refused == wordDeadLetter:
		cl.refused = "refused by the store: " + err.Error()
		signal(c.wake)
	case refusedByStore(err): // the others may go: it may be only this one
		if cl.trouble == nil {
			c.log.Warn("the store refuses a large value; its lane waits", "error", err)
		}
		cl.trouble, cl.notBefore = err, time.Now().Add(c.most)
	default:
		if c.down == nil {
			c.log.Warn("large values cannot be uploaded", "error", err)
		}
		c.down = err
		d := min(c.first<<min(tries, 10), c.most)
		return d/2 + rand.N(d/2+1)
	}
	return 0
}

// recovered notes that the store takes values. c.mu is held.
func (c *claims) recovered() {
	if c.down != nil {
		c.log.Info("large values are uploaded again")
		c.down = nil
	}
}

// facts tells how the uploads are doing.
func (c *claims) facts() []gateway.Fact {
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	waiting, bytes, trouble := 0, int64(0), c.down
	percent := int64(-1)
	for _, cl := range c.all {
		if cl.Done {
			continue
		}
		waiting++
		bytes += cl.Bytes
		if cl.busy && !cl.spooling && cl.Bytes > 0 {
			percent = min(100, c.moved*100/cl.Bytes)
		}
		if trouble == nil {
			trouble = cl.trouble
		}
	}
	if trouble == nil {
		trouble = c.local
	}
	text := fmt.Sprintf("%d stored since the start", c.stored)
	if waiting > 0 {
		text += fmt.Sprintf(", %d wait (%s)", waiting, gateway.Size(bytes))
	}
	if percent >= 0 {
		text += fmt.Sprintf(", %d %% of the next is sent", percent)
	}
	if trouble != nil {
		text += ": " + trouble.Error()
	}
	return []gateway.Fact{{Name: "large values", Value: text, Warn: trouble != nil}}
}
