package modbus

import (
	"errors"
	"slices"
	"time"

	"github.com/goburrow/modbus"
)

// Lines without transaction identifiers: which request does an answer belong
// to? A unit that was silent may answer later, and its answer looks like that
// to any request of the same function and length. So it is remembered what a
// unit owes, and an answer is believed only when it cannot be an old one; see
// docs/decisions/0018-serial-lines.md.

const (
	// debtTime is how long an answer may still come, at least.
	debtTime = 10 * time.Second
	// debtTimes is the same in time-outs of the request.
	debtTimes = 5
	// maxDebts is how many answers a unit may owe. It is not asked again before
	// one has come or is taken for lost.
	maxDebts = 8
	// maxSettled is the same for those that should not come any more.
	maxSettled = 32
)

// debt is a request whose answer has not come.
type debt struct {
	function byte
	bytes    int       // of the PDU of its answer, 0 when only the answer tells
	until    time.Time // from then on it is taken for lost
	// settled says that a request made after it was answered: a unit that
	// answers in the order of its requests will not come back to it.
	settled bool
	// exchange is that of a request made again because an old answer came; it
	// was answered, most likely. 0: it was waited for in vain.
	exchange uint64
}

// fits reports whether p may be the answer.
func (d *debt) fits(p *modbus.ProtocolDataUnit) bool {
	if p.FunctionCode == d.function|exceptionBit {
		return true
	}
	return p.FunctionCode == d.function && (d.bytes == 0 || d.bytes == 1+len(p.Data))
}

// debtor is one unit and what it owes, in the order in which it was asked.
type debtor struct {
	debts []debt
	turn  time.Duration // from the end of a request to its answer, the longest of late; 0 = not known
}

// owe notes that q was sent and not answered.
func (d *debtor) owe(q *request, until time.Time, exchange uint64) {
	d.debts = append(d.debts, debt{q.function, q.answerBytes(), until, false, exchange})
}

// owed returns how long an answer to q may be owed that was sent at a time.
func owed(q *request, sent time.Time) time.Time {
	return sent.Add(max(debtTime, debtTimes*q.timeout))
}

// full reports whether so much is owed that the unit is not to be asked.
func (d *debtor) full() bool {
	open := 0
	for i := range d.debts {
		if !d.debts[i].settled {
			open++
		}
	}
	return open >= maxDebts || len(d.debts) >= maxSettled
}

// asked reports whether an answer of this function is owed.
func (d *debtor) asked(function byte) bool {
	for i := range d.debts {
		if d.debts[i].function == function {
			return true
		}
	}
	return false
}

// owes reports whether an answer of this function and length is owed.
func (d *debtor) owes(function byte, size int) bool {
	for i := range d.debts {
		if d.debts[i].function == function && (d.debts[i].bytes == size || d.debts[i].bytes == 0) {
			return true
		}
	}
	return false
}

// forget drops what is taken for lost by now.
func (d *debtor) forget(now time.Time) {
	d.debts = slices.DeleteFunc(d.debts, func(o debt) bool { return !now.Before(o.until) })
}

// verdict is what a frame of a unit is.
type verdict int

const (
	itsAnswer verdict = iota
	oldAnswer         // may be to a request that was given up: it is not believed
	noAnswer          // to none that is known
)

// judge says what p is when q is being asked. What was asked for before that
// to which it belongs is settled. until is that of the debt it was taken for.
func (d *debtor) judge(p *modbus.ProtocolDataUnit, q *request, exchange uint64) (v verdict, until time.Time) {
	for i := range d.debts {
		o := d.debts[i]
		if o.settled || !o.fits(p) {
			continue
		}
		d.settle(i + 1)
		if o.exchange != 0 {
			d.debts = slices.Delete(d.debts, i, i+1)
		}
		if o.exchange == exchange {
			return itsAnswer, o.until
		}
		return oldAnswer, o.until
	}
	if answers(q, p) {
		d.settle(len(d.debts))
		return itsAnswer, time.Time{}
	}
	d.strike(p)
	return noAnswer, time.Time{}
}

// settle marks the first n debts.
func (d *debtor) settle(n int) {
	for i := range d.debts[:n] {
		d.debts[i].settled = true
	}
}

// strike drops what p, which cannot be another's, is the answer to. Where
// several are owed that look like it, none can be told to have come.
func (d *debtor) strike(p *modbus.ProtocolDataUnit) {
	found := -1
	for i := range d.debts {
		if !d.debts[i].fits(p) {
			continue
		}
		if found >= 0 {
			return
		}
		found = i
	}
	if found >= 0 {
		d.settle(found)
		d.debts = slices.Delete(d.debts, found, found+1)
	}
}

// doubtful reports whether p may be the answer to something settled, from a
// unit that does not keep the order.
func (d *debtor) doubtful(p *modbus.ProtocolDataUnit) bool {
	for i := range d.debts {
		if d.debts[i].settled && d.debts[i].fits(p) {
			return true
		}
	}
	return false
}

// answers reports whether p has the form of an answer to q, an exception included.
func answers(q *request, p *modbus.ProtocolDataUnit) bool {
	_, err := q.answer(p)
	var refused *modbus.ModbusError
	return err == nil || errors.As(err, &refused)
}

// sign returns a request to make before q when an answer is owed that would
// look like that to q: a read of fewer of the same registers, whose answer is
// of a length that is owed by no other. When it comes, what was asked for
// before is settled. nil: none is needed, or there is none.
func (d *debtor) sign(q *request) *request {
	same := false
	for i := range d.debts {
		o := &d.debts[i]
		same = same || !o.settled && o.function == q.function && (o.bytes == 0 || o.bytes == q.answerBytes())
	}
	if !same {
		return nil
	}
	s := *q
	step := uint16(1)
	switch q.function {
	case readHolding, readInput:
	case readCoils, readDiscrete:
		step = 8
	default:
		return nil
	}
	// Two registers first: many devices refuse half of a value.
	for _, k := range [...]uint16{2, 1, 4, 3, 6, 5, 8, 7, 10, 9} {
		s.count = k * step
		if s.count < q.count && s.answerBytes() != q.answerBytes() && !d.owes(s.function, s.answerBytes()) {
			return &s
		}
	}
	return nil
}
