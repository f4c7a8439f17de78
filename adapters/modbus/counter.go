package modbus

import (
	"encoding/binary"
	"hash/crc32"
	"strconv"
)

// counter makes a number that goes on of one that starts over. Its value is
// base + raw, in 64 bits.
//
// A step back from the last quarter of the range into the first is a roll-over:
// the base grows by the range. A small step back, by one or an eighth at most, is
// a device that corrected itself: the value goes back with it. Any other is a
// device that began anew: the base grows by what it had counted. The value says
// so once.
type counter struct {
	modulus uint64 // what the number is counted by; 0 is 2^64
	base    uint64
	last    uint64
	known   bool // something was counted; before that, last is 0
}

func newCounter(q *Point) *counter {
	t, _ := q.typ()
	c := &counter{}
	switch width := q.width(t); {
	case t.class == classBCD:
		c.modulus = 1
		for range t.digits() {
			c.modulus *= 10
		}
	case width < 64:
		c.modulus = 1 << width
	}
	return c
}

// step takes what was read. turned says that the base is another one, note why
// the value needs a look.
func (c *counter) step(raw uint64) (total uint64, turned bool, note string) {
	if raw < c.last {
		turned = true
		quarter := c.modulus / 4
		if c.modulus == 0 {
			quarter = 1 << 62
		}
		switch back := c.last - raw; {
		case c.last >= c.modulus-quarter && raw < quarter:
			c.base += c.modulus
		case raw > 0 && back <= max(1, c.last/8):
			turned = false
			note = "counter went back by " + strconv.FormatUint(back, 10)
		default:
			c.base += c.last
			note = "counter restarted at " + strconv.FormatUint(raw, 10)
		}
	}
	c.last, c.known = raw, true
	return c.base + raw, turned, note
}

// stateVersion begins the stored state of counters: how many there are, for
// each its name with its length, modulus, base and last number, and a CRC-32
// (IEEE) of all that. Numbers are varints.
const stateVersion = 1

// state returns what restore needs to go on counting; nil when nothing is
// counted yet. It also ends rebased.
func (d *decoder) state() []byte {
	d.turned = false
	n := 0
	for i := range d.fields {
		if c := d.fields[i].counter; c != nil && c.known {
			n++
		}
	}
	if n == 0 {
		return nil
	}
	b := binary.AppendUvarint([]byte{stateVersion}, uint64(n))
	for i := range d.fields {
		f := &d.fields[i]
		if f.counter == nil || !f.counter.known {
			continue
		}
		b = binary.AppendUvarint(b, uint64(len(f.name)))
		b = append(b, f.name...)
		for _, v := range [...]uint64{f.counter.modulus, f.counter.base, f.counter.last} {
			b = binary.AppendUvarint(b, v)
		}
	}
	return binary.LittleEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
}

// rebased reports whether a counter rolled over or began anew since the last
// state: only then is it urgent to store it. What it holds besides, the last
// number, may be old: it need only tell that the number went back.
func (d *decoder) rebased() bool { return d.turned }

// restore goes on from a state that was stored. Counters that it does not know,
// or that count otherwise now, begin anew; so do all when it is damaged.
func (d *decoder) restore(state []byte) {
	if len(state) < 5 || state[0] != stateVersion {
		return
	}
	body, sum := state[:len(state)-4], state[len(state)-4:]
	if crc32.ChecksumIEEE(body) != binary.LittleEndian.Uint32(sum) {
		return
	}
	stored := counterState{rest: body[1:]}
	found := make(map[string]counter)
	for n := stored.number(); n > 0 && !stored.damaged; n-- {
		name := stored.text()
		c := counter{modulus: stored.number(), base: stored.number(), last: stored.number(), known: true}
		found[name] = c
	}
	if stored.damaged || len(stored.rest) > 0 {
		return
	}
	for i := range d.fields {
		f := &d.fields[i]
		if f.counter == nil {
			continue
		}
		if c, ok := found[f.name]; ok && c.modulus == f.counter.modulus && (c.modulus == 0 || c.last < c.modulus) {
			*f.counter = c
		}
	}
}

// counterState takes a stored state apart.
type counterState struct {
	rest    []byte
	damaged bool
}

func (s *counterState) number() uint64 {
	v, n := binary.Uvarint(s.rest)
	if n <= 0 {
		s.damaged = true
		return 0
	}
	s.rest = s.rest[n:]
	return v
}

func (s *counterState) text() string {
	n := s.number()
	if s.damaged || n > uint64(len(s.rest)) {
		s.damaged = true
		return ""
	}
	text := string(s.rest[:n])
	s.rest = s.rest[n:]
	return text
}
