package modbus

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/goburrow/modbus"
)

// The MBAP header: transaction identifier, protocol identifier, length, unit
// identifier (MODBUS Messaging on TCP/IP Implementation Guide V1.0b section 3.1.3).
const (
	mbapHeader  = 7
	mbapMost    = mbapHeader + maxPDU // bytes of an ADU
	mostForeign = 32                  // frames nobody asked for in one exchange
)

// mbap is a line with MBAP framing over TCP, TLS or UDP, for one request at a
// time. It makes no goroutine and allocates nothing beyond what the packager does.
type mbap struct {
	address string // "tcp 10.0.0.5:502"
	conn    net.Conn
	in      frames
	settle  func(on bool) // whether reads of conn return at once; nil = conn cannot

	packager *modbus.TCPClientHandler // of which only Encode, Verify and Decode are used
	ids      transactions
	answered bool // a unit has answered on this connection
	stop     func() bool
	watched  context.Context // what stop belongs to

	mu     sync.Mutex      // guards asking, and the deadline of conn against being set by both
	asking context.Context // of the Ask under way; nil = none

	late    atomic.Int64 // answers that came after their request was given up
	foreign atomic.Int64 // frames that were nobody's answer
}

// newMBAP makes the line over a connection that is open.
func newMBAP(address string, conn net.Conn, in frames) *mbap {
	return &mbap{address: address, conn: conn, in: in, packager: modbus.NewTCPClientHandler(""), ids: newTransactions()}
}

// Ask implements line. A request that got no answer is remembered by its
// identifier: its answer may still come and is dropped then, so the line is
// fit for use without being opened anew.
func (l *mbap) Ask(ctx context.Context, q *request) ([]byte, error) {
	if err := l.begin(ctx, q.timeout); err != nil {
		return nil, err
	}
	data, err := l.exchange(q)
	l.mu.Lock()
	l.asking = nil
	l.mu.Unlock()
	if err != nil && ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return data, err
}

// begin sets the deadline and has ctx end the exchange.
func (l *mbap) begin(ctx context.Context, timeout time.Duration) error {
	if l.watched != ctx {
		l.unwatch()
		l.watched = ctx
		l.stop = context.AfterFunc(ctx, func() { l.interrupt(ctx) })
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	l.asking = ctx
	if err := l.conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return fmt.Errorf("%s: set deadline: %w", l.address, err)
	}
	return nil
}

// interrupt ends the exchange that was begun with ctx, if it is still under way.
func (l *mbap) interrupt(ctx context.Context) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.asking == ctx {
		_ = l.conn.SetDeadline(time.Unix(1, 0)) // fails only on a closed connection
	}
}

func (l *mbap) unwatch() {
	if l.stop != nil {
		l.stop()
	}
}

// exchange sends q and waits for its answer until the deadline.
func (l *mbap) exchange(q *request) ([]byte, error) {
	if err := l.clear(); err != nil {
		return nil, err
	}
	id := l.ids.next(nil)
	sent, err := l.encode(q, id)
	if err != nil {
		return nil, err
	}
	if _, err := l.conn.Write(sent); err != nil {
		return nil, l.lost(sending, err) // the far side has a part of it, or its network takes nothing
	}
	var heard error
	for foreign := 0; foreign < mostForeign; {
		frame, err := l.in.next()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			l.ids.giveUp(await(q, id))
			if part := l.in.partial(); part != nil {
				// The next answer would be taken for the rest of this one, and another
				// unit would be blamed for it.
				return nil, fmt.Errorf("%s: the answer stopped in its middle: %w within %s: the line is out of step", l.address, part, q.timeout)
			}
			return nil, &silence{q.timeout, heard}
		case err != nil:
			return nil, l.lost(receiving, err)
		case l.drop(frame):
			continue
		}
		data, err := l.open(q, sent, frame)
		if !errors.Is(err, errForeign) {
			return l.sound(frame, data, err)
		}
		l.foreign.Add(1)
		heard = err
		foreign++
	}
	return nil, fmt.Errorf("%s: %d frames that nobody asked for: the line is out of step: %w", l.address, mostForeign, heard)
}

// sound returns the answer that a frame holds, or an error when a late answer
// is a part of the frame.
func (l *mbap) sound(frame, data []byte, err error) ([]byte, error) {
	if len(l.ids.given) > 0 && err == nil {
		for i := range l.ids.given {
			if err := l.whole(frame, &l.ids.given[i]); err != nil {
				return nil, l.lost(receiving, err)
			}
		}
	}
	return data, err
}

// clear takes in what came since the last exchange: late answers and frames
// nobody asked for, or that the far side has closed the connection.
func (l *mbap) clear() error {
	if l.settle == nil {
		return nil
	}
	l.settle(true)
	defer l.settle(false)
	for range mostForeign + mostGivenUp {
		frame, err := l.in.next()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil
		case err != nil:
			return l.lost(receiving, err)
		case !l.drop(frame):
			l.foreign.Add(1)
		}
	}
	return fmt.Errorf("%s: more than %d frames that nobody asked for: the line is out of step", l.address, mostForeign)
}

// encode makes the ADU of q. The identifiers are ours: those of a packager
// would be the same for two units of one connection.
func (l *mbap) encode(q *request, id uint16) ([]byte, error) {
	l.packager.SlaveId = q.unit
	adu, err := l.packager.Encode(q.pdu())
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", q, err)
	}
	binary.BigEndian.PutUint16(adu, id)
	return adu, nil
}

// open takes the answer to q, which was sent as sent, out of a frame. The error
// is that of request.answer, or is errForeign.
func (l *mbap) open(q *request, sent, frame []byte) ([]byte, error) {
	if err := wellFormed(frame); err != nil {
		return nil, err
	}
	if binary.BigEndian.Uint16(frame) != binary.BigEndian.Uint16(sent) {
		return nil, &stranger{fmt.Sprintf("a frame with transaction %d, not %d", binary.BigEndian.Uint16(frame), binary.BigEndian.Uint16(sent))}
	}
	if bytes.Equal(frame, sent) { // with some addresses it would pass for the answer of coils
		return nil, &stranger{"our own request came back"}
	}
	if ofDevice(q.unit) && ofDevice(frame[6]) {
		frame[6] = sent[6] // both mean the device that was connected to
	}
	if err := l.packager.Verify(sent, frame); err != nil {
		return nil, &stranger{fmt.Sprintf("unit %d answered to a request to unit %d (set unit: %d if the device always answers so)", frame[6], q.unit, frame[6])}
	}
	p, err := l.packager.Decode(frame)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", l.address, err)
	}
	data, err := q.answer(p)
	switch {
	case errors.Is(err, errForeign):
		return nil, &stranger{fmt.Sprintf("function %d answered to function %d", p.FunctionCode, q.function)}
	case err != nil && exception(err) == 0:
		return nil, fmt.Errorf("%s: %w", l.address, err)
	}
	l.answered = true
	return data, err
}

// ofDevice reports whether a unit identifier means the device at the other end
// of the connection itself (Implementation Guide section 4.4.2.1): some answer
// with the one when asked with the other.
func ofDevice(unit byte) bool { return unit == 0 || unit == 255 }

// dropped returns how many late and how many foreign frames were dropped.
func (l *mbap) dropped() (late, foreign int64) { return l.late.Load(), l.foreign.Load() }

// Close implements line.
func (l *mbap) Close() error {
	l.unwatch()
	return l.conn.Close()
}

// stranger says that a frame is not the answer that is waited for.
type stranger struct{ what string }

func (e *stranger) Error() string { return e.what }

// Is makes it an errForeign.
func (e *stranger) Is(target error) bool { return target == errForeign }
