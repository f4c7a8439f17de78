package kafka

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/sr"

	"github.com/waystation-iot/waystation/gateway"
	"github.com/waystation-iot/waystation/gateway/codec"
)

// An answer that says no comes with what to do, and the records wait.
func TestRefusalsOfTheRegistry(t *testing.T) {
	for want, change := range map[string]func(*desk){
		"check schema_registry.user":              func(d *desk) { d.conf.SchemaRegistry.Password = "wrong" },
		"waystation schema --request avro | curl": func(d *desk) { d.conf.SchemaRegistry.Register = "lookup" },
		"409 ":              func(d *desk) { d.answer(http.StatusConflict, `{"error_code":409,"message":"incompatible"}`) },
		"--data '{\"compat": func(d *desk) { d.answer(http.StatusConflict, `{"error_code":409,"message":"incompatible"}`) },
		"/apis/ccompat/v7":  func(d *desk) { d.answer(http.StatusNotFound, `<html>`) },
		"422 bad schema":    func(d *desk) { d.answer(http.StatusUnprocessableEntity, `{"error_code":42201,"message":"bad schema"}`) },
		"is not that of a":  func(d *desk) { d.answer(http.StatusOK, `<html>log in</html>`) },
		"id\\\":0":          func(d *desk) { d.answer(http.StatusOK, `{"id":0}`) },
		"id\\\":4294967296": func(d *desk) { d.answer(http.StatusOK, `{"id":4294967296}`) },
	} {
		t.Run(want, func(t *testing.T) {
			d := newDesk(t, "avro", nil)
			change(d)
			d.restart()
			b := d.batch(4, 2)
			for range 2 {
				err := d.try(b)
				var refused *gateway.RefusedError
				if err == nil || errors.As(err, &refused) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
					t.Fatalf("want %q: %v", want, err)
				}
			}
			if n := len(d.read("data")); n != 0 {
				t.Errorf("%d records were sent", n)
			}
		})
	}
}

// answer makes the registry answer that, whatever is asked.
func (d *desk) answer(status int, text string) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, text)
	}))
	d.t.Cleanup(s.Close)
	d.conf.SchemaRegistry.URLs = []string{s.URL}
}

// A topic whose subject is refused holds up neither the other topics nor, when
// it is only the gateway's own notices, the batch.
func TestOneSubjectRefused(t *testing.T) {
	d := newDesk(t, "avro", func(c *Config) { c.Topic, c.SchemaRegistry.Register = "{source}", "lookup" })
	schema, _ := codec.Schema("avro")
	if _, _, err := d.reg.RegisterSchema("data-value", sr.Schema{Schema: schema}); err != nil {
		t.Fatal(err)
	}
	b := d.batch(6, 2)
	for i := range b.Items {
		b.Items[i].Record.Source = "data"
	}
	b.Items[1].Record.Source, b.Items[4].Record.Source = gateway.NoticeSource, "new"
	err := d.try(b)
	if err == nil || !strings.Contains(err.Error(), "new-value") {
		t.Fatal(err)
	}
	d.exactlyOnce(6, "data", 2, 5)
	if err := d.c.CreateTopic("new", 1, nil); err != nil {
		t.Fatal(err)
	}
	if _, _, err := d.reg.RegisterSchema("new-value", sr.Schema{Schema: schema}); err != nil {
		t.Fatal(err)
	}
	refused := d.deliver(b)
	if len(refused) != 1 || refused[0].Index != 1 || !strings.Contains(refused[0].Reason, "waystation-value") {
		t.Errorf("refused %v", refused)
	}
	if n := len(d.read("new")); n != 1 {
		t.Errorf("%d records in the new topic", n)
	}
	d.exactlyOnce(6, "data", 2, 5)
}

// A dead registry is asked once in a Send, however many topics there are.
func TestDeadRegistryIsAskedOnce(t *testing.T) {
	d := newDesk(t, "avro", func(c *Config) { c.Topic = "{device}" })
	d.dead.Store(true)
	if err := d.try(d.batch(100, 50)); err == nil || d.asked.Load() != 1 {
		t.Errorf("asked %d times: %v", d.asked.Load(), err)
	}
}
