package buffer

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// BenchmarkWear is one commit of 100 records per operation, as a plant of 100
// records a second makes them, and reports bytes given to the block device per
// payload byte: nobody reads ("offline"), or everything is read and released
// at once ("online"). "device-WA" is what the kernel's counters of the whole
// device say, with the journal of the file system and the zeros written ahead,
// and with what other processes write: WAYSTATION_BENCH_DIR names a directory
// on a device of its own. "process-WA" is Stats.Device.
func BenchmarkWear(b *testing.B) {
	for _, online := range []bool{false, true} {
		for _, prefill := range []bool{false, true} {
			name := map[bool]string{false: "offline", true: "online"}[online]
			b.Run(fmt.Sprintf("%s/prefill=%v", name, prefill), func(b *testing.B) {
				o := benchOptions(b)
				if dir := os.Getenv("WAYSTATION_BENCH_DIR"); dir != "" {
					o.Dir = filepath.Join(dir, "wear")
					defer os.RemoveAll(o.Dir)
				}
				o.Prefill = prefill
				wear(b, o, online)
			})
		}
	}
}

func wear(b *testing.B, o Options, online bool) {
	l := mustOpen(b, o)
	c := mustCursor(b, l, "x")
	var ch Chunk
	payload := 0
	before := sectors(b, o.Dir)
	var in Batch
	for i := range b.N {
		in.Reset()
		telemetry(&in, i*100, 100)
		payload += in.Size()
		if err := appendWait(l, 0, &in); err != nil {
			b.Fatal(err)
		}
		if !online {
			continue
		}
		if err := c.Read(0, Limit{Records: 1000, Bytes: 1 << 20}, &ch); err != nil || len(ch.Records) != 100 {
			b.Fatal(len(ch.Records), err)
		}
		c.Release(0, ch.Next(), Released{Sent: 100})
	}
	b.ReportMetric(float64(sectors(b, o.Dir)-before)/float64(payload), "device-WA")
	b.ReportMetric(float64(l.Stats().Device)/float64(payload), "process-WA")
	mustClose(b, l)
}

// sectors is what the device of dir has been given so far, bytes; 0 when dir
// is not on one.
func sectors(b *testing.B, dir string) int64 {
	b.Helper()
	d, err := os.Open(dir)
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	var st syscall.Stat_t
	if err := syscall.Fstat(int(d.Fd()), &st); err != nil {
		b.Fatal(err)
	}
	syscall.Sync()
	dev := uint64(st.Dev)
	p, err := os.ReadFile(fmt.Sprintf("/sys/dev/block/%d:%d/stat", dev>>8&0xfff, dev&0xff|dev>>12&0xfff00))
	if err != nil {
		return 0
	}
	n, err := strconv.ParseInt(strings.Fields(string(p))[6], 10, 64)
	if err != nil {
		b.Fatal(err)
	}
	return n * 512
}

// TestPrefill: with it the files hold the same and commits overwrite zeros
// written ahead; the rotation and the budget see the same sizes. Commits that
// are large are not preceded by zeros.
func TestPrefill(t *testing.T) {
	for _, x := range []struct {
		name    string
		prefill bool
		per     int // records in a commit
		zeroed  bool
	}{{"off", false, 10, false}, {"small commits", true, 10, true}, {"large commits", true, 400, false}} {
		t.Run(x.name, func(t *testing.T) {
			o := small(fastDir(t))
			o.SegmentBytes, o.Prefill = 4<<20, x.prefill
			l := mustOpen(t, o)
			fill(t, l, lot{0, 1, 4000, x.per, 100})
			mustClose(t, l) // zeros are written after everybody was answered
			s := l.lanes[0].active
			var st syscall.Stat_t
			if err := syscall.Stat(s.path, &st); err != nil {
				t.Fatal(err)
			}
			if st.Size != s.size.Load() || st.Size != dirBytes(t, filepath.Dir(s.path)) {
				t.Errorf("size %d, thought %d", st.Size, s.size.Load())
			}
			if full := st.Blocks*512 >= st.Size; full != x.zeroed {
				t.Errorf("%d of %d bytes written", st.Blocks*512, st.Size)
			}
			l = mustOpen(t, o)
			if r := drain(t, mustCursor(t, l, "x"), 0, 100); r.got != 4000 || len(r.losses) != 0 {
				t.Errorf("%+v", r)
			}
		})
	}
}

// TestPrefillTouchesNothing: zeros go only where no page of either meta page
// is, also when pages are used again and the file is extended by steps.
func TestPrefillTouchesNothing(t *testing.T) {
	o := small(fastDir(t))
	o.SegmentBytes, o.Prefill = 1<<20, true
	l := mustOpen(t, o)
	c := mustCursor(t, l, "x")
	for n := uint64(1); n < 12000; n += 10 {
		fill(t, l, lot{0, n, 10, 10, 100})
		if n%400 == 1 && n < 8000 {
			if r := drain(t, c, 0, 100); len(r.losses) != 0 {
				t.Fatalf("%+v", r)
			}
		}
		if n%100 == 1 {
			files := segmentFiles(t, o.Dir, "a")
			if err := checkTree(files[len(files)-1]); err != nil {
				t.Fatal(err)
			}
		}
	}
	if r := drain(t, c, 0, 100); len(r.losses) != 0 {
		t.Fatalf("%+v", r)
	}
	balanced(t, c)
}

// TestStep: files grow by as much as they have, within bounds.
func TestStep(t *testing.T) {
	for _, x := range []struct{ size, limit, want int64 }{
		{0, 16 << 20, 64 << 10}, {64 << 10, 16 << 20, 64 << 10}, {200_000, 16 << 20, 196608}, {8 << 20, 16 << 20, 1 << 20},
		{8 << 20, 8 << 20, 512 << 10}, {1 << 20, 64 << 10, 4096},
	} {
		s := &segment{bytes: x.limit}
		s.size.Store(x.size)
		if got := int64(s.step()); got != x.want {
			t.Errorf("step of %d bytes, limit %d: %d, want %d", x.size, x.limit, got, x.want)
		}
	}
}

// TestCommitTimes: every commit is in one class, and their times add up.
func TestCommitTimes(t *testing.T) {
	var d durations
	for _, took := range []time.Duration{0, 250 * time.Microsecond, 250*time.Microsecond + 1, time.Second, time.Hour} {
		d.add(took)
	}
	h := d.histogram()
	if len(h.Counts) != len(h.Bounds)+1 || h.Counts[0] != 2 || h.Counts[1] != 1 || h.Counts[len(h.Bounds)] != 1 || h.Sum < 3601 || h.Sum > 3601.001 {
		t.Errorf("%+v", h)
	}
	l := mustOpen(t, small(fastDir(t)))
	fill(t, l, lot{0, 1, 30, 10, 100})
	total := int64(0)
	s := l.Stats()
	for _, n := range s.CommitTimes.Counts {
		total += n
	}
	if total != s.Commits || total != 3 || s.CommitTimes.Sum <= 0 {
		t.Errorf("%d commits, %+v", s.Commits, s.CommitTimes)
	}
}

// TestDevice: what goes to a device is counted from when the queue was opened.
func TestDevice(t *testing.T) {
	if _, ok := deviceBytes(); !ok {
		if err := os.WriteFile(filepath.Join(t.TempDir(), "x"), nil, 0o600); err == nil {
			t.Log("this kernel does not account for I/O")
		}
		return
	}
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "before"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(make([]byte, 8<<20)); err != nil {
		t.Fatal(err)
	}
	if n, _ := deviceBytes(); n == 0 {
		t.Log("the directory for tests is in memory")
		return
	}
	o := small(filepath.Join(dir, "q"))
	o.SegmentBytes = 4 << 20
	l := mustOpen(t, o)
	fill(t, l, lot{0, 1, 1000, 1000, 1000})
	if n := l.Stats().Device; n < 1_000_000 || n >= 8<<20 {
		t.Errorf("%d bytes for a million", n)
	}
}
