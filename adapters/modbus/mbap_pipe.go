package modbus

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// pipeline is a line with MBAP framing that several goroutines may ask at once.
// One goroutine reads, and gives each answer to the request with its identifier.
type pipeline struct {
	*mbap
	slots chan struct{} // one for each request that may be under way
	ended chan struct{} // closed when nothing is read any more

	writing sync.Mutex // guards the packager and the order of writes

	mu      sync.Mutex       // guards what follows, and ids
	waiting map[uint16]*call // by identifier
	broken  error            // why nothing is read any more
}

// call is a request under way.
type call struct {
	q    *request
	sent []byte
	done chan result // takes one
}

// result is what came of a call.
type result struct {
	data []byte
	err  error
}

// newPipeline lets most requests be under way at once.
func newPipeline(l *mbap, most int) *pipeline {
	p := &pipeline{mbap: l, slots: make(chan struct{}, most), ended: make(chan struct{}), waiting: make(map[uint16]*call, most)}
	go p.read()
	return p
}

// Ask implements line.
func (p *pipeline) Ask(ctx context.Context, q *request) ([]byte, error) {
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-p.ended:
		return nil, p.why()
	}
	c := &call{q: q, done: make(chan result, 1)}
	id, err := p.send(c)
	if err != nil {
		return nil, err
	}
	t := time.NewTimer(q.timeout)
	defer t.Stop()
	select {
	case r := <-c.done:
		return r.data, r.err
	case <-t.C:
		err = &silence{after: q.timeout}
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-p.ended:
		err = p.why()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, still := p.waiting[id]; !still { // it was answered just now
		r := <-c.done
		return r.data, r.err
	}
	delete(p.waiting, id)
	p.ids.giveUp(await(q, id))
	return nil, err
}

// send writes the request of c, which waits from before that for its answer.
func (p *pipeline) send(c *call) (uint16, error) {
	p.writing.Lock()
	defer p.writing.Unlock()
	p.mu.Lock()
	id := p.ids.next(func(id uint16) bool { return p.waiting[id] != nil })
	p.mu.Unlock()
	var err error
	if c.sent, err = p.encode(c.q, id); err != nil {
		return 0, err
	}
	p.mu.Lock()
	if p.broken != nil {
		defer p.mu.Unlock()
		return 0, p.broken
	}
	p.waiting[id] = c
	p.mu.Unlock()
	if err = p.conn.SetWriteDeadline(time.Now().Add(c.q.timeout)); err == nil {
		_, err = p.conn.Write(c.sent)
	}
	if err == nil {
		return id, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.waiting, id)
	if p.broken != nil {
		return 0, p.broken
	}
	_ = p.conn.Close() // half a request may be on the line; read ends by it
	return 0, p.lost(sending, err)
}

// read takes in answers until the connection ends.
func (p *pipeline) read() {
	defer close(p.ended)
	foreign := 0
	for {
		frame, err := p.in.next()
		if err != nil {
			p.fail(p.lost(receiving, err))
			return
		}
		wrong, err := p.hand(frame)
		switch {
		case err != nil:
			p.fail(err)
			return
		case wrong == nil:
			foreign = 0
			continue
		}
		p.foreign.Add(1)
		if foreign++; foreign == mostForeign {
			p.fail(fmt.Errorf("%s: %d frames that nobody asked for: the line is out of step: %w", p.address, foreign, wrong))
			return
		}
	}
}

// hand gives a frame to who waits for it. wrong says that nobody does; err that
// the line cannot be trusted any more.
func (p *pipeline) hand(frame []byte) (wrong, err error) {
	id := binary.BigEndian.Uint16(frame)
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.waiting[id]
	if c == nil {
		if p.ids.late(id) {
			p.late.Add(1)
			return nil, nil
		}
		return &stranger{fmt.Sprintf("a frame with transaction %d", id)}, nil
	}
	frame = slices.Clone(frame) // who asked keeps the data
	data, err := p.open(c.q, c.sent, frame)
	if errors.Is(err, errForeign) {
		return err, nil
	}
	if data, err = p.sound(frame, data, err); err == nil {
		data, err = p.alone(id, frame, data)
	}
	delete(p.waiting, id)
	c.done <- result{data, err}
	if err != nil && exception(err) == 0 {
		return nil, err
	}
	return nil, nil
}

// alone returns data, or an error when the answer to another request that waits
// is a part of the frame. mu is held.
func (p *pipeline) alone(id uint16, frame, data []byte) ([]byte, error) {
	for other, c := range p.waiting {
		if x := await(c.q, other); other != id {
			if err := p.whole(frame, &x); err != nil {
				return nil, p.lost(receiving, err)
			}
		}
	}
	return data, nil
}

// fail says why nothing is read any more. Who waits sees it by ended.
func (p *pipeline) fail(err error) {
	p.mu.Lock()
	p.broken = err // before it is closed: a write that fails by that must find why
	p.mu.Unlock()
	_ = p.conn.Close()
}

// why says why nothing is read any more.
func (p *pipeline) why() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.broken
}

// Close implements line.
func (p *pipeline) Close() error {
	err := p.conn.Close()
	<-p.ended
	return err
}
