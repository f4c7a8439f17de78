package mqtt

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/waystation-iot/waystation/adapters/mqtt/mqtttest"
	"github.com/waystation-iot/waystation/gateway"
	"github.com/waystation-iot/waystation/gateway/codec"
)

// segments is a connection that gives out what it holds piece by piece.
type segments struct {
	net.Conn // nil: nothing else is called
	parts    [][]byte
	wrote    bytes.Buffer
}

func (s *segments) Read(p []byte) (int, error) {
	if len(s.parts) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.parts[0])
	if s.parts[0] = s.parts[0][n:]; len(s.parts[0]) == 0 {
		s.parts = s.parts[1:]
	}
	return n, nil
}

func (s *segments) Write(p []byte) (int, error)      { return s.wrote.Write(p) }
func (s *segments) SetWriteDeadline(time.Time) error { return nil }
func (s *segments) Close() error                     { return nil }

// pipe reads parts through a conn whose records are stored at once. It returns
// what paho got, what was stored and what was acknowledged.
func pipe(t testing.TB, cfg *Config, parts [][]byte) (passed, acked []byte, recs []string, err error) {
	t.Helper()
	in := gateway.NewIntake(gateway.SourceSpec{Name: "s", Lane: gateway.LaneTelemetry}, gateway.AppenderFunc(func(_ gateway.Lane, seq iter.Seq[[]byte], done func(error)) {
		for p := range seq {
			var dec gateway.RecordDecoder
			var r gateway.Record
			if err := dec.Decode(&r, p); err != nil {
				t.Error(err)
			}
			recs = append(recs, fmt.Sprintf("%s|%s|%s|%v|%v", r.Name, r.Payload, r.Reason, r.Quality, r.Tags))
		}
		done(nil)
	}), gateway.NewClock(time.Now, nil))
	dec, err := codec.New(cfg.Codec)
	if err != nil {
		t.Fatal(err)
	}
	wire := &segments{parts: parts}
	c := newConn(wire, newInbox(in, dec, cfg), cfg)
	buf := make([]byte, 100)
	for {
		n, err := c.Read(buf)
		passed = append(passed, buf[:n]...)
		if err != nil {
			c.ackMu.Lock()
			acked = bytes.Clone(c.acks)
			c.ackMu.Unlock()
			c.writeMu.Lock()
			acked = append(bytes.Clone(wire.wrote.Bytes()), acked...)
			c.writeMu.Unlock()
			return passed, acked, recs, err
		}
	}
}

func testConfig() *Config {
	c := defaults()
	c.Topics, c.MaxPayload = []string{"#"}, 80<<10
	return c
}

// Any split of a stream into segments gives the same messages, the same bytes
// to paho and the same end.
func TestAnySplit(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		stream := mqtttest.Connack(0)
		for id := range rapid.IntRange(0, 30).Draw(rt, "packets") {
			size := rapid.SampledFrom([]int{0, 1, 10, 120, 128, 4090, 20_000, 65_520, 65_536, 81_920, 81_921, 160_000}).Draw(rt, "size")
			qos := rapid.SampledFrom([]byte{0, 1, 1, 1, 2}).Draw(rt, "qos")
			stream = append(stream, mqtttest.Publish("t/"+strings.Repeat("x", size%7), qos, uint16(id+1), make([]byte, size))...)
			switch rapid.IntRange(0, 5).Draw(rt, "between") {
			case 0:
				stream = append(stream, typePingresp<<4, 0)
			case 1:
				stream = append(stream, typePubrel<<4|2, 2, 0, byte(id))
			}
		}
		stream = append(stream, rapid.SampledFrom([]string{"", "\x30", "\x32\x05\x00\x01", "\x36\x02\x00\x00", "\x00\x00"}).Draw(rt, "tail")...)
		passed, _, recs, end := pipe(t, testConfig(), [][]byte{stream})
		var parts [][]byte
		for rest := stream; len(rest) > 0; {
			n := min(len(rest), rapid.SampledFrom([]int{1, 2, 3, 7, 100, 4096, 65_536, 1 << 20}).Draw(rt, "segment"))
			if len(rest) > 300_000 {
				n = min(len(rest), n*1000)
			}
			parts, rest = append(parts, rest[:n]), rest[n:]
		}
		passed2, _, recs2, end2 := pipe(t, testConfig(), parts)
		if !bytes.Equal(passed, passed2) || strings.Join(recs, "\n") != strings.Join(recs2, "\n") || end.Error() != end2.Error() {
			rt.Errorf("%d segments: %d bytes to paho instead of %d, %d records instead of %d, ended with %v instead of %v",
				len(parts), len(passed2), len(passed), len(recs2), len(recs), end2, end)
		}
	})
}

// panicky is a codec with a fault, which also makes no record of some payloads.
type panicky struct{ codec.Decoder }

func (p panicky) Decode(dst []gateway.Record, topic string, payload []byte) ([]gateway.Record, error) {
	switch string(payload) {
	case "panic":
		dst = append(dst, gateway.Record{Name: "half"})
		_ = dst[len(dst)+len(payload)]
	case "nothing":
		return dst, nil
	}
	return p.Decoder.Decode(dst, topic, payload)
}

// A codec that panics spoils one record; a payload without records is acknowledged.
func TestPanicInCodec(t *testing.T) {
	b := mqtttest.NewRaw(t, nil)
	src := newSource(t, "tcp://"+b.Addr(), nil)
	st := newStore(t)
	in := gateway.NewIntake(gateway.SourceSpec{Name: "s", Lane: gateway.LaneTelemetry}, gateway.AppenderFunc(st.append), gateway.NewClock(time.Now, nil))
	raw, err := codec.New(src.cfg.Codec)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := net.Pipe()
	t.Cleanup(func() { _ = theirs.Close() })
	c := newConn(ours, newInbox(in, panicky{raw}, &src.cfg), &src.cfg)
	go func() { _, _ = c.Read(make([]byte, 10)); _, _ = c.Read(make([]byte, 10)) }()
	for _, p := range [][]byte{mqtttest.Connack(0), mqtttest.Publish("t", 1, 1, []byte("good")),
		mqtttest.Publish("t", 1, 2, []byte("panic")), mqtttest.Publish("t", 1, 3, []byte("nothing")), mqtttest.Publish("t", 1, 4, []byte("good"))} {
		if _, err := theirs.Write(p); err != nil {
			t.Fatal(err)
		}
	}
	acks := make([]byte, 16)
	if _, err := io.ReadFull(theirs, acks); err != nil || acks[3] != 1 || acks[7] != 2 || acks[11] != 3 || acks[15] != 4 {
		t.Errorf("acknowledgements %v, %v", acks, err)
	}
	recs := st.first(t, 3)
	if r := recs[1]; r.Quality != gateway.Bad || !strings.HasPrefix(r.Reason, "decode: panic: ") || string(r.Payload) != "panic" {
		t.Errorf("got %+v", r)
	}
	_ = c.Close()
}

func FuzzFixedHeader(f *testing.F) {
	f.Add([]byte{0x30, 0x80, 0x80, 0x01})
	f.Add([]byte{0x30, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, p []byte) {
		first, header, remaining, ok, err := fixedHeader(p)
		switch {
		case ok && (err != nil || first != p[0] || header < 2 || header > maxHeader || header > len(p) || remaining < 0 || remaining > 268_435_455):
			t.Fatal(first, header, remaining, err)
		case err != nil && !errors.Is(err, errMalformed):
			t.Fatal(err)
		case !ok && err == nil && len(p) >= maxHeader:
			t.Fatal("undecided with five bytes")
		}
	})
}

func FuzzParsePublish(f *testing.F) {
	f.Add(byte(0x32), []byte{0, 1, 'a', 0, 7, 'x'})
	f.Add(byte(0x30), []byte{0xff, 0xff})
	f.Fuzz(func(t *testing.T, first byte, body []byte) {
		m, err := parsePublish(first, body)
		if err != nil {
			if !errors.Is(err, errMalformed) {
				t.Fatal(err)
			}
			return
		}
		if back := mqtttest.Publish(string(m.topic), m.qos, m.id, m.payload); !bytes.HasSuffix(back, body) {
			t.Fatalf("%q became %q", body, back)
		}
	})
}

// Random bytes neither panic nor take more memory than the limits allow.
func FuzzConnStream(f *testing.F) {
	f.Add([]byte("\x20\x02\x00\x00\x32\x06\x00\x01a\x00\x01x\xd0\x00"), uint16(3))
	f.Add([]byte("\x20\x02\x00\x00\x32\xff\xff\xff\x7f\x00\x01a\x00\x01x"), uint16(100))
	f.Add([]byte("\x20\x02\x00\x00\x90\xff\xff\xff\x7f"), uint16(100))
	f.Fuzz(func(t *testing.T, stream []byte, cut uint16) {
		var parts [][]byte
		for step := int(cut) + 1; len(stream) > 0; {
			n := min(step, len(stream))
			parts, stream = append(parts, stream[:n]), stream[n:]
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, _, _, err := pipe(t, testConfig(), parts)
		runtime.ReadMemStats(&after)
		if err == nil || strings.Contains(err.Error(), "panic") {
			t.Fatal(err)
		}
		if took := after.TotalAlloc - before.TotalAlloc; took > 4<<20 {
			t.Fatalf("took %d bytes", took)
		}
	})
}
