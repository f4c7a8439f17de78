package codec

import (
	"context"
	"encoding/hex"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/bufbuild/protocompile"
	"github.com/hamba/avro/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/waystation-iot/waystation/gateway"
)

// foreign are decoders that know nothing of our encoders.
type foreign struct {
	schema  avro.Schema
	message protoreflect.MessageDescriptor
}

func newForeign(t testing.TB) *foreign {
	t.Helper()
	return &foreign{avro.MustParse(avroSchema), protoMessage(t)}
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

func (f *foreign) readAvro(b []byte) (plain, error) {
	var r avroRecord
	if err := avro.Unmarshal(f.schema, b, &r); err != nil {
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

func (f *foreign) readProto(b []byte) (plain, error) {
	d := f.message
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
