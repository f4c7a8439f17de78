package modbus

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/goburrow/modbus"

	"github.com/waystation-iot/waystation/adapters/modbus/modbustest"
)

// told is the value of a register: no two units and addresses of a test have
// the same, so that every mix-up is seen.
func told(unit byte, function byte, addr int) uint16 {
	return uint16(addr*40503) ^ uint16(unit)<<9 ^ uint16(function)<<13
}

// tellingPlant makes a simulator whose units tell who they are in every register.
func tellingPlant(t testing.TB, units ...byte) *modbustest.Server {
	t.Helper()
	s := modbustest.New()
	t.Cleanup(s.Close)
	for _, id := range units {
		s.Unit(id).Compute(func(table string, addr int) (uint16, bool) {
			f := functionOf(table)
			if f <= readDiscrete {
				return told(id, f, addr) & 1, true
			}
			return told(id, f, addr), true
		})
	}
	return s
}

// truth fails the test when data is not what the unit holds.
func truth(t testing.TB, q *request, data []byte) {
	t.Helper()
	if err := judge(q, data); err != nil {
		t.Fatal(err)
	}
}

func judge(q *request, data []byte) error {
	if q.function <= readDiscrete {
		for i := range int(q.count) {
			if got, want := uint16(data[i/8]>>(i%8))&1, told(q.unit, q.function, int(q.address)+i)&1; got != want {
				return fmt.Errorf("unit %d %s: bit %d is %d, not %d", q.unit, q, i, got, want)
			}
		}
		return nil
	}
	if len(data) != 2*int(q.count) {
		return fmt.Errorf("unit %d %s: %d bytes", q.unit, q, len(data))
	}
	for i := range int(q.count) {
		if got, want := binary.BigEndian.Uint16(data[2*i:]), told(q.unit, q.function, int(q.address)+i); got != want {
			return fmt.Errorf("unit %d %s: register %d is %d, not %d", q.unit, q, i, got, want)
		}
	}
	return nil
}

// openLine opens a line, which is closed with the test.
func openLine(t testing.TB, url string, pipeline int) line {
	t.Helper()
	l, err := open(t.Context(), &Config{URL: url, Connect: 5 * time.Second, Pipeline: pipeline}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// tcpLine opens a line to a simulator.
func tcpLine(t testing.TB, s *modbustest.Server, pipeline int) line {
	t.Helper()
	addr, err := s.ListenTCP()
	if err != nil {
		t.Fatal(err)
	}
	return openLine(t, "tcp://"+addr, pipeline)
}

// counted returns what a line dropped.
func counted(l line) (late, foreign int64) {
	return l.(interface{ dropped() (int64, int64) }).dropped()
}

// rawDevice listens on TCP and gives each connection to serve.
func rawDevice(t *testing.T, serve func(c net.Conn)) (url string) {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := lis.Accept()
			if err != nil {
				return
			}
			serve(c)
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = lis.Close(); <-ended })
	return "tcp://" + lis.Addr().String()
}

// request12 reads one request of 12 bytes; ok is false at the end.
func request12(c net.Conn) (q [12]byte, ok bool) {
	for n := 0; n < len(q); {
		m, err := c.Read(q[n:])
		if err != nil {
			return q, false
		}
		n += m
	}
	return q, true
}

// adu makes an answer.
func adu(id uint16, unit byte, pdu ...byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, id)
	b = append(b, 0, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(len(pdu)+1))
	return append(append(b, unit), pdu...)
}

var errStop = errors.New("the test ends it")

// withCause is a context that ends with the test, or by cancel with errStop.
func withCause(t testing.TB) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(t.Context())
	return ctx, func() { cancel(errStop) }
}

type ctxType = context.Context

func pduOf(function byte, data []byte) *modbus.ProtocolDataUnit {
	return &modbus.ProtocolDataUnit{FunctionCode: function, Data: data}
}
