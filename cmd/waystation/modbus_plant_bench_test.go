//go:build bench

package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/waystation-iot/waystation/adapters/modbus/modbustest"
)

// plantVar holds the plantSpec of a simulated plant in a process of its own.
const plantVar = "WAYSTATION_MODBUS_PLANT"

// plantSpec says what is simulated. Every slave holds whatever registers it
// is asked for.
type plantSpec struct {
	Slaves int  // how many
	Dead   int  // how many of them, the last ones, take requests and never answer
	Shared bool // they are units of one TCP line; else each has a port
	Baud   int  // they are units of one serial line that keeps its time; 0 = TCP
}

// slaveCount is what came to one slave since the last reset.
type slaveCount struct {
	Polls int
	Gap   time.Duration // the longest between two requests
}

// TestModbusPlant is the plant, when the benchmark has started it; by itself
// it does nothing. It writes the URLs, and with each line it reads the counts
// since the line before.
func TestModbusPlant(t *testing.T) {
	text := os.Getenv(plantVar)
	if text == "" {
		return
	}
	var spec plantSpec
	if err := json.Unmarshal([]byte(text), &spec); err != nil {
		t.Fatal(err)
	}
	p := &servedPlant{spec: spec, counts: make([]slaveCount, spec.Slaves), last: make([]time.Time, spec.Slaves)}
	urls, err := p.open()
	if err != nil {
		t.Fatal(err)
	}
	out := json.NewEncoder(os.Stdout)
	if err := out.Encode(urls); err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		if err := out.Encode(p.take()); err != nil {
			t.Fatal(err)
		}
	}
}

// servedPlant counts what comes to its slaves.
type servedPlant struct {
	spec plantSpec

	mu     sync.Mutex // guards counts and last
	counts []slaveCount
	last   []time.Time // of the request before; zero = none since the reset
}

// open starts the slaves and returns the lines on which they are.
func (p *servedPlant) open() ([]string, error) {
	if !p.spec.Shared && p.spec.Baud == 0 {
		urls := make([]string, p.spec.Slaves)
		for i := range urls {
			s := modbustest.New()
			s.Unit(1).Log(0)
			s.FaultFunc(func(q modbustest.Request) modbustest.Fault { return p.came(i, q.At) })
			addr, err := s.ListenTCP()
			if err != nil {
				return nil, err
			}
			urls[i] = "tcp://" + addr
		}
		return urls, nil
	}
	s := modbustest.New()
	for i := range p.spec.Slaves {
		s.Unit(byte(i + 1)).Log(0)
	}
	s.FaultFunc(func(q modbustest.Request) modbustest.Fault { return p.came(int(q.Unit)-1, q.At) })
	if p.spec.Baud > 0 {
		pty, err := s.ListenPTY(modbustest.PTYOptions{Baud: p.spec.Baud, Link: filepath.Join(os.Getenv(plantVar+"_DIR"), "tty")})
		if err != nil {
			return nil, err
		}
		return []string{"rtu://" + pty.Path}, nil
	}
	addr, err := s.ListenTCP()
	return []string{"tcp://" + addr}, err
}

// came counts one request to slave i and says whether it is answered.
func (p *servedPlant) came(i int, at time.Time) modbustest.Fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := &p.counts[i]
	c.Polls++
	if !p.last[i].IsZero() {
		c.Gap = max(c.Gap, at.Sub(p.last[i]))
	}
	p.last[i] = at
	return modbustest.Fault{Dead: i >= p.spec.Slaves-p.spec.Dead}
}

// take returns the counts and begins anew.
func (p *servedPlant) take() []slaveCount {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := p.counts
	p.counts, p.last = make([]slaveCount, p.spec.Slaves), make([]time.Time, p.spec.Slaves)
	return out
}

// simPlant is a simulated plant in a process of its own.
type simPlant struct {
	b    *testing.B
	spec plantSpec
	urls []string
	in   io.WriteCloser
	out  *bufio.Reader
}

func startPlant(b *testing.B, spec plantSpec) *simPlant {
	b.Helper()
	text, err := json.Marshal(spec)
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run", "^TestModbusPlant$")
	cmd.Env = append(os.Environ(), plantVar+"="+string(text), plantVar+"_DIR="+b.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	p := &simPlant{b: b, spec: spec, in: in, out: bufio.NewReader(out)}
	p.read(&p.urls)
	return p
}

func (p *simPlant) read(v any) {
	p.b.Helper()
	line, err := p.out.ReadBytes('\n')
	if err != nil {
		p.b.Fatalf("read from the plant: %v", err)
	}
	if err := json.Unmarshal(line, v); err != nil {
		p.b.Fatalf("read from the plant: %v: %s", err, line)
	}
}

// take returns what came to the slaves that live since it was called last.
func (p *simPlant) take() (living []slaveCount) {
	p.b.Helper()
	if _, err := fmt.Fprintln(p.in); err != nil {
		p.b.Fatal(err)
	}
	p.read(&living)
	return living[:p.spec.Slaves-p.spec.Dead]
}
