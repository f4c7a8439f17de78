package peers

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Releases of the Modbus slaves that .ci/interop-deps installs; libmodbus is
// Debian 12's.
const (
	PyModbusVersion     = "3.16.1"
	ModbusSerialVersion = "8.0.25"
	JSModbusVersion     = "5.0.0"
)

//go:embed slaves
var slaves embed.FS

// ModbusCell is one value that a foreign slave holds. The slave puts it into
// registers by its own means, so that it judges how we take it out.
type ModbusCell struct {
	Unit    int    `json:"unit"`    // 0 = 1; only pymodbus has several
	Table   string `json:"table"`   // coil, discrete, holding or input
	Address int    `json:"address"` // first register or bit, from 0
	Type    string `json:"type"`    // as in a profile; reads = a uint16 that counts the reads of it (pymodbus)
	Order   string `json:"order"`   // ABCD, CDAB, BADC or DCBA; "" = ABCD
	Value   string `json:"value"`   // as text, so that no digit is lost on the way
}

// ModbusSlave is a foreign Modbus slave. The script or program that makes it
// is ours, the protocol is not.
type ModbusSlave struct {
	URL string // as a source takes it
	*Process
}

// PyModbus says how a slave made with pymodbus is reached and what it holds.
type PyModbus struct {
	Line   string       // tcp, tls, udp, rtu, ascii, rtu+tcp, ascii+tcp or rtu+udp
	Device string       // of rtu and ascii: the serial port, set to 19200 baud, no parity: glibc refuses another on a pty
	Cert   Issued       // of tls: its own certificate; a master must have one as well
	CA     string       // of tls: file with the authority of masters' certificates
	Cells  []ModbusCell // what is not named is refused with exception 2
}

// StartPyModbus starts a slave made with pymodbus, with its log in dir, and
// returns once it listens. It answers device identification.
func StartPyModbus(dir string, how PyModbus) (*ModbusSlave, error) {
	python, err := Python()
	if err != nil {
		return nil, fmt.Errorf("start pymodbus: %w", err)
	}
	s, err := newSlave(dir, "pymodbus", "modbus.py")
	if err != nil {
		return nil, err
	}
	at := how.Device
	if at == "" {
		at = strconv.Itoa(s.port.number)
		s.slave.URL = how.Line + "://" + s.port.addr()
	} else {
		s.slave.URL = how.Line + "://" + how.Device
	}
	arg, err := json.Marshal(map[string]any{"line": how.Line, "port": at, "baud": 19200, "parity": "N", "cells": how.Cells,
		"cert": how.Cert.Cert, "key": how.Cert.Key, "ca": how.CA, "ready": s.ready})
	if err != nil {
		return nil, fmt.Errorf("start pymodbus: %w", err)
	}
	return s.start(python, s.source, string(arg))
}

// StartModbusJS starts a slave on TCP made with the npm package modbus-serial
// or jsmodbus, with its log in dir, and returns once it takes connections.
func StartModbusJS(dir, library string, cells []ModbusCell) (*ModbusSlave, error) {
	node, err := program("node")
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", library, err)
	}
	modules := filepath.Join(Cache(), "kafkajs", "node_modules")
	want := library + "@" + map[string]string{"modbus-serial": ModbusSerialVersion, "jsmodbus": JSModbusVersion}[library]
	version, err := os.ReadFile(filepath.Join(modules, library+".version"))
	if err != nil || strings.TrimSpace(string(version)) != want {
		return nil, fmt.Errorf("find %s in %s: %w", want, modules, ErrNotInstalled)
	}
	s, err := newSlave(dir, library, "modbus.cjs")
	if err != nil {
		return nil, err
	}
	arg, err := json.Marshal(cells)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", library, err)
	}
	s.env, s.ready = []string{"NODE_PATH=" + modules}, ""
	s.slave.URL = "tcp://" + s.port.addr()
	return s.start(node, s.source, library, strconv.Itoa(s.port.number), string(arg))
}

// Faults of a slave made with libmodbus: a request that begins in the 100
// registers from such an address on is answered badly. Holding register a
// holds a, input register a holds a + 20000, coil a is whether 3 divides a.
const (
	ModbusWrongUnit = 1000 // the answer names the next unit
	ModbusLate      = 1100 // after 600 ms
	ModbusDribble   = 1200 // 5 ms before each byte
	ModbusWrongID   = 1300 // the next transaction identifier; on a serial line a wrong byte
	ModbusSilent    = 1400 // no answer
	ModbusBusy      = 1500 // exception 6
	ModbusTwice     = 1600 // the same answer twice
	ModbusLast      = 2999 // the last register
)

// StartLibModbus builds and starts a slave made with libmodbus, with its log
// in dir, and returns once it listens: on TCP, or with a device on that serial
// port (unit 1, 19200 baud, no parity). It serves one connection at a time.
func StartLibModbus(dir, device string) (*ModbusSlave, error) {
	compiler, err := program("cc")
	if err != nil {
		return nil, fmt.Errorf("start libmodbus: %w", err)
	}
	s, err := newSlave(dir, "libmodbus", "libmodbus.c")
	if err != nil {
		return nil, err
	}
	binary := strings.TrimSuffix(s.source, ".c")
	out, err := exec.Command(compiler, "-O2", "-o", binary, s.source, "-I/usr/include/modbus", "-lmodbus").CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("build %s: %w: %w: %s", s.source, ErrNotInstalled, err, out)
	}
	if device != "" {
		s.slave.URL = "rtu://" + device
		return s.start(binary, "rtu", device, "19200", "N", s.ready)
	}
	s.slave.URL = "tcp://" + s.port.addr()
	return s.start(binary, "tcp", strconv.Itoa(s.port.number), s.ready)
}

// slaveStart is what the slaves have in common.
type slaveStart struct {
	dir, name string
	source    string // our script or program text
	ready     string // file that says that it listens; "" = a connection says it
	port      port   // of the same number is taken for UDP, where nothing holds it
	env       []string
	slave     *ModbusSlave
}

func newSlave(dir, name, source string) (*slaveStart, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("start %s in %s: %w", name, dir, err)
	}
	text, err := slaves.ReadFile("slaves/" + source)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	s := &slaveStart{dir: dir, name: name, source: filepath.Join(dir, source), ready: filepath.Join(dir, "ready"), slave: &ModbusSlave{}}
	if err := os.WriteFile(s.source, text, 0o644); err != nil {
		return nil, fmt.Errorf("start %s: write its text: %w", name, err)
	}
	ports, err := holdPorts(dir, 1)
	if err != nil {
		return nil, fmt.Errorf("start %s in %s: %w", name, dir, err)
	}
	s.port = ports[0]
	return s, nil
}

func (s *slaveStart) start(path string, args ...string) (*ModbusSlave, error) {
	s.slave.Process = &Process{
		name:    s.name + " on " + s.slave.URL,
		logPath: filepath.Join(s.dir, s.name+".log"),
		command: func() *exec.Cmd {
			_ = os.Remove(filepath.Join(s.dir, "ready")) // of the life before
			cmd := exec.Command(path, args...)
			cmd.Env = append(os.Environ(), s.env...)
			return cmd
		},
		ready: s.answers,
		ports: []port{s.port},
	}
	if err := s.slave.Start(); err != nil {
		return nil, err
	}
	return s.slave, nil
}

// answers is nil once the slave says that it listens.
func (s *slaveStart) answers(ctx context.Context) error {
	if s.ready != "" {
		_, err := os.Stat(s.ready)
		return err
	}
	conn, err := (&net.Dialer{Timeout: 2 * time.Second}).DialContext(ctx, "tcp", s.port.addr())
	if err != nil {
		return err
	}
	return conn.Close()
}

// Wire is two serial ports joined by socat, as by a null modem cable. It has
// no baud rate: bytes pass as fast as they come.
type Wire struct {
	A, B string // paths of the ports
	*Process
}

// StartWire makes a wire with its ports in dir. Stop and Start are as pulling
// an adapter and putting it back under the same name.
func StartWire(dir string) (*Wire, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("start socat in %s: %w", dir, err)
	}
	socat, err := program("socat")
	if err != nil {
		return nil, fmt.Errorf("start socat: %w", err)
	}
	w := &Wire{A: filepath.Join(dir, "tty-a"), B: filepath.Join(dir, "tty-b")}
	w.Process = &Process{
		name:    "socat between " + w.A + " and " + w.B,
		logPath: filepath.Join(dir, "socat.log"),
		command: func() *exec.Cmd {
			_, _ = os.Remove(w.A), os.Remove(w.B) // of a life that was killed
			return exec.Command(socat, "pty,raw,echo=0,link="+w.A, "pty,raw,echo=0,link="+w.B)
		},
		ready: func(context.Context) error {
			_, errA := os.Stat(w.A)
			_, errB := os.Stat(w.B)
			return errors.Join(errA, errB)
		},
	}
	if err := w.Start(); err != nil {
		return nil, err
	}
	return w, nil
}

// Mbpoll asks a slave once with mbpoll, a foreign master. The arguments are
// those of mbpoll, addresses from 0; returned is the text of each value by its
// address.
func Mbpoll(ctx context.Context, args ...string) (map[int]string, error) {
	path, err := program("mbpoll")
	if err != nil {
		return nil, fmt.Errorf("run mbpoll: %w", err)
	}
	out, err := output(ctx, exec.Command(path, append([]string{"-0", "-1", "-q"}, args...)...))
	if err != nil {
		return nil, fmt.Errorf("run mbpoll %s: %w", strings.Join(args, " "), err)
	}
	values, err := parseMbpoll(string(out))
	if err != nil {
		return nil, fmt.Errorf("run mbpoll %s: %w", strings.Join(args, " "), err)
	}
	return values, nil
}

// parseMbpoll reads lines "[100]: TAB 1234"; a number that is negative as an
// int16 has it behind in brackets, which are cut. Other lines are passed over.
func parseMbpoll(out string) (map[int]string, error) {
	values := map[int]string{}
	for line := range strings.Lines(out) {
		rest, found := strings.CutPrefix(strings.TrimSpace(line), "[")
		if !found {
			continue
		}
		address, value, found := strings.Cut(rest, "]:")
		at, err := strconv.Atoi(address)
		if !found || err != nil {
			return nil, fmt.Errorf("parse output of mbpoll: %q", line)
		}
		value, _, _ = strings.Cut(strings.TrimSpace(value), " (")
		values[at] = value
	}
	if len(values) == 0 {
		return nil, fmt.Errorf("parse output of mbpoll: no values in %.500q", out)
	}
	return values, nil
}
