package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A serial line is where the file says, hears itself when it is told so, and is
// as slow as its speed.
func TestModbusOnAPTY(t *testing.T) {
	dir := t.TempDir()
	cfg, err := parseConfig(filepath.Join(dir, "plant.yaml"), []byte("modbus: [{name: p, pty: port, baud: 1200, echo: true, units: [{}]}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	p, err := startPlant(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.close() }()
	path := filepath.Join(dir, "port")
	if u := p.addresses().Modbus["p"]; u != "rtu://"+path {
		t.Errorf("at %s", u)
	}
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	request, answer := []byte{1, 3, 0, 0, 0, 1, 0x84, 0x0a}, []byte{1, 3, 2, 0, 0, 0xb8, 0x44}
	begin := time.Now()
	if _, err := f.Write(request); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(request)+len(answer))
	_ = f.SetReadDeadline(time.Now().Add(10 * time.Second))
	if n, err := io.ReadFull(f, got); err != nil || !bytes.Equal(got, append(request, answer...)) {
		t.Errorf("heard % x, %v", got[:n], err)
	}
	if d := time.Since(begin); d < 15*11*time.Second/1200 {
		t.Errorf("took %s", d)
	}
}
