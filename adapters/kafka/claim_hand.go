package kafka

import (
	"context"
	"errors"
	"fmt"
)

// runSpooler writes values that were handed over to the spool until ctx ends.
// What is not written then is handed over again: its record is in the queue.
func (c *claims) runSpooler(ctx context.Context) {
	for {
		h, ok := c.take()
		if !ok {
			select {
			case <-c.hand:
				continue
			case <-ctx.Done():
				c.giveBack()
				return
			}
		}
		c.spooled(h.claim, c.enter(ctx, &h))
	}
}

// take returns the value that is to be spooled next.
func (c *claims) take() (h handed, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.values) == 0 {
		return handed{}, false
	}
	h = c.values[0]
	c.values[0] = handed{}
	c.values = c.values[1:]
	return h, true
}

// giveBack forgets what was handed over and not spooled.
func (c *claims) giveBack() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, h := range c.values {
		c.handed -= h.claim.Bytes
		c.unspool(h.claim)
	}
	c.values = nil
}

// unspool undoes that a claim was entered. c.mu is held.
func (c *claims) unspool(cl *claim) {
	c.used -= cl.Bytes
	if c.all[cl.Record] == cl {
		delete(c.all, cl.Record)
	}
}

// enter completes a claim by the hash of its value and writes both down.
func (c *claims) enter(ctx context.Context, h *handed) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	sum := hexHash(h.value)
	named := claim{Record: h.claim.Record, SHA256: sum}
	key, err := expandKey(c.opt.Store.Key, &named, &h.from)
	if err != nil {
		return &storeRefusal{fmt.Errorf("name of the object: %w", err)}
	}
	c.mu.Lock()
	cl := h.claim
	cl.SHA256, cl.Key = sum, key
	cl.ID = sum + "-" + hexHash(fmt.Appendf(nil, "%s %t", key, cl.Record.Replayed))[:16]
	copied := *cl
	c.mu.Unlock()
	return c.spool.write(ctx, &copied, h.value)
}

// spooled notes that a value is in the spool, or why it is not.
func (c *claims) spooled(cl *claim, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.handed -= cl.Bytes
	cl.busy, cl.spooling = false, false
	if c.turned && len(c.values) == 0 {
		c.turned = false
		signal(c.wake)
	}
	switch {
	case err == nil:
		cl.hasData, c.local = true, nil
		if cl.gone {
			c.forget(cl)
			return
		}
		signal(c.work)
	case refusedByStore(err):
		c.used -= cl.Bytes
		cl.refused = err.Error()
		signal(c.wake)
	default:
		c.unspool(cl)
		if errors.Is(err, context.Canceled) {
			return
		}
		if c.local == nil {
			c.log.Warn("large values cannot be spooled", "error", err)
		}
		c.local = err
	}
}
