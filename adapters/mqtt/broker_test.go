package mqtt

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"github.com/waystation-iot/waystation/adapters/mqtt/mqtttest"
	"github.com/waystation-iot/waystation/gateway"
)

// 5,000 messages: no PUBACK before its commit, none out of order.
func TestPubackOnlyAfterCommit(t *testing.T) {
	const messages = 5000
	var st atomic.Pointer[store]
	var early atomic.Int64
	b := mqtttest.New(t, mqtttest.Options{OnAck: func(e mqtttest.Event) {
		if s := st.Load(); s == nil || !s.has(e.Payload) {
			early.Add(1)
		}
	}})
	r := newRig(t, newSource(t, "tcp://"+b.Addr(), nil))
	st.Store(r.st)
	r.begin(1)
	r.up()
	b.PublishN("plant/a", 1, messages, 1)
	b.Await("5000 PUBACKs", func(ev []mqtttest.Event) bool { return mqtttest.Count(ev, typePuback, false) >= messages })
	var sent, acked []string
	for _, e := range b.Events() {
		switch {
		case e.Out && e.Type == typePublish:
			sent = append(sent, e.Payload)
		case !e.Out && e.Type == typePuback:
			acked = append(acked, e.Payload)
		}
	}
	if n := early.Load(); n > 0 {
		t.Errorf("%d of %d PUBACKs came before the commit", n, messages)
	}
	if !slices.Equal(sent, acked) {
		t.Error("PUBACKs are not in the order of the messages")
	}
	if got := r.st.numbers(); !slices.Equal(got, span(1, messages)) {
		t.Errorf("stored %d messages, not 1 to %d in order", len(got), messages)
	}
	t.Logf("%d commits", r.st.commits)
}

// A queue that refuses: the connection is dropped, nothing is acknowledged, and
// everything comes again.
func TestFailingQueue(t *testing.T) {
	b := mqtttest.New(t, mqtttest.Options{})
	r := start(t, newSource(t, "tcp://"+b.Addr(), nil))
	// All are under way before the connection is dropped: the broker mixes
	// messages that are published meanwhile into those it sends again.
	r.st.set(func() { r.st.hold = true })
	b.PublishN("a", 1, 300, 1)
	b.Await("300 messages sent", func(ev []mqtttest.Event) bool { return mqtttest.Count(ev, typePublish, true) >= 300 })
	r.st.set(func() { r.st.fail, r.st.hold = errFull, false })
	if err := r.err(); !strings.Contains(err.Error(), errFull.Error()) {
		t.Fatalf("got error %v, want the reason of the queue", err)
	}
	if n := mqtttest.Count(b.Events(), typePuback, false); n != 0 {
		t.Errorf("%d messages were acknowledged though the queue refused them", n)
	}
	r.st.set(func() { r.st.fail = nil })
	r.st.await(t, "all 300", func() bool { return len(r.st.payload) == 300 })
	if got := r.st.numbers(); !slices.Equal(got, span(1, 300)) {
		t.Errorf("not in order: %v", got)
	}
}

// A queue that does not answer for longer than a keep-alive: what is delivered
// is bounded and the connection stays.
func TestSlowQueueKeepsConnection(t *testing.T) {
	b := mqtttest.New(t, mqtttest.Options{})
	r := start(t, newSource(t, "tcp://"+b.Addr(), func(c *Config) { c.KeepAlive, c.MaxInflight = 2*time.Second, 1000 }))
	r.st.set(func() { r.st.hold = true })
	b.PublishN("a", 1, 900, 1)
	b.Await("two keep-alives", func(ev []mqtttest.Event) bool { return mqtttest.Count(ev, typePingresp, true) >= 2 })
	if n := mqtttest.Count(b.Events(), typePuback, false); n > 0 {
		t.Errorf("%d PUBACKs while nothing was stored", n)
	}
	r.st.set(func() { r.st.hold = false })
	r.st.first(t, 900)
	b.Await("900 PUBACKs", func(ev []mqtttest.Event) bool { return mqtttest.Count(ev, typePuback, false) >= 900 })
	if len(r.errs) > 0 {
		t.Errorf("the connection was lost: %v", <-r.errs)
	}
}

// Beyond the limit the connection is given up; nothing is lost.
func TestHardLimit(t *testing.T) {
	for _, limit := range []struct {
		name   string
		change func(*Config)
	}{
		{"count", func(c *Config) { c.MaxInflight = 100 }},
		{"bytes", func(c *Config) { c.MaxPayload, c.MaxBytes = 1000, 8000 }},
	} {
		t.Run(limit.name, func(t *testing.T) {
			b := mqtttest.New(t, mqtttest.Options{})
			r := start(t, newSource(t, "tcp://"+b.Addr(), func(c *Config) {
				limit.change(c)
				c.Timeout = 500 * time.Millisecond
			}))
			r.st.set(func() { r.st.hold = true })
			b.PublishN("a", 1, 2000, 1)
			if err := r.err(); !strings.Contains(err.Error(), errBehind.Error()) {
				t.Fatalf("got error %v, want %v", err, errBehind)
			}
			r.st.mu.Lock()
			open := r.st.open
			r.st.mu.Unlock()
			if open > 120 { // 8000 bytes are 119 messages
				t.Errorf("%d messages are delivered and not stored, allowed are 120", open)
			}
			r.st.set(func() { r.st.hold = false })
			r.st.await(t, "all 2000", func() bool { return len(r.st.payload) == 2000 })
			if got := r.st.numbers(); !slices.Equal(got, span(1, 2000)) {
				t.Error("not in order")
			}
		})
	}
}

// Order over ten cuts, with traffic all the time.
func TestOrderOverCuts(t *testing.T) {
	var st atomic.Pointer[store]
	b := mqtttest.New(t, mqtttest.Options{OnAck: func(e mqtttest.Event) {
		if s := st.Load(); s == nil || !s.has(e.Payload) {
			t.Errorf("message %s was acknowledged before it was stored", e.Payload)
		}
	}})
	r := newRig(t, newSource(t, "tcp://"+b.Addr(), nil))
	st.Store(r.st)
	r.begin(1000)
	r.up()
	for i := range 10 {
		b.PublishN("a", i*400+1, i*400+200, 1)
		eventually(t, "a connection to cut", func() bool { return b.Conns() > 0 })
		b.CutOnce()
		b.PublishN("a", i*400+201, i*400+400, 1)
		r.st.await(t, "messages after a cut", func() bool { return len(r.st.payload) >= i*400+1 })
	}
	r.st.await(t, "all 4000", func() bool { return len(r.st.payload) == 4000 })
	if got := r.st.numbers(); !slices.Equal(got, span(1, 4000)) {
		t.Error("first arrivals are not in the order of the messages")
	}
	if n := len(r.errs); n < 10 {
		t.Errorf("%d errors for ten cuts", n)
	}
}

// A broker that restarts without its sessions is subscribed to again.
func TestBrokerRestartsWithoutSessions(t *testing.T) {
	b := mqtttest.New(t, mqtttest.Options{})
	r := start(t, newSource(t, "tcp://"+b.Addr(), nil))
	for i := range 3 {
		b.Restart()
		if err := r.err(); err == nil {
			t.Fatal("Run returned nil")
		}
		want := fmt.Sprint("after restart ", i)
		eventually(t, "a message after the restart", func() bool {
			b.Publish("a", want, 1, false)
			return r.st.has(want)
		})
	}
}

func TestRetained(t *testing.T) {
	b := mqtttest.New(t, mqtttest.Options{})
	b.Publish("state/a", "kept", 1, true)
	r := start(t, newSource(t, "tcp://"+b.Addr(), nil))
	r.st.first(t, 1)
	b.Publish("state/a", "live", 1, true)
	recs := r.st.first(t, 2)
	if got := recs[0].Tags; len(got) != 1 || got[0] != (gateway.Tag{Key: "retained", Value: "true"}) {
		t.Errorf("retained message has tags %v", got)
	}
	if got := recs[1].Tags; len(got) != 0 {
		t.Errorf("live message has tags %v", got)
	}
	b.CutOnce() // retained messages come again with the new subscription
	r.st.first(t, 3)
}

// Payloads that cannot be decoded are stored as they are, and acknowledged.
func TestUndecodable(t *testing.T) {
	b := mqtttest.New(t, mqtttest.Options{})
	r := start(t, newSource(t, "tcp://"+b.Addr(), func(c *Config) { c.Codec.Codec = "json"; c.Codec.JSON.Each = true }))
	b.Publish("a", `{"t": 21.5`, 1, false)
	b.Publish("a", "", 1, false)
	b.Publish("a", `{"t": 21.5}`, 1, false)
	recs := r.st.first(t, 3)
	for i, want := range []string{`{"t": 21.5`, ""} {
		rec := recs[i]
		if rec.Quality != gateway.Bad || !strings.HasPrefix(rec.Reason, "decode: ") || string(rec.Payload) != want || rec.Name != "a" {
			t.Errorf("got %+v, want a record of bad quality with the payload %q", rec, want)
		}
	}
	if len(recs[2].Values) != 1 || recs[2].Quality != gateway.Good {
		t.Errorf("got %+v", recs[2])
	}
	b.Await("three PUBACKs", func(ev []mqtttest.Event) bool { return mqtttest.Count(ev, typePuback, false) == 3 })
}

func TestPayloadsAndTopics(t *testing.T) {
	b := mqtttest.New(t, mqtttest.Options{})
	r := start(t, newSource(t, "tcp://"+b.Addr(), func(c *Config) { c.Topics = []string{"#", "$SYS/x/#"} }))
	want := map[string]string{
		"//": "two empty levels", "/": "slash", " a / b ": "spaces", "$SYS/x/y": "system", "ä/€/😀": "letters",
		strings.Repeat("x", 65535): "long topic", "empty": "", "binary": "\x00\xff\xfe\x80", "large": strings.Repeat("m", 1<<20),
	}
	for topic, payload := range want {
		b.Publish(topic, payload, 1, false)
	}
	for _, rec := range r.st.first(t, len(want)) {
		if p, ok := want[rec.Name]; !ok || p != string(rec.Payload) || rec.Device != rec.Name || rec.Quality != gateway.Good {
			t.Errorf("topic %.20q: payload of %d bytes, %v %s", rec.Name, len(rec.Payload), rec.Quality, rec.Reason)
		}
		delete(want, rec.Name)
	}
	if len(want) > 0 {
		t.Errorf("missing: %d", len(want))
	}
}

func TestSharedSubscription(t *testing.T) {
	b := mqtttest.New(t, mqtttest.Options{})
	one := start(t, newSource(t, "tcp://"+b.Addr(), func(c *Config) { c.ClientID, c.Topics = "one", []string{"$share/g/a/#"} }))
	two := start(t, newSource(t, "tcp://"+b.Addr(), func(c *Config) { c.ClientID, c.Topics = "two", []string{"$share/g/a/#"} }))
	b.PublishN("a/b", 1, 200, 1)
	eventually(t, "200 messages on two members", func() bool { return len(one.st.numbers())+len(two.st.numbers()) == 200 })
	if len(one.st.numbers()) == 0 || len(two.st.numbers()) == 0 {
		t.Error("one member got everything")
	}
}

func TestTwoBrokers(t *testing.T) {
	b1, b2 := mqtttest.New(t, mqtttest.Options{}), mqtttest.New(t, mqtttest.Options{})
	r1, r2 := start(t, newSource(t, "tcp://"+b1.Addr(), nil)), start(t, newSource(t, "mqtt://"+b2.Addr(), nil))
	b1.Swallow() // one that hangs does not hold up the other
	b2.PublishN("a", 1, 100, 1)
	r2.st.first(t, 100)
	b1.Restore()
	b1.PublishN("a", 1, 100, 1)
	r1.st.first(t, 100)
}

func TestRefusals(t *testing.T) {
	b := mqtttest.New(t, mqtttest.Options{
		Auth:   func(user, password string) bool { return user == "u" && password == "right" },
		Refuse: func(filter string) bool { return filter == "secret/#" }})
	t.Setenv("WRONG", "wrong")
	t.Setenv("RIGHT", "right")
	r := newRig(t, newSource(t, "tcp://"+b.Addr(), func(c *Config) { c.User, c.Password = "u", "env:WRONG" }))
	r.begin(1)
	if err := r.err(); !strings.Contains(err.Error(), "not authorised") || !strings.Contains(err.Error(), b.Addr()) {
		t.Errorf("got error %v", err)
	}
	r = newRig(t, newSource(t, "tcp://"+b.Addr(), func(c *Config) {
		c.User, c.Password, c.Topics = "u", "env:RIGHT", []string{"a", "secret/#"}
	}))
	r.begin(1)
	if err := r.err(); !strings.Contains(err.Error(), "refused secret/#") || !strings.Contains(err.Error(), `user "u"`) {
		t.Errorf("got error %v", err)
	}
	if r.in.Status("").State == gateway.Up {
		t.Error("the source said it was up")
	}
}

func TestQoS0IsNoted(t *testing.T) {
	b := mqtttest.New(t, mqtttest.Options{})
	r := start(t, newSource(t, "tcp://"+b.Addr(), nil))
	b.PublishN("a", 1, 10, 0)
	r.st.first(t, 10)
	if notes := r.in.Status("").Notes; len(notes) != 1 || !strings.Contains(notes[0], "QoS 0") {
		t.Errorf("notes are %q", notes)
	}
	b.PublishN("a", 11, 20, 1)
	b.Await("ten PUBACKs", func(ev []mqtttest.Event) bool { return mqtttest.Count(ev, typePuback, false) == 10 })
	q := start(t, newSource(t, "tcp://"+b.Addr(), func(c *Config) { c.QoS, c.ClientID = 0, "other" }))
	if notes := q.in.Status("").Notes; len(notes) != 1 || !strings.Contains(notes[0], "set qos: 1") {
		t.Errorf("notes are %q", notes)
	}
}

// A session that was once subscribed at QoS 2 still holds messages at QoS 2.
func TestQoS2Leftovers(t *testing.T) {
	b := mqtttest.New(t, mqtttest.Options{})
	o := paho.NewClientOptions().AddBroker("tcp://" + b.Addr()).SetClientID("old").SetCleanSession(false).SetProtocolVersion(4)
	old := paho.NewClient(o)
	if tok := old.Connect(); tok.Wait() && tok.Error() != nil {
		t.Fatal(tok.Error())
	}
	if tok := old.Subscribe("#", 2, nil); tok.Wait() && tok.Error() != nil {
		t.Fatal(tok.Error())
	}
	old.Disconnect(100)
	eventually(t, "the old client to be gone", func() bool { return b.Conns() == 0 })
	b.PublishN("a", 1, 20, 2)
	b.Publish("a", strings.Repeat("x", 10<<10), 2, false)
	r := newRig(t, newSource(t, "tcp://"+b.Addr(), func(c *Config) { c.ClientID, c.MaxPayload = "old", 8<<10 }))
	r.st.set(func() { r.st.hold = true })
	r.begin(1)
	r.up()
	r.st.await(t, "21 deliveries", func() bool { return r.st.open == 21 })
	if n := mqtttest.Count(b.Events(), typePubrec, false); n > 0 {
		t.Errorf("%d PUBRECs before the commit", n)
	}
	r.st.set(func() { r.st.hold = false })
	b.Await("21 PUBCOMPs", func(ev []mqtttest.Event) bool { return mqtttest.Count(ev, typePubcomp, false) == 21 })
	recs := r.st.first(t, 21)
	if got := r.st.numbers(); !slices.Equal(got, span(1, 20)) || recs[20].Quality != gateway.Bad {
		t.Errorf("stored %v and then %v", got, recs[20].Reason)
	}
	if len(r.errs) > 0 {
		t.Error(<-r.errs)
	}
}

// A stopping source acknowledges what it has stored, even while more comes in.
func TestStopAcknowledgesWhatIsStored(t *testing.T) {
	b := mqtttest.New(t, mqtttest.Options{})
	src := newSource(t, "tcp://"+b.Addr(), nil)
	src.drainFor = time.Minute // the machine may be slow
	r := start(t, src)
	r.st.set(func() { r.st.hold = true })
	b.PublishN("a", 1, 50, 1)
	r.st.await(t, "50 deliveries", func() bool { return r.st.open == 50 })
	r.cancel()
	eventually(t, "the inbox to be closed", func() bool { // a message that comes then is not taken
		b.Publish("a", "late", 1, false)
		r.st.mu.Lock()
		defer r.st.mu.Unlock()
		late := mqtttest.Count(b.Events(), typePublish, true)
		return late > r.st.open+3
	})
	r.st.set(func() { r.st.hold = false })
	<-r.ended
	r.st.mu.Lock()
	stored := len(r.st.records)
	r.st.mu.Unlock()
	b.Await("the end", func(ev []mqtttest.Event) bool { return mqtttest.Count(ev, typeDisconnect, false) == 1 })
	if n := mqtttest.Count(b.Events(), typePuback, false); n != stored {
		t.Errorf("%d messages stored, %d acknowledged: the rest comes twice", stored, n)
	}
}
