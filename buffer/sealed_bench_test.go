package buffer

import (
	"fmt"
	"testing"
)

// BenchmarkSealedAppend is BenchmarkAppend without and with a key, in memory:
// what encryption costs is CPU time, which a disk would hide.
func BenchmarkSealedAppend(b *testing.B) {
	for _, n := range []int{100, 4096} {
		in := batches(n)
		for _, key := range []bool{false, true} {
			b.Run(fmt.Sprintf("%d/key=%v", n, key), func(b *testing.B) {
				o := benchOptions(b)
				o.Dir, o.MaxBytes = fastDir(b), 64<<20
				if key {
					o.Keys = []Key{testKey(1)}
				}
				l := mustOpen(b, o)
				b.ReportAllocs()
				b.ResetTimer()
				start, payload := cpuTime(), 0
				for i := range b.N {
					if err := appendWait(l, 0, in[i%len(in)]); err != nil {
						b.Fatal(err)
					}
					payload += in[i%len(in)].Size()
				}
				report(b, b.N*n, 0, cpuTime()-start)
				b.ReportMetric(float64(payload)/float64(l.counts.stored.Load()), "ratio")
			})
		}
	}
}

// BenchmarkSealedDrain is BenchmarkDrain without and with a key, in memory.
func BenchmarkSealedDrain(b *testing.B) {
	const n = 256 << 10
	in := batches(4096)
	for _, key := range []bool{false, true} {
		b.Run(fmt.Sprintf("key=%v", key), func(b *testing.B) {
			o := benchOptions(b)
			o.Dir, o.MaxBytes = fastDir(b), 256<<20
			if key {
				o.Keys = []Key{testKey(1)}
			}
			l := mustOpen(b, o)
			for i := range n / 4096 {
				if err := appendWait(l, 0, in[i%len(in)]); err != nil {
					b.Fatal(err)
				}
			}
			var ch Chunk
			records := 0
			b.ReportAllocs()
			b.ResetTimer()
			start := cpuTime()
			for range b.N {
				for at := uint64(1); at <= n; at = ch.Next() {
					if err := l.ReadAt(0, at, Limit{Records: 2000, Bytes: 1 << 20}, &ch); err != nil || len(ch.Records) == 0 {
						b.Fatal(at, ch.Loss, err)
					}
					records += len(ch.Records)
				}
			}
			report(b, records, 0, cpuTime()-start)
		})
	}
}

// BenchmarkSealedBlock encodes and decodes one block of 100 records without
// compression: the cost of encryption and its allocations alone.
func BenchmarkSealedBlock(b *testing.B) {
	raw := &Batch{}
	telemetry(raw, 0, 100)
	for _, key := range []bool{false, true} {
		k := newCoder(None)
		if key {
			k = newCoder(None, testKey(1))
		}
		of := scope{lane: "telemetry"}
		var dst, out []byte
		var err error
		encode := func() {
			if dst, err = k.encode(dst[:0], of, block{first: 1, count: 100, span: 100, raw: raw.buf}); err != nil {
				b.Fatal(err)
			}
		}
		b.Run(fmt.Sprintf("encode/key=%v", key), func(b *testing.B) {
			b.SetBytes(int64(raw.Size()))
			b.ReportAllocs()
			for b.Loop() {
				encode()
			}
		})
		encode()
		b.Run(fmt.Sprintf("decode/key=%v", key), func(b *testing.B) {
			b.SetBytes(int64(raw.Size()))
			b.ReportAllocs()
			for b.Loop() {
				if out, _, err = k.decode(out[:0], dst, of); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
