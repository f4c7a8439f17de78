package codec

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/bufbuild/protocompile"
	"github.com/hamba/avro/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/timestamppb"

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

// avroRecord is read by hamba/avro, which knows nothing of our encoder.
type avroRecord struct {
	Gateway       string            `avro:"gateway"`
	Generation    string            `avro:"generation"`
	Lane          string            `avro:"lane"`
	Seq           int64             `avro:"seq"`
	Replayed      bool              `avro:"replayed"`
	Source        string            `avro:"source"`
	Device        string            `avro:"device"`
	Name          string            `avro:"name"`
	Time          *time.Time        `avro:"time"`
	TimeNanos     int               `avro:"time_nanos"`
	Received      *time.Time        `avro:"received"`
	ReceivedNanos int               `avro:"received_nanos"`
	ClockTrusted  bool              `avro:"clock_trusted"`
	Quality       string            `avro:"quality"`
	Reason        *string           `avro:"reason"`
	Tags          map[string]string `avro:"tags"`
	Values        []struct {
		Name    string   `avro:"name"`
		Type    string   `avro:"type"`
		Bool    *bool    `avro:"bool_value"`
		Int     *int64   `avro:"int_value"`
		Uint    any      `avro:"uint_value"` // *big.Rat
		Double  *float64 `avro:"double_value"`
		String  *string  `avro:"string_value"`
		Bytes   *[]byte  `avro:"bytes_value"`
		Unit    *string  `avro:"unit"`
		Quality string   `avro:"quality"`
		Reason  *string  `avro:"reason"`
	} `avro:"values"`
	Payload     *[]byte `avro:"payload"`
	ContentType *string `avro:"content_type"`
	Replaced    bool    `avro:"replaced"`
}

func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// decimal is a whole number as hamba/avro gives it: alone or by the branch of
// its union.
func decimal(x any) string {
	if m, ok := x.(map[string]any); ok {
		for _, v := range m {
			return decimal(v)
		}
	}
	if n, ok := x.(*big.Rat); ok && n.IsInt() {
		return n.Num().String()
	}
	return fmt.Sprintf("not a whole number: %T %v", x, x)
}

func readAvro(schema avro.Schema, b []byte) (plain, error) {
	var r avroRecord
	if err := avro.Unmarshal(schema, b, &r); err != nil {
		return plain{}, err
	}
	grade := map[string]int{"good": 0, "uncertain": 1, "bad": 2}
	at := func(t *time.Time, ns int) string {
		if t == nil {
			return ""
		}
		return stamp(t.Add(time.Duration(ns)))
	}
	p := plain{At: Position{r.Gateway, r.Generation, r.Lane, uint64(r.Seq), r.Replayed}, Source: r.Source, Device: r.Device, Name: r.Name,
		Time: at(r.Time, r.TimeNanos), Received: at(r.Received, r.ReceivedNanos), ClockTrusted: r.ClockTrusted, Quality: grade[r.Quality],
		Reason: deref(r.Reason), Tags: r.Tags, HasPayload: r.Payload != nil, Payload: hex.EncodeToString(deref(r.Payload)),
		ContentType: deref(r.ContentType), Replaced: r.Replaced}
	for _, v := range r.Values {
		var set []string
		add := func(is bool, text string) {
			if is {
				set = append(set, text)
			}
		}
		add(v.Bool != nil, fmt.Sprint(deref(v.Bool)))
		add(v.Int != nil, fmt.Sprint(deref(v.Int)))
		add(v.Uint != nil, decimal(v.Uint))
		add(v.Double != nil, bitsOf(deref(v.Double)))
		add(v.String != nil, deref(v.String))
		add(v.Bytes != nil, hex.EncodeToString(deref(v.Bytes)))
		p.Values = append(p.Values, plainValue{v.Name, v.Type + " " + strings.Join(set, " and "), deref(v.Unit), v.Quality, deref(v.Reason)})
	}
	return p, nil
}

// protoMessage compiles the schema with a compiler that is not ours.
func protoMessage(t testing.TB) protoreflect.MessageDescriptor {
	t.Helper()
	c := protocompile.Compiler{Resolver: protocompile.WithStandardImports(&protocompile.SourceResolver{
		Accessor: protocompile.SourceAccessorFromMap(map[string]string{"record.proto": protobufSchema}),
	})}
	files, err := c.Compile(context.Background(), "record.proto")
	if err != nil {
		t.Fatal(err)
	}
	return files[0].Messages().Get(0) // the first: so say the message indexes of the registry's wire format
}

func readProto(d protoreflect.MessageDescriptor, b []byte) (plain, error) {
	m := dynamicpb.NewMessage(d)
	if err := (proto.UnmarshalOptions{}).Unmarshal(b, m); err != nil {
		return plain{}, err
	}
	if len(m.GetUnknown()) > 0 {
		return plain{}, fmt.Errorf("unknown fields % x", m.GetUnknown())
	}
	field := func(m protoreflect.Message, name string) protoreflect.Value {
		return m.Get(m.Descriptor().Fields().ByName(protoreflect.Name(name)))
	}
	at := func(name string) string {
		if !m.Has(d.Fields().ByName(protoreflect.Name(name))) {
			return ""
		}
		raw, _ := proto.Marshal(field(m, name).Message().Interface())
		var ts timestamppb.Timestamp
		if err := proto.Unmarshal(raw, &ts); err != nil || ts.CheckValid() != nil {
			return "not a timestamp"
		}
		return stamp(ts.AsTime())
	}
	text := func(name string) string { return field(m, name).String() }
	p := plain{At: Position{text("gateway"), text("generation"), text("lane"), field(m, "seq").Uint(), field(m, "replayed").Bool()},
		Source: text("source"), Device: text("device"), Name: text("name"), Time: at("time"), Received: at("received"),
		ClockTrusted: !field(m, "clock_untrusted").Bool(), Quality: int(field(m, "quality").Enum()), Reason: text("reason"), Tags: map[string]string{},
		HasPayload: m.Has(d.Fields().ByName("payload")), Payload: hex.EncodeToString(field(m, "payload").Bytes()),
		ContentType: text("content_type"), Replaced: field(m, "replaced").Bool()}
	field(m, "tags").Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
		p.Tags[k.String()] = v.String()
		return true
	})
	for list, i := field(m, "values").List(), 0; i < list.Len(); i++ {
		v := list.Get(i).Message()
		p.Values = append(p.Values, plainValue{field(v, "name").String(), protoReading(v), field(v, "unit").String(),
			gateway.Quality(field(v, "quality").Enum()).String(), field(v, "reason").String()})
	}
	return p, nil
}

func protoReading(v protoreflect.Message) string {
	set := v.WhichOneof(v.Descriptor().Oneofs().ByName("value"))
	if set == nil {
		return "none "
	}
	x := v.Get(set)
	switch set.Name() {
	case "bool_value":
		return fmt.Sprint("bool ", x.Bool())
	case "int_value":
		return fmt.Sprint("int64 ", x.Int())
	case "uint_value":
		return fmt.Sprint("uint64 ", x.Uint())
	case "double_value":
		return "float64 " + bitsOf(x.Float())
	case "string_value":
		return "string " + x.String()
	}
	return "bytes " + hex.EncodeToString(x.Bytes())
}

// both reads r back by both decoders.
func both(t testing.TB, schema avro.Schema, d protoreflect.MessageDescriptor, r *gateway.Record, at *Position) {
	t.Helper()
	want := expect(r, at)
	for _, e := range []Encoder{Avro{}, Protobuf{}} {
		out, err := e.Encode([]byte("prefix"), r, at)
		if err != nil || string(out[:6]) != "prefix" {
			t.Fatal(err)
		}
		var got plain
		if e == (Avro{}) {
			got, err = readAvro(schema, out[6:])
		} else {
			got, err = readProto(d, out[6:])
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
	schema, d := avro.MustParse(avroSchema), protoMessage(t)
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
			both(t, schema, d, &r, goldenAt())
			both(t, schema, d, &r, &Position{})
		})
	}
}

// TestTimesKeepTheirNanoseconds reads times before 1970 and of odd
// nanoseconds back.
func TestTimesKeepTheirNanoseconds(t *testing.T) {
	schema, d := avro.MustParse(avroSchema), protoMessage(t)
	for _, at := range []time.Time{
		time.Unix(0, 1), time.Unix(0, -1), time.Unix(0, 0), time.Unix(-1, 999_999_999), time.Unix(1_790_000_000, 123_456_789),
		time.Date(1677, 9, 22, 0, 0, 0, 1, time.UTC), time.Date(2262, 4, 11, 0, 0, 0, 999, time.UTC), time.Date(9999, 12, 31, 23, 59, 59, 999_999_999, time.UTC),
		time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(0, 12, 31, 0, 0, 0, 0, time.UTC), time.Date(1, 1, 1, 0, 0, 0, 1, time.UTC),
	} {
		both(t, schema, d, &gateway.Record{Time: at, Received: at.Add(time.Nanosecond)}, &Position{})
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
	schema, d := avro.MustParse(avroSchema), protoMessage(f)
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
		both(t, schema, d, &r, &Position{Gateway: id, Generation: lane, Lane: lane, Seq: seq & math.MaxInt64, Replayed: replayed})
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
