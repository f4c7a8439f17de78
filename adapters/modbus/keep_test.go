package modbus

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// countedTo runs a source on a counter that shows value, for a time, and returns
// what was recorded last and logged.
func countedTo(t *testing.T, dir string, value uint16, during time.Duration) (last uint64, log string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := &Config{Devices: devices(2)}
		c.Devices[1].Profile = &Profile{Groups: []Group{{Name: "main", Points: []Point{{Name: "n", Address: 3, Type: "uint16", Counter: true}}}}}
		r := newRig(t, c)
		r.s.env.State = dir
		r.set(2, func(x *rigUnit) { x.value = value })
		r.start()
		r.after(during)
		if during > saveEvery {
			if text, err := os.ReadFile(filepath.Join(dir, keptFile)); err != nil || !strings.Contains(string(text), "dev-02/main") {
				t.Errorf("after ten minutes: %s %v", text, err)
			}
		}
		r.end()
		recs := r.recorded("dev-02", 0)
		v := recs[len(recs)-1].Values[0]
		last, log = v.Uint()+uint64(v.Int()), r.log.String()
	})
	return last, log
}

// TestState holds that counters go on over a restart: their state is stored at
// the end and now and then, and read at the start; and that a file which cannot
// be read stops nothing.
func TestState(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	for _, c := range []struct {
		value uint16
		runs  time.Duration
		want  uint64
	}{{65530, 2 * time.Second, 65530}, {10, saveEvery + time.Minute, 65546}, {20, 2 * time.Second, 65556}} {
		if n, log := countedTo(t, dir, c.value, c.runs); n != c.want || log != "" {
			t.Errorf("counted %d, want %d; log %s", n, c.want, log)
		}
	}
	if files, _ := os.ReadDir(dir); len(files) != 1 {
		t.Errorf("files left: %v", files)
	}
	for _, text := range []string{"", "{", `{"version":7}`, `{"version":1,"counters":{"dev-02/main":"!"}}`} {
		if err := os.WriteFile(filepath.Join(dir, keptFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if n, log := countedTo(t, dir, 30, 2*time.Second); n != 30 || !strings.Contains(log, "counters begin anew") {
			t.Errorf("of %q: counted %d, log %s", text, n, log)
		}
	}
}
