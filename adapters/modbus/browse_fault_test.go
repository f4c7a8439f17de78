package modbus

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/goburrow/modbus"
	"github.com/waystation-iot/waystation/gateway"
)

// exploring returns an explorer whose line is f, and where what it writes goes.
func exploring(t *testing.T, url string, f askedBy) (*explorer, *bytes.Buffer) {
	t.Helper()
	c := defaults()
	c.URL = url
	o, err := readOptions(map[string]string{"rate": "1000", "range": "0-99", "tables": "holding"}, url)
	if err != nil {
		t.Fatal(err)
	}
	out := &bytes.Buffer{}
	b := &gateway.Browse{Out: out, Progress: func(int, int, string) {}, Note: func(string, ...any) {}}
	return &explorer{b: b, o: o, c: c, creds: gateway.NewCredentials("", nil), line: f, timeout: o.timeout, left: 1}, out
}

// refuse answers with an exception.
func refuse(q *request, code byte) error {
	return &modbus.ModbusError{FunctionCode: q.function | exceptionBit, ExceptionCode: code}
}

// TestBrowseLineGone: a line that is lost among the models of SunSpec, and does
// not open again, ends it.
func TestBrowseLineGone(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = lis.Close()
	synctest.Test(t, func(t *testing.T) {
		e, _ := exploring(t, "tcp://"+lis.Addr().String(), func(_ context.Context, q *request) ([]byte, error) {
			switch {
			case q.function != readHolding:
				return nil, refuse(q, 1)
			case q.address == 40000:
				return []byte("SunS"), nil
			}
			return nil, io.EOF
		})
		if _, err := e.look(t.Context(), 1); err == nil || !strings.Contains(err.Error(), "connection refused") {
			t.Error(err)
		}
	})
}

// TestBrowseLate: a unit on a serial line that is not asked, because it answers
// so late, is not taken for one that has nothing; it is waited for.
func TestBrowseLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		free := time.Now()
		e, _ := exploring(t, "rtu:///dev/x", func(_ context.Context, q *request) ([]byte, error) {
			switch {
			case q.function != readHolding:
				return nil, refuse(q, 1)
			case time.Now().Before(free):
				return nil, &silence{0, errOwed}
			case q.address == 10: // owes too much from then on
				free = time.Now().Add(debtTime)
			}
			if q.address+q.count > 40 {
				return nil, refuse(q, 2)
			}
			return make([]byte, 2*q.count), nil
		})
		f, err := e.look(t.Context(), 1)
		if err != nil || len(f.tables) != 1 || rangesText(f.tables[0].ranges, 9) != "0 to 39" {
			t.Errorf("%+v, %v", f, err)
		}
	})
}

// TestBrowseSlow: as long as a unit seems to be gone it is waited for as long
// as is allowed, however fast it was before.
func TestBrowseSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _ := exploring(t, "rtu:///dev/x", func(ctx context.Context, q *request) ([]byte, error) {
			switch {
			case q.function != readHolding:
				return nil, refuse(q, 1)
			case q.timeout < 900*time.Millisecond:
				_ = pause(ctx, q.timeout)
				return nil, &silence{after: q.timeout}
			}
			_ = pause(ctx, 900*time.Millisecond)
			if q.address+q.count > 40 {
				return nil, refuse(q, 2)
			}
			return make([]byte, 2*q.count), nil
		})
		e.o.from, e.slowest = 20, 10*time.Millisecond
		f, err := e.look(t.Context(), 1)
		if err != nil || len(f.tables) != 1 || f.tables[0].ranges[len(f.tables[0].ranges)-1].To != 39 {
			t.Errorf("%+v, %v", f, err)
		}
	})
}

// runOf is a run of registers, read twice.
func runOf(from int, first, second []uint16) *run {
	r := &run{unit: 1, function: readHolding, from: from, n: len(first)}
	for i := range first {
		r.first = binary.BigEndian.AppendUint16(r.first, first[i])
		r.second = binary.BigEndian.AppendUint16(r.second, second[i])
	}
	return r
}

// TestGuessNeighbours: two whole numbers beside each other are no float, though
// in some order they may look like one: it would jump.
func TestGuessNeighbours(t *testing.T) {
	f := &found{}
	f.guess([]*run{runOf(0, []uint16{0x0049, 0x0077}, []uint16{0x003E, 0x0080})})
	if len(f.tables) != 1 || len(f.tables[0].points) != 2 || f.order != "" {
		t.Fatalf("%+v", f)
	}
	for _, p := range f.tables[0].points {
		if p.Type != "uint16" {
			t.Errorf("%+v", p)
		}
	}
	f = &found{} // one that moves as measured values do
	f.guess([]*run{runOf(0, []uint16{0x4366, 0x199A}, []uint16{0x4366, 0x8000})})
	if len(f.tables[0].points) != 1 || f.tables[0].points[0].Type != "float32" {
		t.Errorf("%+v", f.tables[0])
	}
}

// TestGuessZeros: of a map that is long, what is 0 between floats is left out
// and counted like everything else.
func TestGuessZeros(t *testing.T) {
	words := make([]uint16, 300)
	words[10], words[12], words[40] = 0x4366, 0x4367, 0x4466
	f := &found{}
	f.guess([]*run{runOf(0, words, words)})
	if n := len(f.tables[0].points); n != 3 || f.tables[0].zeros != 294 {
		t.Errorf("%d points, %d zeros: %+v", n, f.tables[0].zeros, f.tables[0].points)
	}
}

// TestBrowseWrites: nothing is written that says nothing.
func TestBrowseWrites(t *testing.T) {
	e, out := exploring(t, "rtu:///dev/x", nil)
	f := &found{unit: 1}
	f.guess([]*run{runOf(0, []uint16{1}, []uint16{2})})
	if err := e.write([]*found{f, {unit: 2}}); err != nil {
		t.Fatal(err)
	}
	if text := out.String(); strings.Contains(text, `name: ""`) || !strings.Contains(text, "serial: {baud: 19200, data_bits: 8, parity: even, stop_bits: 1}") {
		t.Error(text)
	}
}
