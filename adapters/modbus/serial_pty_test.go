package modbus

import (
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/waystation-iot/waystation/adapters/modbus/modbustest"
)

// everyLine opens each kind of line without transaction identifiers, each to a
// plant of its own.
func everyLine(t *testing.T, fn func(t *testing.T, s *modbustest.Server, l line)) {
	for scheme, listen := range map[string]func(*modbustest.Server) (string, error){
		"rtu":       func(s *modbustest.Server) (string, error) { return ptyPath(s, modbustest.RTU) },
		"ascii":     func(s *modbustest.Server) (string, error) { return ptyPath(s, modbustest.ASCII) },
		"rtu+tcp":   (*modbustest.Server).ListenRTUOverTCP,
		"ascii+tcp": (*modbustest.Server).ListenASCIIOverTCP,
		"rtu+udp":   (*modbustest.Server).ListenRTUOverUDP,
	} {
		t.Run(scheme, func(t *testing.T) {
			t.Parallel()
			s := serialPlant(t)
			addr, err := listen(s)
			if err != nil {
				t.Fatal(err)
			}
			c := defaults()
			c.URL = scheme + "://" + addr
			open := openSerial
			if strings.Contains(scheme, "+") {
				open = openFramed
			}
			l, err := open(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = l.Close() }()
			fn(t, s, l)
		})
	}
}

func ptyPath(s *modbustest.Server, mode string) (string, error) {
	p, err := s.ListenPTY(modbustest.PTYOptions{Mode: mode})
	if err != nil {
		return "", err
	}
	return p.Path, nil
}

// TestEveryFunction reads each table over each kind of line.
func TestEveryFunction(t *testing.T) {
	everyLine(t, func(t *testing.T, s *modbustest.Server, l line) {
		u := s.Unit(9)
		for i := range 125 {
			u.SetHolding(i, uint16(0x3000+i))
			u.SetInput(i, uint16(0x4000+i))
		}
		for i := range 2000 {
			u.SetCoil(i, i%3 == 0)
			u.SetDiscrete(i, i%5 == 0)
		}
		u.SetFIFO(7, 1, 2, 3)
		u.SetIdentity(map[byte]string{0: "maker", 1: "product", 2: "V1"})
		ask := func(q *request) []byte {
			q.unit, q.timeout = 9, 2*time.Second
			data, err := l.Ask(t.Context(), q)
			if err != nil {
				t.Fatalf("%s: %v", q, err)
			}
			return data
		}
		for _, n := range []uint16{1, 2, 124, 125} {
			if d := ask(&request{function: readHolding, count: n}); len(d) != int(2*n) || binary.BigEndian.Uint16(d[2*n-2:]) != 0x3000+n-1 {
				t.Errorf("%d holding registers: %x", n, d)
			}
			if d := ask(&request{function: readInput, count: n}); len(d) != int(2*n) || binary.BigEndian.Uint16(d[2*n-2:]) != 0x4000+n-1 {
				t.Errorf("%d input registers: %x", n, d)
			}
		}
		for _, n := range []uint16{1, 8, 9, 2000} {
			if d := ask(&request{function: readCoils, count: n}); len(d) != int(n+7)/8 || d[0]&1 != 1 {
				t.Errorf("%d coils: %x", n, d)
			}
			if d := ask(&request{function: readDiscrete, count: n}); len(d) != int(n+7)/8 || d[0]&3 != 1 {
				t.Errorf("%d discrete inputs: %x", n, d)
			}
		}
		if d := ask(&request{function: readFIFO, address: 7}); string(d) != "\x00\x01\x00\x02\x00\x03" {
			t.Errorf("fifo: %x", d)
		}
		if d := ask(&request{function: encapsulated}); !strings.Contains(string(d), "product") {
			t.Errorf("identification: %q", d)
		}
		if d := ask(&request{function: readWrite, count: 2, writeAt: 300, write: []uint16{5}}); len(d) != 4 || u.Holding(300) != 5 {
			t.Errorf("read and write: %x", d)
		}
		if _, err := l.Ask(t.Context(), &request{unit: 9, function: readHolding, address: 65530, count: 10, timeout: time.Second}); exception(err) != 2 {
			t.Errorf("behind the last register: %v", err)
		}
		if _, err := l.Ask(t.Context(), &request{function: readHolding, count: 1, timeout: time.Second}); err == nil {
			t.Error("unit 0 answered, which is all units")
		}
	})
}

// TestLateOnEveryLine: with the simulator's late, lost, spoilt and foreign answers
// no value is ever that to another request. Each says its unit, its register
// and the request in which it was read.
func TestLateOnEveryLine(t *testing.T) {
	everyLine(t, func(t *testing.T, s *modbustest.Server, l line) {
		for unit := byte(1); unit <= 3; unit++ {
			u := s.Unit(unit)
			u.Compute(func(_ string, addr int) (uint16, bool) {
				return uint16(unit)<<12 | uint16(addr&0xf)<<8 | uint16(u.Polls())&0xff, true
			})
		}
		r, fate := rand.New(rand.NewPCG(7, 7)), rand.New(rand.NewPCG(8, 8))
		const timeout = 20 * time.Millisecond
		s.FaultFunc(func(modbustest.Request) modbustest.Fault {
			switch n := fate.IntN(100); {
			case n < 12: // and the next is read after that
				return modbustest.Fault{Delay: timeout + time.Duration(fate.IntN(int(2*timeout)))}
			case n < 16:
				return modbustest.Fault{Dead: true}
			case n < 20:
				return modbustest.Fault{Garble: 3}
			case n < 24:
				return modbustest.Fault{Noise: []byte{0, 0xff}}
			case n < 28:
				return modbustest.Fault{Dribble: 100 * time.Microsecond}
			case n < 30:
				return modbustest.Fault{WrongUnit: true}
			}
			return modbustest.Fault{}
		})
		defer s.FaultFunc(nil)
		answered := 0
		for i := range 90 {
			unit := byte(1 + i%3)
			q := &request{unit: unit, function: readHolding, address: uint16(r.IntN(8)), count: uint16(1 + r.IntN(3)), timeout: timeout}
			before := s.Unit(unit).Polls()
			data, err := l.Ask(t.Context(), q)
			if err != nil {
				if !isSilence(err) {
					t.Fatalf("%s: %v", q, err)
				}
				continue
			}
			answered++
			for j := range q.count {
				v := binary.BigEndian.Uint16(data[2*j:])
				age := byte(v) - byte(before) // of requests to the unit, this one is 1 or a little more
				if v>>12 != uint16(unit) || v>>8&0xf != q.address+j || age == 0 || age > 2*maxDebts {
					t.Fatalf("%s of unit %d, asked after request %d: register %d has %#04x", q, unit, byte(before), q.address+j, v)
				}
			}
		}
		if answered < 30 {
			t.Errorf("%d of 90 answered", answered)
		}
	})
}

// TestPulled: an adapter that is pulled while a unit is waited for is told at
// once, and the same path works again when it is back.
func TestPulled(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	s := serialPlant(t)
	defer s.Close()
	l, pty := onPTY(t, s, "", 0)
	if _, err := l.Ask(t.Context(), holding(1, time.Second)); !isSilence(err) { // nobody there
		t.Fatal(err)
	}
	s.Unit(1).SetHolding(0, 42)
	s.Unit(1).FaultFunc(func(modbustest.Request) modbustest.Fault {
		go pty.Pull()
		return modbustest.Fault{Dead: true}
	})
	begin := time.Now()
	_, err := l.Ask(t.Context(), holding(1, time.Minute))
	if err == nil || isSilence(err) || time.Since(begin) > 5*time.Second || !strings.Contains(err.Error(), "it is gone") {
		t.Fatalf("%v after %v, want that the port is gone, at once", err, time.Since(begin))
	}
	if _, err := l.Ask(t.Context(), holding(1, time.Minute)); err == nil || isSilence(err) {
		t.Fatalf("asked again: %v", err)
	}
	_ = l.Close()
	c := defaults()
	c.URL = "rtu://" + pty.Path
	if _, err := openSerial(t.Context(), c); err == nil || !strings.Contains(err.Error(), "no such port") {
		t.Fatalf("opened without the adapter: %v", err)
	}
	s.Unit(1).FaultFunc(nil)
	if err := pty.Plug(); err != nil {
		t.Fatal(err)
	}
	again, err := openSerial(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = again.Close() }()
	if data, err := again.Ask(t.Context(), holding(1, time.Second)); err != nil || data[1] != 42 {
		t.Fatalf("after it was plugged in again: %x, %v", data, err)
	}
}

func holding(unit byte, timeout time.Duration) *request {
	return &request{unit: unit, function: readHolding, count: 1, timeout: timeout}
}

// TestAskEnds: Close by another goroutine ends Ask, and so does its context.
func TestAskEnds(t *testing.T) {
	everyLine(t, func(t *testing.T, s *modbustest.Server, l line) {
		s.Unit(1).Fault(modbustest.Fault{Dead: true})
		ends := func(end func(), ctx context.Context) {
			t.Helper()
			before, done := s.Unit(1).Polls(), make(chan error)
			go func() {
				_, err := l.Ask(ctx, holding(1, time.Minute))
				done <- err
			}()
			for limit := time.Now().Add(10 * time.Second); s.Unit(1).Polls() == before; {
				if time.Now().After(limit) {
					t.Fatal("no request came")
				}
				<-time.After(time.Millisecond)
			}
			begin := time.Now()
			end()
			if err := <-done; err == nil || isSilence(err) || time.Since(begin) > 2*time.Second {
				t.Fatalf("%v, %v later", err, time.Since(begin))
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		ends(cancel, ctx)
		ends(func() { _ = l.Close() }, t.Context())
	})
}

// TestPortErrors: what a person can do is said.
func TestPortErrors(t *testing.T) {
	s := serialPlant(t)
	l, pty := onPTY(t, s, "", 0)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"/dev/serial/by-id/usb-none": "no such port (there ",
		file:                         "it is not a serial port",
		pty.Path:                     "another program uses it (by another line of this gateway)",
	} {
		c := defaults()
		c.URL = "rtu://" + path
		if l, err := openSerial(t.Context(), c); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("open %s: %v, want %q", path, err, want)
			if err == nil {
				_ = l.Close()
			}
		}
	}
	_ = l.Close()
	c := defaults()
	c.URL, c.Serial.RS485.Enabled = "rtu://"+pty.Path, true
	if _, err := openSerial(t.Context(), c); err == nil || !strings.Contains(err.Error(), "leave out serial.rs485") {
		t.Errorf("RS-485 on a port that cannot: %v", err)
	}
	c.Serial.RS485.Enabled = false
	again, err := openSerial(t.Context(), c)
	if err != nil {
		t.Fatalf("a port is held after it could not be set: %v", err)
	}
	_ = again.Close()
	if err := openError(file, os.ErrPermission); !strings.Contains(err.Error(), "usermod -aG") {
		t.Error(err)
	}
	for url, want := range map[string]string{
		"tcp://127.0.0.1:1": "tcp://127.0.0.1:1", "rtu+x://127.0.0.1:1": "rtu+x://127.0.0.1:1",
		"rtu+tcp://127.0.0.1:1": "connect tcp 127.0.0.1:1: connect: connection refused (the host is there, the port is closed",
	} {
		c := defaults()
		c.URL = url
		if _, err := openFramed(t.Context(), c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", url, err)
		}
	}
	if _, err := openSerial(t.Context(), &Config{URL: "rtu://"}); err == nil {
		t.Error("a line without a port opened")
	}
	var gone *os.PathError
	if errors.As(err, &gone) {
		t.Error(err)
	}
}

// TestPortSet: the port is set as the options say.
func TestPortSet(t *testing.T) {
	dev := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	if got := otherPorts(dev); !strings.Contains(got, "no serial port at all") {
		t.Error(got)
	}
	must(os.MkdirAll(filepath.Join(dev, "serial", "by-id"), 0o700))
	must(os.WriteFile(filepath.Join(dev, "ttyUSB0"), nil, 0o600))
	must(os.WriteFile(filepath.Join(dev, "ttyAMA0"), nil, 0o600))
	must(os.Symlink("../../ttyUSB0", filepath.Join(dev, "serial", "by-id", "usb-FTDI_1")))
	got := otherPorts(dev)
	if !strings.Contains(got, "usb-FTDI_1") || !strings.Contains(got, "ttyAMA0") || strings.Contains(got, "ttyUSB0") {
		t.Errorf("ports: %s", got)
	}
	proc, port := t.TempDir(), filepath.Join(dev, "ttyAMA0")
	must(os.MkdirAll(filepath.Join(proc, "77", "fd"), 0o700))
	must(os.WriteFile(filepath.Join(proc, "77", "comm"), []byte("minicom\n"), 0o600))
	must(os.Symlink(port, filepath.Join(proc, "77", "fd", "3")))
	if got := holders(proc, port); got != "by minicom, process 77" {
		t.Errorf("holders: %s", got)
	}
}

// TestCharTime goes by section 2.5.1 of MODBUS over Serial Line V1.02.
func TestCharTime(t *testing.T) {
	for _, c := range []struct {
		s             Serial
		char, silence time.Duration // microseconds
	}{
		{Serial{Baud: 9600, DataBits: 8, Parity: "even"}, 1145, 4010},
		{Serial{Baud: 9600, DataBits: 8, Parity: "none"}, 1145, 4010},
		{Serial{Baud: 9600, DataBits: 8, Parity: "none", StopBits: 1}, 1041, 4010},
		{Serial{Baud: 9600, DataBits: 7, Parity: "odd"}, 1041, 4010},
		{Serial{Baud: 19200, DataBits: 8, Parity: "even"}, 572, 2005},
		{Serial{Baud: 38400, DataBits: 8, Parity: "even"}, 286, 1750},
		{Serial{Baud: 115200, DataBits: 8, Parity: "even", StopBits: 2}, 104, 1750},
		{Serial{}, 0, 1750},
	} {
		if char, silence := c.s.charTime()/1000, c.s.silence()/1000; char != c.char || silence != c.silence {
			t.Errorf("%+v: character %d, silence %d µs, want %d and %d", c.s, char, silence, c.char, c.silence)
		}
	}
}
