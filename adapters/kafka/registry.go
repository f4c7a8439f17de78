package kafka

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"net/http"
	"strings"

	"github.com/waystation-iot/waystation/gateway"
	"github.com/waystation-iot/waystation/gateway/codec"
)

// maxSubjects bounds the ids kept; they are forgotten, and asked for again,
// when there are more.
const maxSubjects = 4096

// registry finds out and remembers under which id a schema registry has our
// schema. An id, once given, never changes, so what is known needs no registry.
type registry struct {
	cfg    SchemaRegistry
	env    gateway.Env
	kind   string // encoding
	schema string
	print  string // fingerprint of schema
	ids    map[string]uint32
	others []knownID // of another registry or schema: what was configured before may come back
	store  idStore
	http   *http.Client // nil when nothing is being asked
	fresh  bool         // ids are not stored yet
	quiet  bool         // all is known and has been told
}

// newRegistry reads the ids that are known. It opens no connection.
func newRegistry(cfg *SchemaRegistry, kind, schema string, env gateway.Env) (*registry, error) {
	g := &registry{cfg: *cfg, env: env, kind: kind, schema: schema, print: codec.Fingerprint(schema), ids: map[string]uint32{}}
	g.store = newIDStore(env)
	if _, err := g.client(); err != nil {
		return nil, err
	}
	if err := g.authorize(&http.Request{Header: http.Header{}}); err != nil {
		return nil, err
	}
	known, err := g.store.load()
	if err != nil {
		env.Log.Warn("the ids of schemas are asked for again", "error", err)
	}
	for _, k := range known {
		switch {
		case k.ID == 0 || k.ID > math.MaxInt32 || k.Subject == "":
		case k.Registry == g.name() && k.Schema == g.print:
			g.ids[k.Subject] = k.ID
		case len(g.others) < maxSubjects:
			g.others = append(g.others, k)
		}
	}
	return g, nil
}

// name is the address under which ids are kept.
func (g *registry) name() string { return strings.TrimRight(g.cfg.URLs[0], "/") }

// subject is the name of our schema for a topic, as Confluent's
// TopicNameStrategy, RecordNameStrategy and TopicRecordNameStrategy make it.
func (g *registry) subject(topic string) string {
	switch g.cfg.Subject {
	case wordRecord:
		return codec.SchemaName
	case wordTopicRecord:
		return topic + "-" + codec.SchemaName
	}
	return topic + "-value"
}

// knows reports whether the id for a topic is known.
func (g *registry) knows(topic string) bool { return g.ids[g.subject(topic)] != 0 }

// header appends what goes before a value (Confluent's wire format): 0, the id,
// and for Protobuf which message of the file it is, of which the first is 0.
func (g *registry) header(dst []byte, topic string) []byte {
	dst = binary.BigEndian.AppendUint32(append(dst, 0), g.ids[g.subject(topic)])
	if g.kind == wordProtobuf {
		dst = append(dst, 0)
	}
	return dst
}

// learn asks the registry for the id for a topic. A *refusedSchema is the
// registry's own answer; any other error says that there was none.
func (g *registry) learn(ctx context.Context, topic string) error {
	subject := g.subject(topic)
	id, err := g.ask(ctx, subject)
	if err != nil {
		return err
	}
	g.ids[subject], g.fresh = id, true
	g.env.Log.Info("id of the schema is known", "subject", subject, "id", id)
	return nil
}

// makeRoom makes room for n more ids, if need be by forgetting all, and
// reports whether it did. It never happens among the topics of one batch.
func (g *registry) makeRoom(n int) bool {
	if len(g.ids)+n <= maxSubjects {
		return false
	}
	clear(g.ids)
	return true
}

// rest ends the asking: connections are closed and new ids are kept.
func (g *registry) rest() {
	if g.http != nil {
		g.http.CloseIdleConnections()
		g.http = nil
	}
	if !g.fresh {
		return
	}
	known := append(make([]knownID, 0, len(g.ids)+len(g.others)), g.others...)
	for subject, id := range g.ids {
		known = append(known, knownID{Registry: g.name(), Subject: subject, Schema: g.print, ID: id})
	}
	if err := g.store.save(known); err != nil {
		g.env.Log.Warn("the ids of schemas cannot be kept: after a restart they must be asked for again", "error", err)
	}
	g.fresh = false
}

// fact tells how many ids are known, and what was the trouble if there is some.
func (g *registry) fact(trouble error) gateway.Fact {
	f := gateway.Fact{Name: "schema registry", Value: fmt.Sprintf("%s, ids known: %d", g.name(), len(g.ids))}
	if trouble != nil {
		f.Value, f.Warn = f.Value+"; "+trouble.Error(), true
	}
	return f
}

// refusedSchema is an answer of the registry that says no.
type refusedSchema struct {
	what   string // "register schema of fleet.deck-value at http://…"
	status int
	code   int    // of Confluent's API, 0 when the answer was none of it
	text   string // the registry's own words
	hint   string
}

// Error implements error.
func (e *refusedSchema) Error() string {
	return fmt.Sprintf("%s: %d %s%s", e.what, e.status, e.text, e.hint)
}

// forGood reports whether it is about the schema: log-in may be mended.
func (e *refusedSchema) forGood() bool {
	return e.status == http.StatusNotFound || e.status == http.StatusConflict || e.status == http.StatusUnprocessableEntity
}

// hint says what a person must do about an answer.
func (g *registry) hint(base, subject string, status, code int) string {
	const typ = " -H 'Content-Type: application/vnd.schemaregistry.v1+json'"
	at := base + "/subjects/" + subject + "/versions"
	switch {
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return " (check schema_registry.user and password, or token, and that it may use subject " + subject + ")"
	case status == http.StatusNotFound && (code == 0 || g.cfg.Register != wordLookup):
		return " (check schema_registry.urls: is the path of Confluent's API in it? Apicurio's is /apis/ccompat/v7)"
	case status == http.StatusNotFound:
		return " (register it: waystation schema --request " + g.kind + " | curl" + typ + " --data @- " + at +
			", or set schema_registry.register: register)"
	case status == http.StatusConflict:
		return " (another schema is there, see: curl " + at + "/latest; set schema_registry.subject: topic-record, or allow ours: curl -X PUT" + typ +
			` --data '{"compatibility":"NONE"}' ` + base + "/config/" + subject + ")"
	case status == http.StatusUnprocessableEntity && g.kind == wordProtobuf:
		return " (does this registry take Protobuf? Confluent's does from 5.5 on)"
	}
	return ""
}
