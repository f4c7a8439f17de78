package modbus

import (
	"encoding/binary"
	"time"
)

// peekWait is how long is waited for what follows an answer whose end looks
// like the beginning of another.
const peekWait = 20 * time.Millisecond

// awaited is the head of an answer that may still come.
type awaited struct {
	id             uint16
	unit, function byte
	length         byte // in its header; 0 = only the answer tells
}

// await says what the head of the answer to q will be.
func await(q *request, id uint16) awaited {
	x := awaited{id: id, unit: q.unit, function: q.function}
	if n := q.answerBytes(); n > 0 {
		x.length = byte(n + 1)
	}
	return x
}

const exceptionLength = 3 // unit, function, code

// begins reports whether b is, as far as it goes, the beginning of the answer.
func (x *awaited) begins(b []byte) bool {
	head := [mbapHeader + 1]byte{byte(x.id >> 8), byte(x.id), 0, 0, 0, x.length, x.unit, x.function}
	for i, c := range b[:min(len(b), len(head))] {
		switch {
		case c == head[i], i == 5 && (x.length == 0 || c == exceptionLength), i == 7 && c == x.function|exceptionBit:
		default:
			return false
		}
	}
	return true
}

// splice reports where the answer x, or the first bytes of its head, stand in a
// frame: a device that does not finish an answer and sends the next one makes
// of two answers one, with nothing else to tell it by. 0: nowhere.
func (x *awaited) splice(frame []byte) int {
	for i := mbapHeader + 1; i < len(frame); i++ {
		if frame[i] == byte(x.id>>8) && x.begins(frame[i:]) {
			return i
		}
	}
	return 0
}

// whole returns an *outOfStep when a frame has swallowed the answer x, or a part
// of it.
func (l *mbap) whole(frame []byte, x *awaited) error {
	s, ok := l.in.(*stream)
	if !ok {
		return nil // a datagram cannot
	}
	at := x.splice(frame)
	if at == 0 {
		return nil
	}
	head := append([]byte(nil), frame[at:]...)
	if missing := mbapHeader + 1 - len(head); missing > 0 {
		_ = l.conn.SetReadDeadline(time.Now().Add(peekWait))
		head = append(head, s.peek(missing)...)
		_ = l.conn.SetReadDeadline(time.Time{})
	}
	if len(head) > mbapHeader && x.begins(head) {
		return &outOfStep{"an answer with another in it"}
	}
	return nil
}

// peek returns the next n bytes, at most mbapHeader, fewer when they do not come.
// There is room for them behind the frame that next returned, which stays.
func (s *stream) peek(n int) []byte {
	for s.b-s.a < n {
		m, err := s.from.Read(s.buf[s.b:])
		if s.b += m; m == 0 && err != nil {
			break
		}
	}
	return s.buf[s.a:min(s.b, s.a+n)]
}

// drop counts a late answer; it reports false for every other frame.
func (l *mbap) drop(frame []byte) bool {
	if wellFormed(frame) != nil || !l.ids.late(binary.BigEndian.Uint16(frame)) {
		return false
	}
	l.late.Add(1)
	return true
}
