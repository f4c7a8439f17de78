package gateway

import (
	"strconv"
	"testing"
)

func TestEncodingAllocatesNothing(t *testing.T) {
	r := mqttRecord(1)
	polled := samples()["modbus"]
	buf := make([]byte, 0, 4096)
	if n := testing.AllocsPerRun(100, func() { buf = AppendRecord(AppendRecord(buf[:0], &r), &polled) }); n > 0 {
		t.Errorf("storing a record makes %v allocations, want 0", n)
	}
}

func TestDecodingAllocatesNextToNothing(t *testing.T) {
	const batch = 100
	stored := make([][]byte, batch)
	for i := range stored {
		r := mqttRecord(i)
		stored[i] = AppendRecord(nil, &r)
	}
	dec, out := &RecordDecoder{}, make([]Record, batch)
	n := testing.AllocsPerRun(50, func() {
		dec.Reset()
		for i := range stored {
			if err := dec.Decode(&out[i], stored[i]); err != nil {
				t.Fatal(err)
			}
		}
	})
	if n > 0 {
		t.Errorf("decoding %d records of known topics makes %v allocations, want 0", batch, n)
	}
}

// A stream of texts that never repeat must not fill the memory.
func TestDecoderKeepsABoundedNumberOfTexts(t *testing.T) {
	dec := &RecordDecoder{}
	var r Record
	for i := range 3 * keepTexts {
		in := Record{Name: "topic/" + strconv.Itoa(i)}
		if err := dec.Decode(&r, AppendRecord(nil, &in)); err != nil || r.Name != in.Name {
			t.Fatal(r.Name, err)
		}
		if len(dec.texts) > keepTexts {
			t.Fatalf("%d texts are kept", len(dec.texts))
		}
	}
	in := Record{Values: make([]Value, keepValues+1), Tags: make([]Tag, keepValues+1)}
	if err := dec.Decode(&r, AppendRecord(nil, &in)); err != nil || len(r.Values) != keepValues+1 {
		t.Fatal(len(r.Values), err)
	}
	dec.Reset()
	if cap(dec.values) > keepValues || cap(dec.tags) > keepValues {
		t.Errorf("memory for %d values and %d tags is kept", cap(dec.values), cap(dec.tags))
	}
}

func BenchmarkAppendRecord(b *testing.B) {
	r := mqttRecord(1)
	buf := make([]byte, 0, 4096)
	b.ReportAllocs()
	for b.Loop() {
		buf = AppendRecord(buf[:0], &r)
	}
	b.ReportMetric(float64(len(buf)), "bytes/record")
}

func BenchmarkDecodeRecord(b *testing.B) {
	stored := make([][]byte, 1000)
	for i := range stored {
		r := mqttRecord(i)
		stored[i] = AppendRecord(nil, &r)
	}
	dec, i := &RecordDecoder{}, 0
	var r Record
	b.ReportAllocs()
	for b.Loop() {
		if i == len(stored) {
			dec.Reset()
			i = 0
		}
		if err := dec.Decode(&r, stored[i]); err != nil {
			b.Fatal(err)
		}
		i++
	}
}
