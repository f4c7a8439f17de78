package codec

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/hamba/avro/v2"

	"github.com/waystation-iot/waystation/gateway"
)

// goldenAt is the position that the golden files hold.
func goldenAt() *Position {
	return &Position{Gateway: "ship-042", Generation: "3f2a9c", Lane: "telemetry", Seq: 1000001, Replayed: true}
}

// plain is a record in the terms of this test, into which the independent
// decoders turn what the encoders made.
type plain struct {
	At                   Position
	Source, Device, Name string
	Time, Received       string // RFC 3339 with nanoseconds; "" = none
	ClockTrusted         bool
	Quality              int
	Reason               string
	Tags                 map[string]string
	Values               []plainValue
	Payload              string // hexadecimal
	HasPayload           bool
	ContentType          string
	Replaced             bool
}

type plainValue struct{ Name, Value, Unit, Quality, Reason string }

// clean replaces each byte of s that is not UTF-8.
func (p *plain) clean(s string) string {
	p.Replaced = p.Replaced || !utf8.ValidString(s)
	return string([]rune(s))
}

// expect is what must be read of r.
func expect(r *gateway.Record, at *Position) plain {
	p := plain{ClockTrusted: r.ClockTrusted, Quality: int(min(r.Quality, 2)), HasPayload: r.Payload != nil, Payload: hex.EncodeToString(r.Payload), Tags: map[string]string{}}
	p.At = Position{p.clean(at.Gateway), p.clean(at.Generation), p.clean(at.Lane), at.Seq, at.Replayed}
	p.Source, p.Device, p.Name = p.clean(r.Source), p.clean(r.Device), p.clean(r.Name)
	if r.Device == "" {
		p.Device = p.Name
	}
	p.Time, p.Received, p.Reason, p.ContentType = stamp(r.Time), stamp(r.Received), p.clean(r.Reason), p.clean(r.ContentType)
	last := map[string]string{}
	for _, t := range r.Tags {
		last[t.Key] = t.Value
	}
	for k, v := range last {
		p.Tags[p.clean(k)] = p.clean(v)
	}
	for i := range r.Values {
		v := &r.Values[i]
		text := ""
		switch v.Kind() {
		case gateway.KindBool:
			text = fmt.Sprint(v.Bool())
		case gateway.KindInt:
			text = fmt.Sprint(v.Int())
		case gateway.KindUint:
			text = fmt.Sprint(v.Uint())
		case gateway.KindFloat:
			text = bitsOf(v.Float())
		case gateway.KindString:
			text = p.clean(v.Text())
		case gateway.KindBytes:
			text = hex.EncodeToString([]byte(v.Text()))
		}
		p.Values = append(p.Values, plainValue{p.clean(v.Name), v.Kind().String() + " " + text, p.clean(v.Unit), min(v.Quality, 2).String(), p.clean(v.Reason)})
	}
	return p
}

func bitsOf(f float64) string { return fmt.Sprintf("%016x", math.Float64bits(f)) }

func stamp(t time.Time) string {
	if t = t.UTC(); t.IsZero() || t.Year() < 1 || t.Year() > 9999 {
		return ""
	}
	return t.Format(time.RFC3339Nano)
}

// both reads r back by both decoders.
func (f *foreign) both(t testing.TB, r *gateway.Record, at *Position) {
	t.Helper()
	want := expect(r, at)
	for _, e := range []Encoder{Avro{}, Protobuf{}} {
		out, err := e.Encode([]byte("prefix"), r, at)
		if err != nil || string(out[:6]) != "prefix" {
			t.Fatal(err)
		}
		var got plain
		if e == (Avro{}) {
			got, err = f.readAvro(out[6:])
		} else {
			got, err = f.readProto(out[6:])
		}
		if err != nil {
			t.Fatalf("%T: %v", e, err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%T: got\n%+v\nwant\n%+v", e, got, want)
		}
	}
}

// TestBinaryGolden compares with testdata/NAME.golden.avro and .pb and reads
// both back. UPDATE_GOLDEN=1 writes them.
func TestBinaryGolden(t *testing.T) {
	f := newForeign(t)
	for name, r := range golden() {
		t.Run(name, func(t *testing.T) {
			for ext, e := range map[string]Encoder{"avro": Avro{}, "pb": Protobuf{}} {
				got, err := e.Encode(nil, &r, goldenAt())
				if err != nil {
					t.Fatal(err)
				}
				file := filepath.Join("testdata", name+".golden."+ext)
				if updating() {
					if err := os.WriteFile(file, got, 0o644); err != nil {
						t.Fatal(err)
					}
				}
				want, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				if string(got) != string(want) {
					t.Errorf("%s: got\n% x\nwant\n% x", ext, got, want)
				}
			}
			f.both(t, &r, goldenAt())
			f.both(t, &r, &Position{})
		})
	}
}

// TestTimesKeepTheirNanoseconds reads times before 1970 and of odd
// nanoseconds back.
func TestTimesKeepTheirNanoseconds(t *testing.T) {
	f := newForeign(t)
	for _, at := range []time.Time{
		time.Unix(0, 1), time.Unix(0, -1), time.Unix(0, 0), time.Unix(-1, 999_999_999), time.Unix(1_790_000_000, 123_456_789),
		time.Date(1677, 9, 22, 0, 0, 0, 1, time.UTC), time.Date(2262, 4, 11, 0, 0, 0, 999, time.UTC), time.Date(9999, 12, 31, 23, 59, 59, 999_999_999, time.UTC),
		time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(0, 12, 31, 0, 0, 0, 0, time.UTC), time.Date(1, 1, 1, 0, 0, 0, 1, time.UTC),
	} {
		f.both(t, &gateway.Record{Time: at, Received: at.Add(time.Nanosecond)}, &Position{})
	}
}

// TestWholeNumbersAtTheLimits reads back those next to where Avro changes the
// field.
func TestWholeNumbersAtTheLimits(t *testing.T) {
	f := newForeign(t)
	for _, u := range []uint64{0, 127, 128, math.MaxInt64 - 1, math.MaxInt64, math.MaxInt64 + 1, math.MaxUint64 - 1, math.MaxUint64} {
		f.both(t, &gateway.Record{Values: []gateway.Value{gateway.UintValue("u", u), gateway.IntValue("i", int64(u)), gateway.IntValue("-i", -int64(u))}}, &Position{})
	}
}

// TestSchemasAreThoseOfDocs holds the embedded schemas to the documents.
func TestSchemasAreThoseOfDocs(t *testing.T) {
	for encoding, file := range map[string]string{NameAvro: "record.avsc", NameProtobuf: "record.proto", NameJSON: "record.schema.json"} {
		want, err := os.ReadFile("../../docs/" + file)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := Schema(encoding); err != nil || got != string(want) {
			t.Errorf("docs/%s and gateway/codec/schemas/%s are not the same: %v", file, file, err)
		}
	}
	if _, err := Schema(NameRaw); err == nil {
		t.Error("raw has a schema")
	}
	if s := avro.MustParse(avroSchema).(avro.NamedSchema); s.FullName() != SchemaName {
		t.Errorf("Avro name is %s", s.FullName())
	}
	if d := protoMessage(t); string(d.FullName()) != SchemaName {
		t.Errorf("Protobuf name is %s", d.FullName())
	}
	var doc any
	if err := json.Unmarshal([]byte(avroSchema), &doc); err != nil {
		t.Error(err)
	}
}

// FuzzBinary makes a record of the bytes it is given and reads it back by
// decoders that are not ours.
func FuzzBinary(f *testing.F) {
	readers := newForeign(f)
	for _, r := range golden() {
		f.Add(gateway.AppendRecord(nil, &r), "gw", "lane", uint64(7), false)
	}
	f.Fuzz(func(t *testing.T, stored []byte, id, lane string, seq uint64, replayed bool) {
		var dec gateway.RecordDecoder
		var r gateway.Record
		if err := dec.Decode(&r, stored); err != nil {
			return
		}
		seen := map[string]bool{} // two keys that are the same once their bad bytes are replaced cannot both be kept
		for _, tag := range r.Tags {
			k := string([]rune(tag.Key))
			if seen[k] {
				return
			}
			seen[k] = true
		}
		readers.both(t, &r, &Position{Gateway: id, Generation: lane, Lane: lane, Seq: seq & math.MaxInt64, Replayed: replayed})
	})
}

// BenchmarkEncode is one record of 12 values of about 200 bytes of JSON.
func BenchmarkEncode(b *testing.B) {
	r := one(b, JSONConfig{Time: JSONTime{Path: "ts"}}, telemetry)
	for _, name := range []string{NameJSON, NameAvro, NameProtobuf} {
		b.Run(name, func(b *testing.B) {
			e, err := NewEncoder(name)
			if err != nil {
				b.Fatal(err)
			}
			dst, at := make([]byte, 0, 4096), goldenAt()
			b.ReportAllocs()
			for b.Loop() {
				dst, _ = e.Encode(dst[:0], &r, at)
			}
			b.ReportMetric(float64(len(dst)), "B/record")
		})
	}
}
