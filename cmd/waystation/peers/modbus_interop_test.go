//go:build interop

package peers

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// cells are what the slaves of the tests hold.
func cells() []ModbusCell {
	return []ModbusCell{
		{Table: "coil", Address: 3, Type: "bool", Value: "true"},
		{Table: "coil", Address: 4, Type: "bool", Value: "false"},
		{Table: "discrete", Address: 5, Type: "bool", Value: "true"},
		{Table: "holding", Address: 0, Type: "uint16", Value: "4660"},
		{Table: "holding", Address: 1, Type: "float32", Value: "1.5"},
		{Table: "holding", Address: 3, Type: "float32", Order: "CDAB", Value: "-2.25"},
		{Table: "holding", Address: 5, Type: "uint64", Order: "DCBA", Value: "72623859790382856"}, // 0x0102030405060708
		{Table: "holding", Address: 9, Type: "uint16", Order: "BADC", Value: "513"},
		{Table: "input", Address: 2, Type: "int16", Value: "-10"},
	}
}

// mbpoll asks once and wants these values from the address on.
func mbpoll(t *testing.T, want map[int]string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	got, err := Mbpoll(ctx, args...)
	if err != nil {
		t.Error(err)
		return
	}
	for at, text := range want {
		if got[at] != text {
			t.Errorf("mbpoll %s: %d is %q, want %q", strings.Join(args, " "), at, got[at], text)
		}
	}
}

// onTCP is how mbpoll reaches a slave on TCP.
func onTCP(s *ModbusSlave, args ...string) []string {
	host, port, _ := net.SplitHostPort(strings.TrimPrefix(s.URL, "tcp://"))
	return append([]string{"-m", "tcp", "-p", port, host}, args...)
}

// judgeCells has mbpoll read all that cells names.
func judgeCells(t *testing.T, by ...string) {
	t.Helper()
	ask := func(args ...string) []string { return append(append([]string(nil), by...), args...) }
	mbpoll(t, map[int]string{3: "1", 4: "0"}, ask("-t", "0", "-r", "3", "-c", "2")...)
	mbpoll(t, map[int]string{5: "1"}, ask("-t", "1", "-r", "5", "-c", "1")...)
	mbpoll(t, map[int]string{0: "0x1234", 5: "0x0807", 6: "0x0605", 7: "0x0403", 8: "0x0201", 9: "0x0102"}, ask("-t", "4:hex", "-r", "0", "-c", "10")...)
	mbpoll(t, map[int]string{1: "1.5"}, ask("-t", "4:float", "-B", "-r", "1", "-c", "1")...)
	mbpoll(t, map[int]string{3: "-2.25"}, ask("-t", "4:float", "-r", "3", "-c", "1")...)
	mbpoll(t, map[int]string{2: "65526"}, ask("-t", "3", "-r", "2", "-c", "1")...)
}

func startPyModbus(t *testing.T, how PyModbus) *ModbusSlave {
	t.Helper()
	s, err := StartPyModbus(t.TempDir(), how)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Kill() })
	return s
}

func startWire(t *testing.T) *Wire {
	t.Helper()
	w, err := StartWire(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Kill() })
	return w
}

// TestPeersModbusHoldsWhatItIsTold lets one foreign program read the other.
func TestPeersModbusHoldsWhatItIsTold(t *testing.T) {
	py := startPyModbus(t, PyModbus{Line: "tcp", Cells: cells()})
	judgeCells(t, onTCP(py)...)
	must(t, py.Restart())
	judgeCells(t, onTCP(py)...)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if got, err := Mbpoll(ctx, onTCP(py, "-t", "4", "-r", "11", "-c", "1")...); err == nil {
		t.Errorf("an address that is not there: %v", got)
	}

	js, err := StartModbusJS(t.TempDir(), "modbus-serial", cells())
	must(t, err)
	t.Cleanup(func() { _ = js.Kill() })
	judgeCells(t, onTCP(js)...)

	wire := startWire(t)
	startPyModbus(t, PyModbus{Line: "rtu", Device: wire.B, Cells: cells()})
	judgeCells(t, "-m", "rtu", "-b", "19200", "-P", "none", wire.A)
}

// TestPeersWireIsPulled makes a wire again under the same names.
func TestPeersWireIsPulled(t *testing.T) {
	wire := startWire(t)
	for _, pull := range []func() error{wire.Stop, wire.Kill} {
		must(t, pull())
		must(t, wire.Start())
		slave, err := StartLibModbus(t.TempDir(), wire.B)
		must(t, err)
		mbpoll(t, map[int]string{7: "7", 8: "8"}, "-m", "rtu", "-b", "19200", "-P", "none", wire.A, "-t", "4", "-r", "7", "-c", "2")
		must(t, slave.Kill())
	}
}

// ask sends a request of function 3 for two registers over conn, under
// transaction 0x0102 to unit 1, and wants this answer, in hex; "" is silence.
// It returns how long the answer took.
func ask(t *testing.T, conn net.Conn, at int, want string) time.Duration {
	t.Helper()
	began := time.Now()
	_, err := conn.Write([]byte{1, 2, 0, 0, 0, 6, 1, 3, byte(at >> 8), byte(at), 0, 2})
	must(t, err)
	wait := 20 * time.Second
	if want == "" {
		wait = 200 * time.Millisecond
	}
	must(t, conn.SetReadDeadline(began.Add(wait)))
	got := make([]byte, max(1, len(want)/2))
	n, _ := io.ReadFull(conn, got)
	if hex.EncodeToString(got[:n]) != want {
		t.Errorf("registers from %d: % x, want %s", at, got[:n], want)
	}
	return time.Since(began)
}

// TestPeersFaultsOfModbusSlaves holds what the bad slaves do, byte for byte.
func TestPeersFaultsOfModbusSlaves(t *testing.T) {
	bad, err := StartLibModbus(t.TempDir(), "")
	must(t, err)
	t.Cleanup(func() { _ = bad.Kill() })
	mbpoll(t, map[int]string{7: "7", 8: "8"}, onTCP(bad, "-t", "4", "-r", "7", "-c", "2")...)
	mbpoll(t, map[int]string{7: "20007"}, onTCP(bad, "-t", "3", "-r", "7", "-c", "1")...)
	conn, err := net.Dial("tcp", strings.TrimPrefix(bad.URL, "tcp://"))
	must(t, err)
	defer conn.Close()
	good := func(at int) string {
		return fmt.Sprintf("010200000007010304%04x%04x", at, at+1)
	}
	for _, c := range []struct {
		at   int
		want string
		took time.Duration // at least
	}{
		{5, good(5), 0}, {ModbusLast - 1, good(ModbusLast - 1), 0}, {ModbusLast, "010200000003018302", 0},
		{ModbusWrongUnit, strings.Replace(good(ModbusWrongUnit), "000701", "000702", 1), 0},
		{ModbusDribble, good(ModbusDribble), 13 * 5 * time.Millisecond}, {ModbusLate, good(ModbusLate), 600 * time.Millisecond},
		{ModbusWrongID, "0103" + good(ModbusWrongID)[4:], 0}, {ModbusSilent, "", 0}, {ModbusBusy, "010200000003018306", 0},
		{ModbusTwice, good(ModbusTwice) + good(ModbusTwice), 0},
	} {
		if took := ask(t, conn, c.at, c.want); took < c.took {
			t.Errorf("registers from %d: answered after %s, want at least %s", c.at, took, c.took)
		}
	}

	js, err := StartModbusJS(t.TempDir(), "jsmodbus", cells())
	must(t, err)
	t.Cleanup(func() { _ = js.Kill() })
	conn2, err := net.Dial("tcp", strings.TrimPrefix(js.URL, "tcp://"))
	must(t, err)
	defer conn2.Close()
	ask(t, conn2, 1, "010200000007010304"+"3fc00000")
	ask(t, conn2, 50, "010200000003010300") // success with 0 bytes
}
