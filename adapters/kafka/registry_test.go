package kafka

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/sr"
	"github.com/twmb/franz-go/pkg/sr/srfake"

	"github.com/waystation-iot/waystation/gateway"
	"github.com/waystation-iot/waystation/gateway/codec"
)

// desk is a schema registry and a sink that asks it; both can be started anew.
type desk struct {
	*rig
	reg   *srfake.Registry
	front *httptest.Server // before reg, counts and can be dead
	asked atomic.Int64
	dead  atomic.Bool
	conf  Config
	state string
}

func newDesk(t *testing.T, encoding string, change func(*Config)) *desk {
	t.Helper()
	d := &desk{reg: srfake.New(srfake.WithAuth("Basic Z3c6c2VjcmV0")), state: filepath.Join(t.TempDir(), "state")}
	t.Cleanup(d.reg.Close)
	inner := d.reg.Handler()
	d.front = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d.asked.Add(1)
		if d.dead.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(d.front.Close)
	d.rig = newRig(t, 1, func(c *Config) {
		c.Encoding = encoding
		c.SchemaRegistry.URLs, c.SchemaRegistry.User, c.SchemaRegistry.Password = []string{d.front.URL}, "gw", "secret"
		c.SchemaRegistry.Timeout = 5 * time.Second
		if change != nil {
			change(c)
		}
		d.conf = *c
	})
	d.restart()
	return d
}

// restart makes the sink anew, as a restart of the gateway does.
func (d *desk) restart() {
	d.t.Helper()
	_ = d.sink.Close()
	s, err := d.conf.Sink(gateway.Env{GatewayID: "gw1", Name: "shore", State: d.state, Log: slog.New(d.logs)})
	if err != nil {
		d.t.Fatal(err)
	}
	d.sink = s.(*Sink)
	d.sink.dial, d.sink.pause = d.line.Dial, time.Millisecond
	d.t.Cleanup(func() { _ = s.Close() })
}

// try sends b once.
func (d *desk) try(b *gateway.Batch) error {
	d.t.Helper()
	d.connect()
	return d.sink.Send(d.ctx(), b)
}

// ids returns the id in each value of a topic, after checking what surrounds it.
func (d *desk) ids(topic, encoding string) (out []uint32) {
	d.t.Helper()
	for _, rec := range d.read(topic) {
		v := rec.Value
		if len(v) < 6 || v[0] != 0 || encoding == "protobuf" && v[5] != 0 {
			d.t.Fatalf("not the wire format of a registry: % x", v)
		}
		if head(rec, "schema-fingerprint") != "" {
			d.t.Error("a fingerprint beside an id")
		}
		out = append(out, binary.BigEndian.Uint32(v[1:]))
	}
	return out
}

func (d *desk) fact() gateway.Fact {
	for _, f := range d.sink.Facts() {
		if f.Name == "schema registry" {
			return f
		}
	}
	return gateway.Fact{}
}

func TestRegistryGivesTheID(t *testing.T) {
	for encoding, typ := range map[string]sr.SchemaType{"avro": sr.TypeAvro, "protobuf": sr.TypeProtobuf} {
		for strategy, subject := range map[string]string{"topic": "data-value", "record": "io.waystation.v1.Record", "topic-record": "data-io.waystation.v1.Record"} {
			d := newDesk(t, encoding, func(c *Config) { c.SchemaRegistry.Subject = strategy })
			if err := d.reg.SetCompat(subject, sr.CompatNone); err != nil {
				t.Fatal(err)
			}
			d.reg.SeedSchema("other", 1, 40, sr.Schema{Schema: `"string"`})
			if err := d.try(d.batch(10, 3)); err != nil {
				t.Fatal(err)
			}
			got, ok := d.reg.GetSchema(subject, 1)
			want, _ := codec.Schema(encoding)
			if !ok || got.Schema.Schema != want || got.Type != typ {
				t.Errorf("%s: the registry has %v %+v", subject, ok, got)
			}
			ids := d.ids("data", encoding)
			for _, id := range ids {
				if id != uint32(got.ID) {
					t.Errorf("%s: id %d in the value, %d in the registry", subject, id, got.ID)
				}
			}
			if len(ids) != 10 || d.asked.Load() != 1 {
				t.Errorf("%d values, asked %d times", len(ids), d.asked.Load())
			}
		}
	}
}

// What is known once needs no registry, also after a restart.
func TestSendsWithTheRegistryDead(t *testing.T) {
	d := newDesk(t, "avro", nil)
	d.reg.SeedSchema("other", 1, 70000, sr.Schema{Schema: `"string"`}) // an id of more than two bytes
	if err := d.try(d.batch(5, 2)); err != nil {
		t.Fatal(err)
	}
	d.front.Close() // not even a port
	for range 2 {
		d.restart()
		if err := d.try(d.batch(5, 2)); err != nil {
			t.Fatal(err)
		}
	}
	want := d.ids("data", "avro")[0]
	for _, id := range d.ids("data", "avro") {
		if id != want || id <= 70000 {
			t.Errorf("id %d, want %d", id, want)
		}
	}
	d.exactlyOnce(15, "data")
	if f := d.fact(); f.Warn || !strings.Contains(f.Value, "ids known: 1") {
		t.Errorf("fact %+v", f)
	}
}

// While nothing is known and nobody answers, records wait: no error is for
// good, nothing is refused.
func TestWaitsWhileTheIDIsUnknown(t *testing.T) {
	d := newDesk(t, "protobuf", nil)
	d.dead.Store(true)
	b := d.batch(7, 2)
	for range 3 {
		err := d.try(b)
		var refused *gateway.RefusedError
		if err == nil || errors.As(err, &refused) || gateway.IsPermanent(err) || !strings.Contains(err.Error(), "503") ||
			!strings.HasPrefix(err.Error(), "kafka shore: register schema of data-value at http://") {
			t.Fatalf("want an error to try again after: %v", err)
		}
	}
	if f := d.fact(); !f.Warn || !strings.Contains(f.Value, "503") {
		t.Errorf("fact %+v", f)
	}
	if n := len(d.read("data")); n != 0 {
		t.Errorf("%d records without an id", n)
	}
	d.dead.Store(false)
	if err := d.try(b); err != nil {
		t.Fatal(err)
	}
	d.exactlyOnce(7, "data")
	if f := d.fact(); f.Warn {
		t.Errorf("fact %+v", f)
	}
}

// A file that was damaged is not believed; another registry or schema has ids
// of its own.
func TestKeptIDs(t *testing.T) {
	for name, spoil := range map[string]func(*desk, string) string{
		"cut":            func(_ *desk, s string) string { return s[:len(s)/2] },
		"empty":          func(*desk, string) string { return "" },
		"another digit":  func(_ *desk, s string) string { return strings.Replace(s, `"id":1`, `"id":2`, 1) },
		"other registry": func(d *desk, s string) string { d.conf.SchemaRegistry.URLs[0] = d.reg.URL(); return s },
		"other schema":   func(d *desk, s string) string { d.conf.Encoding = "protobuf"; d.reg.Reset(); return s },
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesk(t, "avro", nil)
			if err := d.try(d.batch(1, 1)); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(d.state, "schema-ids.json")
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(spoil(d, string(text))), 0o600); err != nil {
				t.Fatal(err)
			}
			d.restart()
			if len(d.sink.form.schemas.ids) != 0 {
				t.Fatalf("believed %v", d.sink.form.schemas.ids)
			}
			if err := d.try(d.batch(1, 1)); err != nil {
				t.Fatal(err)
			}
			d.restart()
			if len(d.sink.form.schemas.ids) != 1 {
				t.Error("the new id was not kept")
			}
			if all := strings.Join(d.logs.lines, "\n"); strings.Contains(all, "cannot be kept") {
				t.Error(all)
			}
			if left, _ := filepath.Glob(filepath.Join(d.state, "*")); len(left) != 1 {
				t.Errorf("files left over: %v", left)
			}
		})
	}
}

// What was configured before may come back: its ids are kept too.
func TestIDsOfBothEncodingsAreKept(t *testing.T) {
	d := newDesk(t, "avro", func(c *Config) { c.SchemaRegistry.Subject = "record" })
	if err := d.reg.SetCompat(codec.SchemaName, sr.CompatNone); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		for _, encoding := range []string{"avro", "protobuf"} {
			d.conf.Encoding = encoding
			d.restart()
			if err := d.try(d.batch(1, 1)); err != nil {
				t.Fatal(err)
			}
		}
		d.front.Close()
	}
}

// Ids that cannot be kept do not stop the sending.
func TestStateThatCannotBeWritten(t *testing.T) {
	d := newDesk(t, "avro", nil)
	if err := os.WriteFile(d.state, nil, 0o600); err != nil { // a file where the directory is to be
		t.Fatal(err)
	}
	if err := d.try(d.batch(3, 1)); err != nil {
		t.Fatal(err)
	}
	if all := strings.Join(d.logs.lines, "\n"); !strings.Contains(all, "cannot be kept") {
		t.Errorf("logged: %s", all)
	}
}

// Looked up, a schema is not registered.
func TestLookup(t *testing.T) {
	d := newDesk(t, "avro", func(c *Config) { c.SchemaRegistry.Register = "lookup" })
	b := d.batch(3, 1)
	if err := d.try(b); err == nil || d.reg.SubjectExists("data-value") {
		t.Fatal("registered by a sink that may only look it up", err)
	}
	schema, _ := codec.Schema("avro")
	id, _, err := d.reg.RegisterSchema("data-value", sr.Schema{Schema: schema})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.try(b); err != nil {
		t.Fatal(err)
	}
	if got := d.ids("data", "avro"); len(got) != 3 || got[0] != uint32(id) {
		t.Errorf("ids %v, want %d", got, id)
	}
}

// A second address is asked when the first is silent, by whatever way.
func TestSecondAddress(t *testing.T) {
	stuck := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	}))
	defer stuck.Close()
	busy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }))
	defer busy.Close()
	d := newDesk(t, "avro", nil)
	d.conf.SchemaRegistry.Timeout = 100 * time.Millisecond
	d.conf.SchemaRegistry.URLs = []string{"http://127.0.0.1:1", busy.URL, stuck.URL, d.front.URL + "/"}
	d.restart()
	b := d.batch(3, 1)
	for try := 0; ; try++ { // the good one has 100 ms too, which a busy machine may not keep
		err := d.try(b)
		if err == nil {
			break
		}
		if try > 50 {
			t.Fatal(err)
		}
	}
	d.exactlyOnce(3, "data")
}

// Ids are bounded, and none is forgotten between the asking and the sending.
func TestManySubjects(t *testing.T) {
	d := newDesk(t, "avro", nil)
	g := d.sink.form.schemas
	for i := range maxSubjects - 1 {
		g.ids[fmt.Sprintf("t%d-value", i)] = 9
	}
	d.sink.take(d.batch(1, 1))
	d.sink.job.topics = []*topic{{name: "t1"}, {name: "a"}, {name: "b"}}
	d.sink.learnSchemas(d.ctx())
	for _, x := range d.sink.job.topics {
		if x.blocked != nil || !g.knows(x.name) {
			t.Errorf("%s: %v", x.name, x.blocked)
		}
	}
	if len(g.ids) != 3 {
		t.Errorf("%d ids", len(g.ids))
	}
	d.sink.job = job{}
}

func TestBearerToken(t *testing.T) {
	d := newDesk(t, "avro", nil)
	reg := srfake.New(srfake.WithAuth("Bearer abc"))
	defer reg.Close()
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("abc\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := &d.conf.SchemaRegistry
	r.URLs, r.User, r.Password, r.Token = []string{reg.URL()}, "", "", gateway.Secret("file:"+file)
	d.restart()
	if err := d.try(d.batch(1, 1)); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if _, err := d.conf.Sink(gateway.Env{Name: "shore"}); err == nil || !strings.Contains(err.Error(), "kafka shore: read schema_registry.token") {
		t.Errorf("built without its token: %v", err)
	}
}
