package modbus

import (
	"encoding/binary"
	"slices"
	"strconv"
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

// decoder is a stand-in: numbers of 16 bits.
type decoder struct {
	names []string
	runs  []span
	// Of a group that counts: what went before, and the last number.
	counter    bool
	base, last uint64
}

func compile(_ *Profile, g *Group) (*decoder, error) {
	d := &decoder{}
	for i := range g.Points {
		p := &g.Points[i]
		d.counter = d.counter || p.Counter
		for n := range max(1, p.Count) {
			name := p.Name
			if p.Count > 1 {
				name += "." + strconv.Itoa(n)
			}
			d.names = append(d.names, name)
			d.runs = append(d.runs, span{functionOf(p.Table), p.Address + n, 1})
		}
	}
	return d, nil
}

func (d *decoder) spans() []span { return d.runs }
func (d *decoder) rebased() bool { return false }

func (d *decoder) state() []byte {
	if !d.counter {
		return nil
	}
	return binary.BigEndian.AppendUint64(nil, d.base+d.last)
}

func (d *decoder) restore(state []byte) {
	if len(state) == 8 {
		n := binary.BigEndian.Uint64(state)
		d.base, d.last = n&^0xFFFF, n&0xFFFF
	}
}

func (d *decoder) values(dst []gateway.Value, results []reading) []gateway.Value {
	for i, r := range results {
		if r.err != nil {
			dst = append(dst, gateway.BadValue(d.names[i], r.err.Error()))
			continue
		}
		n := uint64(binary.BigEndian.Uint16(r.data))
		if d.counter {
			if n < d.last {
				d.base += 1 << 16
			}
			d.last = n
			n += d.base
		}
		dst = append(dst, gateway.UintValue(d.names[i], n))
	}
	return dst
}

// reporter is a stand-in.
type reporter struct {
	mode   string
	forced bool
	last   []gateway.Value
}

func newReporter(mode string, _ time.Duration, _ *decoder) *reporter {
	return &reporter{mode: mode, forced: true}
}

func (r *reporter) force() { r.forced = true }

func (r *reporter) take(values []gateway.Value, _ time.Time) []gateway.Value {
	if r.mode != "change" && r.mode != "changed" {
		return values
	}
	if !r.forced && slices.Equal(r.last, values) {
		return nil
	}
	r.forced, r.last = false, append(r.last[:0], values...)
	return values
}
