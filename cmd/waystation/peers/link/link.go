// Package link emulates a bad network between a gateway and a server: a TCP
// proxy with delay, a rate, losses, silence and resets.
//
// A Link is one line, such as a modem: all connections of all its forwards share
// its rate and fail together.
//
// It works on streams and not on packets. That has limits:
//
//   - Loss is approximated by what an application sees of it: with the
//     probability Loss per packet of 1,400 bytes the stream stands still for one
//     retransmission time-out, 1 to 3 s. Real TCP repairs many losses faster, but
//     then slows down; at 5 % and 600 ms there and back both come to some 13 KB/s.
//   - While the line is silent the kernel still completes the handshake of a new
//     connection; nothing is answered on it.
//   - A dial to a server that is down succeeds at the proxy, and is reset then.
//   - Counters count the payload of TCP, without the headers of TCP and IP.
package link

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// dialLimit bounds how long the proxy tries to reach the server.
const dialLimit = 5 * time.Second

// Link is one emulated line. Its methods may be called from several goroutines.
type Link struct {
	ctx  context.Context // ends with Close
	stop context.CancelFunc
	up   direction // from the dialling side to the server
	down direction
	wg   sync.WaitGroup

	mu        sync.Mutex // guards all below
	profile   Profile
	random    *rand.Rand
	silent    chan struct{} // closed when the line speaks again; nil while it does
	flapping  bool          // the silence is the profile's own
	listeners []net.Listener
	pairs     map[*pair]struct{}
}

// direction is what the connections share one way.
type direction struct {
	bytes atomic.Int64

	mu   sync.Mutex // guards busy
	busy time.Time  // when the line has sent what it was given
}

// New makes a line. What is random on it follows from seed.
func New(p Profile, seed uint64) *Link {
	ctx, stop := context.WithCancel(context.Background())
	l := &Link{ctx: ctx, stop: stop, profile: p, random: rand.New(rand.NewPCG(seed, 0x6c696e6b)), pairs: map[*pair]struct{}{}}
	if p.Up > 0 && p.Down > 0 {
		l.wg.Go(func() { l.flap(p.Up, p.Down) })
	}
	return l
}

// Forward listens on a port of 127.0.0.1 and carries each connection over the
// line to target, which need not be there yet. It returns the address.
func (l *Link) Forward(target string) (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("forward to %s: %w", target, err)
	}
	l.mu.Lock()
	l.listeners = append(l.listeners, listener)
	l.mu.Unlock()
	if l.ctx.Err() != nil {
		return "", errors.Join(fmt.Errorf("forward to %s: the link is closed", target), listener.Close())
	}
	l.wg.Go(func() { l.accept(listener, target) })
	return listener.Addr().String(), nil
}

// accept takes connections until the listener is closed.
func (l *Link) accept(listener net.Listener, target string) {
	for l.speaks() { // and not while the line is silent
		client, err := listener.Accept()
		if err != nil {
			return
		}
		l.wg.Go(func() {
			if !l.speaks() {
				reset(client)
				return
			}
			dialer := net.Dialer{Timeout: dialLimit}
			server, err := dialer.DialContext(l.ctx, "tcp", target)
			if err != nil {
				reset(client)
				return
			}
			l.carry(client, server)
		})
	}
}

// Set changes delay, rate and loss of what is sent from now on. Flapping is
// fixed by New.
func (l *Link) Set(p Profile) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.profile = p
}

// Silence makes the line carry nothing either way and tell nobody. What is sent
// meanwhile waits, as TCP would send it again, until Heal.
func (l *Link) Silence() { l.setSilent(true, false) }

// Heal ends a silence.
func (l *Link) Heal() { l.setSilent(false, false) }

// Lose makes the present connections dead for ever without a word to either
// side, as a router does that was started again: what they send is swallowed.
func (l *Link) Lose() {
	for _, p := range l.open() {
		p.lost.Store(true)
	}
}

// Reset ends the present connections with RST.
func (l *Link) Reset() {
	for _, p := range l.open() {
		p.reset()
	}
}

// Sent is how many bytes the dialling side has sent over the line.
func (l *Link) Sent() int64 { return l.up.bytes.Load() }

// Received is how many bytes the servers have sent over the line.
func (l *Link) Received() int64 { return l.down.bytes.Load() }

// Close ends the line with all its connections, and returns when all is gone.
func (l *Link) Close() {
	l.stop()
	l.mu.Lock()
	listeners := l.listeners
	l.listeners = nil
	l.mu.Unlock()
	for _, listener := range listeners {
		_ = listener.Close()
	}
	l.Reset()
	l.wg.Wait()
}

func (l *Link) open() []*pair {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []*pair
	for p := range l.pairs {
		out = append(out, p)
	}
	return out
}

// setSilent begins or ends a silence. The flapping never ends one of Silence.
func (l *Link) setSilent(on, flapping bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case on && l.silent == nil:
		l.silent, l.flapping = make(chan struct{}), flapping
	case on:
		l.flapping = l.flapping && flapping
	case l.silent != nil && (l.flapping || !flapping):
		close(l.silent)
		l.silent = nil
	}
}

// speaks waits until the line is not silent; false says it was closed.
func (l *Link) speaks() bool {
	for l.ctx.Err() == nil {
		l.mu.Lock()
		silent := l.silent
		l.mu.Unlock()
		if silent == nil {
			return true
		}
		select {
		case <-silent:
		case <-l.ctx.Done():
		}
	}
	return false
}

// flap silences the line again and again.
func (l *Link) flap(up, down time.Duration) {
	for l.pause(up) {
		l.setSilent(true, true)
		ok := l.pause(down)
		l.setSilent(false, true)
		if !ok {
			return
		}
	}
}

// pause waits; false says the link was closed.
func (l *Link) pause(d time.Duration) bool {
	if d <= 0 {
		return l.ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-l.ctx.Done():
		return false
	}
}
