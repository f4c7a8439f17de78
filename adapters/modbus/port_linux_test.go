package modbus

import (
	"encoding/binary"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/waystation-iot/waystation/adapters/modbus/modbustest"
)

// TestTermios: the port is raw and has the speed and the stop bits of the
// options. A pseudo terminal knows neither parity nor 7 bits.
func TestTermios(t *testing.T) {
	s := serialPlant(t)
	for _, c := range []struct {
		s     Serial
		stops bool
	}{
		{Serial{Baud: 9600, DataBits: 8, Parity: "none"}, true},
		{Serial{Baud: 9600, DataBits: 8, Parity: "none", StopBits: 1}, false},
		{Serial{Baud: 115200, DataBits: 8, Parity: "even"}, false},
		{Serial{Baud: 250000, DataBits: 8, Parity: "odd", StopBits: 2}, true}, // none of POSIX
	} {
		pty, err := s.ListenPTY(modbustest.PTYOptions{})
		if err != nil {
			t.Fatal(err)
		}
		opened, err := openPort(pty.Path, &c.s)
		if err != nil {
			t.Fatalf("%+v: %v", c.s, err)
		}
		p := opened.(*port)
		err = p.do(func(fd int) error {
			got, err := unix.IoctlGetTermios(fd, unix.TCGETS2)
			if err != nil {
				return err
			}
			if int(got.Ospeed) != c.s.Baud || got.Cflag&unix.CSTOPB != 0 != c.stops || got.Lflag&(unix.ICANON|unix.ECHO|unix.ISIG) != 0 ||
				got.Iflag&(unix.IXON|unix.ICRNL|unix.ISTRIP) != 0 || got.Oflag&unix.OPOST != 0 || got.Cflag&unix.CRTSCTS != 0 {
				t.Errorf("%+v: %+v", c.s, got)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		if err := p.checkSpeed("/dev/x", 2*c.s.Baud); err == nil || !strings.Contains(err.Error(), "instead of") {
			t.Errorf("another speed than asked for: %v", err)
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestRS485 holds what the driver gets: struct serial_rs485 of linux/serial.h.
func TestRS485(t *testing.T) {
	for _, c := range []struct {
		r    RS485
		want [3]uint32
	}{
		{RS485{Enabled: true}, [3]uint32{1 | 2}},
		{RS485{Enabled: true, RTSLow: true, DelayBefore: 2 * time.Millisecond, DelayAfter: 3 * time.Millisecond}, [3]uint32{1 | 4, 2, 3}},
		{RS485{Enabled: true, ReceiveOwn: true}, [3]uint32{1 | 2 | 16}},
	} {
		d := c.r.driver()
		raw := (*[32]byte)(unsafe.Pointer(&d))
		for i, w := range c.want {
			if got := binary.NativeEndian.Uint32(raw[4*i:]); got != w {
				t.Errorf("%+v: word %d is %#x, want %#x", c.r, i, got, w)
			}
		}
	}
	if n := unsafe.Sizeof(serialRS485{}); n != 32 {
		t.Errorf("%d bytes, want 32", n)
	}
}
