package modbus

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/waystation-iot/waystation/adapters/modbus/modbustest"
	"github.com/waystation-iot/waystation/gateway"
)

// browsed runs browse with options "name=value" and returns what it wrote and noted.
func browsed(t *testing.T, ctx context.Context, url string, set ...string) (out, notes string, err error) {
	t.Helper()
	options := map[string]string{"rate": "1000", "wait": "1ms"}
	for _, o := range set {
		k, v, _ := strings.Cut(o, "=")
		options[k] = v
	}
	var b, n bytes.Buffer
	last := 0
	err = browse(ctx, &gateway.Browse{URL: url, Options: options, Out: &b,
		Progress: func(done, total int, what string) {
			if done > total || done < last || total == 0 {
				t.Errorf("progress %d of %d after %d: %s", done, total, last, what)
			}
			last = done
		},
		Note: func(format string, args ...any) { fmt.Fprintf(&n, format+"\n", args...) }})
	return b.String(), n.String(), err
}

// floatWords makes registers of a float.
func floatWords(order string, v float64) []uint16 {
	bits := math.Float32bits(float32(v))
	hi, lo := uint16(bits>>16), uint16(bits)
	if order == "CDAB" {
		return []uint16{lo, hi}
	}
	return []uint16{hi, lo}
}

// meter fills a unit with what a meter has; values move with every request.
func meter(u *modbustest.Unit, order string) {
	u.SetIdentity(map[byte]string{0: "ACME # 1", 1: "M\"2", 2: "V1.4"})
	u.Allow(modbustest.Holding, 0, 19)
	u.Allow(modbustest.Holding, 100, 107)
	u.Allow(modbustest.Input, 30, 47)
	u.Allow(modbustest.Coil, 0, 9)
	u.SetHolding(0, 7, 0xFFF6, 0x8000, 0)
	u.SetHolding(10, 'S'<<8|'N', '-'<<8|'0', '4'<<8|'2', '9'<<8|'9', 0)
	u.SetCoil(3, true)
	var n atomic.Int64
	u.Compute(func(table string, addr int) (uint16, bool) {
		switch {
		case table == modbustest.Input:
			i := addr - 30
			return floatWords(order, 230.1+float64(i/2)*13+float64(n.Load()%2)*0.7)[i%2], true
		case table == modbustest.Holding && (addr == 100 || addr == 101):
			n.Add(1)
			v := uint32(0x0012D687) + uint32(n.Load())
			pair := []uint16{uint16(v >> 16), uint16(v)}
			if order == "CDAB" {
				slices.Reverse(pair)
			}
			return pair[addr-100], true
		}
		return 0, false
	})
}

// TestBrowse finds units, ranges, types and the order of words.
func TestBrowse(t *testing.T) {
	for _, order := range []string{"ABCD", "CDAB"} {
		s := modbustest.New()
		defer s.Close()
		for _, id := range []byte{3, 9} {
			meter(s.Unit(id), order)
		}
		addr, err := s.ListenTCP()
		if err != nil {
			t.Fatal(err)
		}
		out, notes, err := browsed(t, t.Context(), "modbus://"+addr, "units=1-10", "range=0-300", "timeout=60ms")
		if err != nil {
			t.Fatal(err, notes)
		}
		for _, want := range []string{
			"url: \"tcp://" + addr + "\"", "- name: unit-3", "- name: unit-9", "unit: 9", `name: "ACME # 1 M\"2 V1.4"`, "identify: true",
			"limits: {gap: 0}", "order: " + order,
			"# holding: 0 to 19, 100 to 107 can be read.", "# input: 30 to 47 can be read.", "# coil: 0 to 9 can be read.",
			"{name: holding_0, address: 0} # 7", "{name: holding_1, address: 1, type: int16} # -10",
			"{name: holding_2, address: 2} # 32768; 0x8000 often means that there is no value",
			"{name: holding_10, address: 10, type: string, count: 5} # \"SN-04299\"",
			"{name: holding_100, address: 100, type: uint32} # 12345", "it rises: a counter?",
			"{name: input_30, table: input, address: 30, type: float32} # 230.", "{name: input_46, table: input, address: 46, type: float32} # 334.",
			"{name: coil_3, table: coil, address: 3} # true", "- name: input\n",
		} {
			if !strings.Contains(out, want) {
				t.Errorf("%s: no %q in\n%s\n%s", order, want, out, notes)
			}
		}
		for _, q := range s.Requests() {
			if !slices.Contains([]byte{1, 2, 3, 4, 43}, q.Function) || q.Unit > 10 {
				t.Fatalf("asked %+v", q)
			}
		}
		if n := s.Counters().Requests; n > 400 {
			t.Errorf("%d requests", n)
		}
		if s.Counters().Connections != 1 {
			t.Errorf("%d connections", s.Counters().Connections)
		}
	}
}

// TestBrowseLimits: a device that takes 16 registers at a time, and one that
// gives values of two registers whole or not at all.
func TestBrowseLimits(t *testing.T) {
	s := modbustest.New()
	defer s.Close()
	s.Unit(1).Limit(16, 0)
	s.Unit(1).Allow(modbustest.Holding, 0, 99)
	s.Unit(1).SetHolding(98, 5)
	s.Unit(2).Allow(modbustest.Holding, 40, 59)
	s.Unit(2).SetHolding(40, 1, 2, 3)
	s.Unit(2).FaultFunc(func(q modbustest.Request) modbustest.Fault {
		if q.Address%2 != 0 || q.Count%2 != 0 {
			return modbustest.Fault{Exception: 2}
		}
		return modbustest.Fault{}
	})
	s.Unit(3).Allow(modbustest.Holding, 27, 59) // begins between the steps
	s.Unit(4).FaultFunc(func(q modbustest.Request) modbustest.Fault { return modbustest.Fault{Dead: q.Address+q.Count > 20} })
	addr, err := s.ListenTCP()
	if err != nil {
		t.Fatal(err)
	}
	out, notes, err := browsed(t, t.Context(), "modbus://"+addr, "units=1-4", "range=0-300", "tables=holding", "timeout=30ms")
	if !strings.Contains(notes, "unit 4: the rest of holding is left out: no answer") || s.Unit(4).Polls() > 40 {
		t.Errorf("%d requests to unit 4: %s", s.Unit(4).Polls(), notes)
	}
	for _, want := range []string{"# holding: 27 to 59 can be read.", "limits: {words: 16}", "# holding: 0 to 99 can be read.", "{name: holding_98, address: 98} # 5", "# holding: 40 to 59 can be read."} {
		if err != nil || !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s\n%s%v", want, out, notes, err)
		}
	}
}

// TestBrowseSunSpec follows the models beyond the range.
func TestBrowseSunSpec(t *testing.T) {
	s := modbustest.New()
	defer s.Close()
	u := s.Unit(1)
	u.Allow(modbustest.Holding, 40000, 40079)
	u.SetHolding(40000, 'S'<<8|'u', 'n'<<8|'S', 1, 66, 'A'<<8|'C', 'M'<<8|'E')
	u.SetHolding(40070, 103, 6, 1, 2, 3, 4, 5, 6, 0xFFFF, 0)
	addr, err := s.ListenTCP()
	if err != nil {
		t.Fatal(err)
	}
	out, _, err := browsed(t, t.Context(), "modbus://"+addr, "range=0-10", "tables=holding")
	for _, want := range []string{"1 at 40002 (66 registers), 103 at 40070 (6 registers)", "builtin:sunspec", "type: string, count: 3} # \"ACME\"", "40000 to 40077 can be read"} {
		if err != nil || !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s%v", want, out, err)
		}
	}
}

// TestBrowseEnds early with what was found: ctx, the number of requests, a line that is lost.
func TestBrowseEnds(t *testing.T) {
	s := modbustest.New()
	defer s.Close()
	s.Unit(1).SetHolding(3, 77)
	addr, err := s.ListenTCP()
	if err != nil {
		t.Fatal(err)
	}
	out, notes, err := browsed(t, t.Context(), "modbus://"+addr, "requests=30")
	if err != nil || !strings.Contains(out, "{name: holding_3, address: 3} # 77") || !strings.Contains(notes, "--set requests allows is reached") {
		t.Error(out, notes, err)
	}
	if n := s.Unit(1).Polls(); n > 62 {
		t.Errorf("%d requests", n)
	}
	ctx, cancel := withCause(t)
	s.FaultFunc(func(q modbustest.Request) modbustest.Fault {
		if q.Function == readHolding && q.Address > 2000 && q.Address < 9000 {
			cancel()
		}
		return modbustest.Fault{}
	})
	out, notes, err = browsed(t, ctx, "modbus://"+addr)
	if err != nil || !strings.Contains(out, "{name: holding_3, address: 3} # 77") || !strings.Contains(notes, "ended early: the test ends it") {
		t.Error(out, notes, err)
	}
	s.FaultFunc(nil)
	s.FaultOnce(modbustest.Fault{}, modbustest.Fault{Cut: true})
	out, notes, err = browsed(t, t.Context(), "modbus://"+addr, "range=0-9")
	if err != nil || !strings.Contains(out, "{name: holding_3, address: 3} # 77") || !strings.Contains(notes, "opening the line anew") {
		t.Error(out, notes, err)
	}
}

// TestBrowseNobody says why nothing was found.
func TestBrowseNobody(t *testing.T) {
	s := modbustest.New()
	defer s.Close()
	addr, err := s.ListenTCP()
	if err != nil {
		t.Fatal(err)
	}
	for url, want := range map[string]string{
		"modbus://" + addr:        "asked 1 and 255",
		"modbus+rtu://ttyUSB0":    "with three slashes",
		"modbus://":               "there is no host in it",
		"modbus://" + addr + "?x": "none of baud",
		"modbus+rtu:///dev/none?baud=9600&parity=odd&stop_bits=1&data_bits=8": "open /dev/none",
	} {
		if out, _, err := browsed(t, t.Context(), url, "timeout=20ms"); err == nil || out != "" || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", url, err)
		}
	}
	s.Gateway(0)
	if _, _, err := browsed(t, t.Context(), "modbus://"+addr); err == nil || !strings.Contains(err.Error(), "--set units=1-247") {
		t.Error(err)
	}
	for _, bad := range []string{"units=0", "units=5-2", "units=300", "range=0-70000", "tables=fifo", "tables=holding,holding", "rate=0", "rate=NaN", "requests=0", "timeout=1", "wait=2h", "tls.ca=x", "color=red"} {
		if _, _, err := browsed(t, t.Context(), "modbus://"+addr, bad); err == nil || !strings.Contains(err.Error(), "read --set ") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// TestBrowseLines goes over lines of other kinds.
func TestBrowseLines(t *testing.T) {
	s := modbustest.New()
	defer s.Close()
	s.Unit(2).SetHolding(3, 77)
	for scheme, listen := range map[string]func() (string, error){"modbus+udp": s.ListenUDP, "modbus+rtu+tcp": s.ListenRTUOverTCP, "modbus+ascii+tcp": s.ListenASCIIOverTCP} {
		addr, err := listen()
		if err != nil {
			t.Fatal(err)
		}
		out, notes, err := browsed(t, t.Context(), scheme+"://"+addr, "units=2", "range=0-9", "tables=holding")
		if err != nil || !strings.Contains(out, "{name: holding_3, address: 3} # 77") || !strings.Contains(out, strings.TrimPrefix(scheme, "modbus+")+"://"+addr) {
			t.Error(out, notes, err)
		}
	}
	a := newAuthority(t)
	o := a.files(t)
	out, _, err := browsed(t, t.Context(), "modbus+"+secureDevice(t, s, a, tls.VersionTLS13), "units=2", "range=0-9", "tables=holding", "tls.ca="+o.CA, "tls.cert="+o.Cert, "tls.key="+o.Key)
	if err != nil || !strings.Contains(out, "tls: {ca: \""+o.CA) {
		t.Error(out, err)
	}
}

// TestBrowseRate makes no more requests than are allowed in a second.
func TestBrowseRate(t *testing.T) {
	s := modbustest.New()
	defer s.Close()
	s.Unit(1).SetHolding(3, 77)
	addr, err := s.ListenTCP()
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err = browsed(t, t.Context(), "modbus://"+addr, "rate=100", "range=0-9", "tables=holding"); err != nil {
		t.Fatal(err)
	}
	all := s.Requests()
	least := time.Duration(len(all)-1) * 9 * time.Millisecond
	if took := all[len(all)-1].At.Sub(all[0].At); len(all) < 5 || took < least {
		t.Errorf("%d requests in %s", len(all), took)
	}
}
