package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"
)

// reading is the state of everything a design costs at one moment.
type reading struct {
	at      time.Time
	cpu     time.Duration // of this process, user and system
	process int64         // bytes this process caused to be written, /proc/self/io
	device  int64         // bytes the block device took; 0 when it is not known
	flushes int64         // flush requests it took
}

// meter reads costs. Bytes of the device are those of everybody who uses it:
// give it a directory on a device of its own (a loop file with ext4 will do).
type meter struct{ device string }

// newMeter finds the block device that holds dir.
func newMeter(dir string) meter {
	var st syscall.Stat_t
	if syscall.Stat(dir, &st) != nil {
		return meter{}
	}
	major, minor := st.Dev>>8&0xfff, st.Dev&0xff|st.Dev>>12&0xfff00
	link, err := os.Readlink(fmt.Sprintf("/sys/dev/block/%d:%d", major, minor))
	if err != nil {
		return meter{}
	}
	return meter{device: filepath.Base(link)}
}

// name says what is counted.
func (m meter) name() string {
	if m.device == "" {
		return "no block device: bytes are those of /proc/self/io"
	}
	return "block device " + m.device
}

func (m meter) read() reading {
	r := reading{at: time.Now()}
	for key, v := range statusFields("/proc/self/io") {
		if key == "write_bytes:" {
			r.process = v
		}
	}
	if p, err := os.ReadFile("/sys/class/block/" + m.device + "/stat"); err == nil {
		if f := bytes.Fields(p); len(f) > 15 { // Documentation/block/stat.rst
			sectors, _ := strconv.ParseInt(string(f[6]), 10, 64)
			r.device = sectors * 512
			r.flushes, _ = strconv.ParseInt(string(f[15]), 10, 64)
		}
	}
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) == nil {
		r.cpu = time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	return r
}

// written returns the bytes written between two readings: the device's when
// they are known.
func (m meter) written(from, to reading) float64 {
	if m.device == "" || to.device == 0 {
		return float64(to.process - from.process)
	}
	return float64(to.device - from.device)
}

// statusFields reads "key value" lines of a file in /proc.
func statusFields(path string) map[string]int64 {
	out := map[string]int64{}
	p, _ := os.ReadFile(path)
	for line := range bytes.Lines(p) {
		if f := bytes.Fields(line); len(f) >= 2 {
			if v, err := strconv.ParseInt(string(f[1]), 10, 64); err == nil {
				out[string(f[0])] = v
			}
		}
	}
	return out
}

// memory returns what the process holds, MiB: all of it, and the anonymous part.
func memory() (rss, anonymous float64) {
	f := statusFields("/proc/self/status")
	return float64(f["VmRSS:"]) / 1024, float64(f["RssAnon:"]) / 1024
}

// dirBytes returns the size of the files below dir.
func dirBytes(dir string) (n int64) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if st, err := d.Info(); err == nil {
				n += st.Size()
			}
		}
		return nil
	})
	return n
}

// quantile returns the value below which a share p of v lies; NaN of nothing.
func quantile(v []float64, p float64) float64 {
	if len(v) == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(v))
	return s[min(int(p*float64(len(s))), len(s)-1)]
}

func median(v []float64) float64 { return quantile(v, 0.5) }

// dropCaches makes the page cache cold; it needs root.
func dropCaches() {
	syscall.Sync()
	_ = os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0)
}

// telemetry returns n records of about 195 bytes of JSON, as 1,000 series of a
// plant send them; the same for a seed.
func telemetry(n int, seed uint64) [][]byte {
	const series = 1000
	units := []string{"degC", "bar", "rpm", "kW", "l/min", "mm/s"}
	tags := []string{"engine/exhaust_temp", "fuel/rail_pressure", "shaft/speed", "generator/active_power", "cooling/flow", "bearing/vibration"}
	r := rand.New(rand.NewPCG(seed, 1))
	values := make([]float64, series)
	for i := range values {
		values[i] = 20 + 400*r.Float64()
	}
	out := make([][]byte, n)
	ts := int64(1763790412123)
	for i := range out {
		s := r.IntN(series)
		values[s] += r.NormFloat64() / 5
		ts += int64(r.IntN(20))
		device, tag := s/len(tags), s%len(tags)
		out[i] = fmt.Appendf(nil, `{"ts":%d,"gateway":"vessel-0042","device":"plc-%05d","tag":"%s","value":%.2f,"unit":"%s","quality":"good",`+
			`"seq":%d,"source":"modbus-tcp://10.20.%d.%d:502/1/%d"}`,
			ts, device, tags[tag], values[s], units[tag], i, device/250, device%250, 40001+tag)
	}
	return out
}

func totalBytes(recs [][]byte) (n float64) {
	for _, r := range recs {
		n += float64(len(r))
	}
	return n
}
