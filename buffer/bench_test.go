package buffer

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

// telemetry fills b with n records of about 195 bytes as 1,000 series of a
// plant send them, beginning with number at.
func telemetry(b *Batch, at, n int) {
	var p []byte
	for i := at; i < at+n; i++ {
		p = fmt.Appendf(p[:0], `{"source":"plant-7","device":"plc-%03d","name":"signal-%04d","ts":%d,"value":%d.%02d,"unit":"degC",`+
			`"quality":"good","tags":{"site":"rotterdam","line":"L%d","cell":"C%d"},"seq":%d}`,
			i%50, i%1000, 1800000000000+int64(i)*137, 20+i*7%60, i*31%100, i%4, i%16, i)
		b.Add(p)
	}
}

// batches makes enough different batches of n records to go round.
func batches(n int) []*Batch {
	out := make([]*Batch, 16)
	for i := range out {
		out[i] = &Batch{}
		telemetry(out[i], i*n, n)
	}
	return out
}

func benchOptions(b *testing.B) Options {
	return Options{Dir: filepath.Join(b.TempDir(), "q"), Lanes: NamedLanes("a"), MaxBytes: 64 << 30, SegmentBytes: 16 << 20}
}

// report adds records/s, CPU time per record of the whole process, and bytes
// written to storage per payload byte.
func report(b *testing.B, records, payload int, cpu time.Duration) {
	b.ReportMetric(float64(records)/b.Elapsed().Seconds(), "records/s")
	b.ReportMetric(float64(cpu.Nanoseconds())/float64(records), "cpu-ns/record")
	if payload > 0 {
		b.ReportMetric(float64(payload)/float64(records), "B/record")
	}
}

func cpuTime() time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		panic(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// BenchmarkAppend is one producer that waits for every commit.
func BenchmarkAppend(b *testing.B) {
	for _, n := range []int{100, 4096} {
		b.Run(strconv.Itoa(n), func(b *testing.B) { benchAppend(b, benchOptions(b), n) })
	}
	b.Run("100/prefill", func(b *testing.B) {
		o := benchOptions(b)
		o.Prefill = true
		benchAppend(b, o, 100)
	})
}

func benchAppend(b *testing.B, o Options, n int) {
	l := mustOpen(b, o)
	in := batches(n)
	b.ReportAllocs()
	b.ResetTimer()
	start, payload := cpuTime(), 0
	for i := range b.N {
		if err := appendWait(l, 0, in[i%len(in)]); err != nil {
			b.Fatal(err)
		}
		payload += in[i%len(in)].Size()
	}
	report(b, b.N*n, payload, cpuTime()-start)
}

// BenchmarkRaw is the floor: the framed records, or one zstd block of them,
// appended to a file and synced.
func BenchmarkRaw(b *testing.B) {
	for _, compress := range []bool{false, true} {
		for _, n := range []int{100, 4096} {
			b.Run(fmt.Sprintf("zstd=%v/%d", compress, n), func(b *testing.B) {
				f, err := os.Create(filepath.Join(b.TempDir(), "raw"))
				if err != nil {
					b.Fatal(err)
				}
				defer f.Close()
				enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
				if err != nil {
					b.Fatal(err)
				}
				in := batches(n)
				var out []byte
				b.ReportAllocs()
				b.ResetTimer()
				start := cpuTime()
				for i := range b.N {
					p := in[i%len(in)].buf
					if compress {
						out = enc.EncodeAll(p, out[:0])
						p = out
					}
					if _, err := f.Write(p); err != nil {
						b.Fatal(err)
					}
					if err := syscall.Fdatasync(int(f.Fd())); err != nil {
						b.Fatal(err)
					}
				}
				report(b, b.N*n, 0, cpuTime()-start)
			})
		}
	}
}

// BenchmarkGroup is 200 producers that each wait for their 20 records.
func BenchmarkGroup(b *testing.B) {
	const producers, n = 200, 20
	l := mustOpen(b, benchOptions(b))
	in := batches(n)
	waits := make([][]time.Duration, producers)
	b.ReportAllocs()
	b.ResetTimer()
	start := cpuTime()
	var wg sync.WaitGroup
	for p := range producers {
		wg.Go(func() {
			done := make(chan error, 1)
			answer := func(err error) { done <- err }
			for range (b.N + producers - 1) / producers {
				at := time.Now()
				l.Append(0, in[p%len(in)], answer)
				if err := <-done; err != nil {
					b.Error(err)
				}
				waits[p] = append(waits[p], time.Since(at))
			}
		})
	}
	wg.Wait()
	all := slices.Concat(waits...)
	report(b, len(all)*n, 0, cpuTime()-start)
	slices.Sort(all)
	b.ReportMetric(float64(all[len(all)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(all[len(all)*99/100].Microseconds()), "p99-µs")
	b.ReportMetric(float64(l.counts.records.Load())/float64(l.counts.commits.Load()), "records/commit")
}

// backlog fills a new queue with n records and closes it.
func backlog(b *testing.B, n int) Options {
	b.Helper()
	o := benchOptions(b)
	if dir := os.Getenv("WAYSTATION_BENCH_DIR"); dir != "" {
		o.Dir = filepath.Join(dir, b.Name())
	}
	l, err := Open(o)
	if err != nil {
		b.Fatal(err)
	}
	in := batches(4096)
	window := make(chan error, 8) // appends not answered yet
	for i := range n / 4096 {
		if i >= cap(window) {
			if err := <-window; err != nil {
				b.Fatal(err)
			}
		}
		l.Append(0, in[i%len(in)], func(err error) { window <- err })
	}
	mustClose(b, l)
	return o
}

// backlogs are the lengths that BenchmarkDrain and BenchmarkOpen use;
// WAYSTATION_BIG adds 10 M.
func backlogs() []int {
	if os.Getenv("WAYSTATION_BIG") != "" {
		return []int{1 << 20, 10 << 20}
	}
	return []int{1 << 20}
}

// BenchmarkDrain reads a backlog in the forwarder's portions and releases it.
func BenchmarkDrain(b *testing.B) {
	for _, n := range backlogs() {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			o := backlog(b, n)
			l := mustOpen(b, o)
			var ch Chunk
			b.ReportAllocs()
			b.ResetTimer()
			start, records, wrote := cpuTime(), 0, written(b)
			rss, peak := memory(b, "RssAnon:"), int64(0)
			for i := range b.N {
				c, err := l.Cursor(fmt.Sprint("reader-", i))
				if err != nil {
					b.Fatal(err)
				}
				for at := 0; at < n; at += len(ch.Records) {
					if err := c.Read(0, Limit{Records: 2000, Bytes: 1 << 20}, &ch); err != nil || len(ch.Records) == 0 {
						b.Fatal(at, ch.Loss, err)
					}
					records += len(ch.Records)
				}
				peak = max(peak, memory(b, "RssAnon:"))
			}
			report(b, records, 0, cpuTime()-start)
			b.ReportMetric(float64(peak-rss)/(1<<20), "anon-MiB")
			b.ReportMetric(float64(written(b)-wrote)/float64(b.N), "written-B/op")
		})
	}
}

// BenchmarkOpen opens a queue with a backlog and reads its first records.
func BenchmarkOpen(b *testing.B) {
	for _, n := range backlogs() {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			o := backlog(b, n)
			runtime.GC()
			before := memory(b, "VmRSS:")
			var grown int64
			b.ReportAllocs()
			for b.Loop() {
				l, err := Open(o)
				if err != nil {
					b.Fatal(err)
				}
				grown = max(grown, memory(b, "VmRSS:")-before)
				mustClose(b, l)
			}
			b.ReportMetric(float64(grown)/(1<<20), "rss-MiB")
		})
	}
}

// BenchmarkMemory appends 300,000 records of 200 bytes that do not compress,
// and telemetry, while nobody reads, and reports by how much the process grows.
func BenchmarkMemory(b *testing.B) {
	for _, kind := range []string{"random", "telemetry"} {
		b.Run(kind, func(b *testing.B) {
			for b.Loop() {
				l := mustOpen(b, benchOptions(b))
				var in Batch
				runtime.GC()
				anon, rss := memory(b, "RssAnon:"), memory(b, "VmRSS:")
				var peakAnon, peak int64
				for at := 0; at < 300_000; at += 100 {
					in.Reset()
					if kind == "random" {
						for i := range 100 {
							in.Add(cheap(uint64(at+i), 200))
						}
					} else {
						telemetry(&in, at, 100)
					}
					if err := appendWait(l, 0, &in); err != nil {
						b.Fatal(err)
					}
					if at%5000 == 0 {
						peakAnon, peak = max(peakAnon, memory(b, "RssAnon:")), max(peak, memory(b, "VmRSS:"))
					}
				}
				b.ReportMetric(float64(peakAnon-anon)/(1<<20), "anon-MiB")
				b.ReportMetric(float64(peak-rss)/(1<<20), "rss-MiB")
				mustClose(b, l)
			}
		})
	}
}

// cheap makes bytes that do not compress.
func cheap(seed uint64, n int) []byte {
	p := make([]byte, 0, n+8)
	for x := seed*0x9e3779b97f4a7c15 + 1; len(p) < n; {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		p = binary.LittleEndian.AppendUint64(p, x)
	}
	return p[:n]
}

// memory reads a size from /proc/self/status, bytes.
func memory(b *testing.B, key string) int64 { return procField(b, "/proc/self/status", key) << 10 }

// written is what this process has had written to storage, bytes.
func written(b *testing.B) int64 { return procField(b, "/proc/self/io", "write_bytes:") }

func procField(b *testing.B, path, key string) int64 {
	b.Helper()
	p, err := os.ReadFile(path)
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(p)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == key {
			n, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				b.Fatal(err)
			}
			return n
		}
	}
	b.Fatalf("%s has no %s", path, key)
	return 0
}
