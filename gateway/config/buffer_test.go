package config

import (
	"encoding/hex"
	"fmt"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

// buf is a whole file with options of the queue.
func buf(options string) string { return "buffer: {" + options + "}\n" + okAll }

// lanes is a whole file with lanes.
func lanes(list string) string { return buf("lanes: [" + list + "]") }

// testKey is a key of encryption in hexadecimal.
func testKey(n byte) string {
	k := make([]byte, 32)
	for i := range k {
		k[i] = byte(i)*7 + n
	}
	return hex.EncodeToString(k)
}

// many is a list of n lanes.
func many(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "{name: l%d}, ", i)
	}
	return b.String()
}

// bufferRules are the rules of the section buffer.
func bufferRules() []rule {
	return []rule{
		{"policy", buf("policy: thin"), buf("policy: thn"), `w.yaml:1:18: buffer.policy: must be one of lowest-lane, oldest, reject, thin, not the text "thn": did you mean "thin"?`},
		{"high water", buf("high_water: 100"), buf("high_water: 101"), "w.yaml:1:22: buffer.high_water: must be 1 to 100 percent: 80 warns"},
		{"high water low", buf("high_water: 1"), buf("high_water: 0"), "buffer.high_water: must be 1 to 100 percent"},
		{"thin every", buf("policy: thin, thin_every: 2"), buf("policy: thin, thin_every: 1"), "buffer.thin_every: must be at least 2: of every so many records one is kept"},
		{"retain below budget", buf("max_bytes: 2GiB, retain: {for: 24h, bytes: 1GiB}"), buf("max_bytes: 1GiB, retain: {bytes: 1GiB}"),
			"w.yaml:1:43: buffer.retain.bytes: 1GiB is no less than max_bytes (1GiB): there would be no room for new records"},
		{"endurance", buf("flash_endurance: 20TB"), buf("flash_endurance: 20 years"), "buffer.flash_endurance: must be a size such as 64MiB"},
		{"prefill", buf("prefill: false"), buf("prefill: no"), "buffer.prefill: must be true or false"},
		{"key", buf("encryption: {key: env:WS_KEY}"), buf("encryption: {key: env:WS_SHORT}"), "w.yaml:1:28: buffer.encryption.key: read key"},
		{"key there", buf("encryption: {key: env:WS_KEY}"), buf("encryption: {key: file:/no/such.key}"), "buffer.encryption.key: read secret: stat /no/such.key: no such file"},
		{"old keys", buf("encryption: {key: env:WS_KEY, old_keys: [\"env:WS_OLD\"]}"), buf("encryption: {old_keys: [\"env:WS_OLD\"]}"), "buffer.encryption.key: must not be empty when there are old_keys"},
		{"old key form", buf("encryption: {key: env:WS_KEY, old_keys: [\"env:WS_OLD\"]}"), buf("encryption: {key: env:WS_KEY, old_keys: [\"env:WS_OLD\", \"env:WS_SHORT\"]}"), "buffer.encryption.old_keys[1]: read key"},
		{"key in quotes", buf("encryption: {key: env:WS_KEY, old_keys: [\"env:WS_OLD\"]}"), buf("encryption: {key: env:WS_KEY, old_keys: [env:WS_OLD]}"), "the text itself: write it in quotes"},
		{"same key", buf("encryption: {key: env:WS_KEY, old_keys: [\"env:WS_OLD\"]}"), buf("encryption: {key: env:WS_KEY, old_keys: [\"env:WS_KEY\"]}"), "buffer.encryption.old_keys[0]: is the same key as encryption.key"},
		{"lanes needed", lanes("{name: a}"), lanes(""), "buffer.lanes: must not be empty: needs at least one lane"},
		{"lanes at most", buf("max_bytes: 32MiB, lanes: [" + many(16) + "]"), lanes(many(17)), "buffer.lanes: 17 lanes: at most 16"},
		{"room for lanes", buf("max_bytes: 19MiB, lanes: [" + many(16) + "]"), buf("max_bytes: 16MiB, lanes: [" + many(16) + "]"), "buffer.max_bytes: must be at least 18.29MiB for 16 lanes"},
		{"lane name", lanes("{name: a-1_b}"), lanes("{name: Alarm}"), `w.yaml:1:25: buffer.lanes[0].name: "Alarm" is not the name of a lane: 1 to 32 of a-z 0-9 _ -`},
		{"lane name needed", lanes("{name: a}"), lanes("{share: 5}"), `buffer.lanes[0].name: "" is not the name`},
		{"lane name long", lanes("{name: " + strings.Repeat("a", 32) + "}"), lanes("{name: " + strings.Repeat("a", 33) + "}"), "is not the name of a lane"},
		{"lane twice", lanes("{name: a}, {name: b}"), lanes("{name: a}, {name: a}"), `buffer.lanes[1].name: name "a" is taken by lane 1`},
		{"share", lanes("{name: a, share: 45}"), lanes("{name: a, share: 46}"), "buffer.lanes[0].share: must be 0 to 45 percent"},
		{"share sign", lanes("{name: a, share: 0}"), lanes("{name: a, share: -1}"), "buffer.lanes[0].share: must be 0 to 45 percent"},
		{"shares", lanes("{name: a}, {name: b, share: 25}, {name: c, share: 20}"), lanes("{name: a}, {name: b, share: 26}, {name: c, share: 20}"),
			"w.yaml:1:17: buffer.lanes: the shares add up to 46 percent: at most 45"},
		{"max delay", lanes("{name: a, max_delay: 10m}"), lanes("{name: a, max_delay: 11m}"), "buffer.lanes[0].max_delay: 11m0s is out of range"},
		{"lane budget", buf("max_bytes: 64MiB, lanes: [{name: a, max_bytes: 64MiB}]"), buf("max_bytes: 64MiB, lanes: [{name: a, max_bytes: 65MiB}]"),
			"buffer.lanes[0].max_bytes: 65MiB is more than the whole queue may take (64MiB)"},
		{"lane budget low", lanes("{name: a, max_bytes: 1MiB}"), lanes("{name: a, max_bytes: 1MB}"), "buffer.lanes[0].max_bytes: must be at least 1MiB"},
		{"lane policy", lanes("{name: a, max_bytes: 1MiB, policy: reject}"), lanes("{name: a, policy: reject}"), "buffer.lanes[0].policy: has no effect on a lane without max_bytes"},
		{"lane policies", lanes("{name: a, max_bytes: 1MiB, policy: oldest}"), lanes("{name: a, max_bytes: 1MiB, policy: lowest-lane}"), "must be one of oldest, reject, thin"},
		{"one default", lanes("{name: a, default: true}, {name: b}"), lanes("{name: a, default: true}, {name: b, default: true}"), "buffer.lanes[1].default: another lane is the default already"},
		{"lane known", lanes("{name: hot}, {name: cold}") + "x-a: b\n", "buffer: {lanes: [{name: hot}, {name: cold}]}\n" + src("lane: alarm"),
			`w.yaml:4:72: sources[0].lane: must be one of hot, cold, not the text "alarm"`},
		{"lane empty", src("lane: bulk"), src(`lane: ""`), `sources[0].lane: must be one of alarm, telemetry, bulk, not the text ""`},
	}
}

// ruleRules are the rules of rules.
func ruleRules() []rule {
	r := func(list string) string { return src("rules: [" + list + "]") }
	return []rule{
		{"rule lane", r("{lane: bulk}"), r("{lane: blk}"), `sources[0].rules[0].lane: must be one of alarm, telemetry, bulk, not the text "blk": did you mean "bulk"?`},
		{"rule does", r("{match: {device: a}, drop: true}"), r("{match: {device: a}}"), "sources[0].rules[0]: does nothing: needs lane, tags or drop"},
		{"rule key", r("{match: {name: a}, drop: true}"), r("{match: {nam: a}, drop: true}"), `sources[0].rules[0].match: unknown option "nam": did you mean "name"?`},
		{"rule pattern", r("{match: {name: a/#}, drop: true}"), r("{drop: true, match: {name: a/#/b}}"), `w.yaml:3:101: sources[0].rules[0].match.name: "a/#/b" has # before its last level`},
		{"rule quality", r("{match: {quality: bad}, drop: true}"), r("{match: {quality: worse}, drop: true}"), "match.quality: must be one of good, uncertain, bad"},
		{"rule number", r("{match: {value: t, above: 1e3}, drop: true}"), r("{match: {value: t, above: hot}, drop: true}"), "match.above: must be a number"},
		{"rule value", r("{match: {value: t, below: 0}, drop: true}"), r("{match: {below: 0}, drop: true}"), "sources[0].rules[0].match: above, below and equals need value"},
		{"rule reached", r("{match: {device: a}, drop: true}, {lane: bulk}"), r("{lane: bulk}, {match: {device: a}, drop: true}"), "sources[0].rules[1]: is never reached: rule 1 matches every record"},
		{"rule tag", r("{tags: {a: b}}"), r(`{tags: {"": b}}`), "sources[0].rules[0].tags: a tag needs a name"},
	}
}

func TestBufferRules(t *testing.T) {
	t.Setenv("WS_KEY", testKey(0))
	t.Setenv("WS_OLD", testKey(1))
	t.Setenv("WS_SHORT", "0a0b")
	for _, tc := range append(bufferRules(), ruleRules()...) {
		t.Run(tc.name, func(t *testing.T) {
			parse(t, tc.good)
			fs := faults(t, tc.bad)
			if len(fs) != 1 || !strings.Contains(fs.Error(), tc.want) {
				t.Errorf("want one fault with\n%s\ngot %d:\n%v", tc.want, len(fs), fs)
			}
		})
	}
}

// A key never shows, neither when it is wrong nor when its option is misspelt.
func TestKeyIsNotShown(t *testing.T) {
	key := strings.Repeat("5ec4e7", 10)
	for _, options := range []string{"key: " + key, "kee: " + key, "key: env:WS_KEY, old_keys: [" + key + "]"} {
		t.Setenv("WS_KEY", testKey(0))
		if fs := faults(t, "buffer:\n  encryption: {"+options+"}\n"+okAll); strings.Contains(fs.Error(), "5ec4e7") {
			t.Errorf("shown:\n%v", fs)
		}
	}
}

func TestBufferValues(t *testing.T) {
	cfg := parse(t, `
buffer:
  policy: oldest
  high_water: 70
  prefill: false
  retain: {for: 48h, bytes: 100MB}
  flash_endurance: 20TB
  lanes:
    - {name: urgent, max_delay: 10ms}
    - {name: normal, share: 20, max_bytes: 512MiB, policy: thin}
    - {name: rest}
    - {name: camera, share: 0, max_delay: 1m}
`+okAll)
	want := []Lane{{Name: "urgent", MaxDelay: 10 * time.Millisecond}, {Name: "normal", Share: 20, MaxDelay: time.Second, MaxBytes: 512 << 20, Policy: "thin"},
		{Name: "rest", Share: 5, MaxDelay: time.Second}, {Name: "camera", MaxDelay: time.Minute}}
	if !reflect.DeepEqual(cfg.Lanes, want) {
		t.Errorf("got %+v", cfg.Lanes)
	}
	b := &cfg.Buffer
	if b.Policy != "oldest" || b.HighWater != 70 || b.Prefill || b.Retain.For != 48*time.Hour || b.Retain.Bytes != 100e6 || b.FlashEndurance != 20e12 {
		t.Errorf("got %+v", b)
	}
	if !cfg.Thins() || parse(t, okAll).Thins() || !parse(t, buf("policy: thin")).Thins() {
		t.Error("it is not seen who thins")
	}
	if b.DeadLetterBytes() != 64<<20 || b.QueueBytes() != 1<<30-64<<20 {
		t.Errorf("%d for the queue and %d for dead letters", b.QueueBytes(), b.DeadLetterBytes())
	}
}

// Which lane a source gets.
func TestLaneOfSource(t *testing.T) {
	for _, c := range []struct {
		lanes, lane string
		want        gateway.Lane
	}{
		{"{name: alarm}, {name: bulk}, {name: telemetry}", "", 2},
		{"{name: alarm, default: true}, {name: telemetry}", "", 0},
		{"{name: a}, {name: b}, {name: c}", "", 1},
		{"{name: a}", "", 0},
		{"{name: a}, {name: b}, {name: c, default: true}", "", 2},
		{"{name: a}, {name: b}, {name: c}", "lane: c", 2},
		{"{name: a}, {name: telemetry}", "lane: a", 0},
	} {
		cfg := parse(t, "buffer: {lanes: ["+c.lanes+"]}\n"+src(c.lane))
		if got := cfg.Sources[0].Lane; got != c.want {
			t.Errorf("lanes %s, %q: lane %d, want %d", c.lanes, c.lane, got, c.want)
		}
	}
}

// A key is looked up below the directory of the file; rules reach the source.
func TestKeyBesideFile(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "queue.key"), testKey(0)+"\n")
	file := filepath.Join(dir, "w.yaml")
	write(t, file, buf("encryption: {key: file:queue.key}"))
	cfg, err := Load(file, fakes())
	if err != nil || cfg.Sources[0].Rules != nil {
		t.Fatal(err)
	}
	cfg = parse(t, src(`rules: [{match: {device: "a/+", value: t, equals: "true"}, lane: alarm, tags: {z: y}}, {match: {quality: bad}, drop: true}]`))
	var got []gateway.Record
	for _, r := range []gateway.Record{{Device: "a/b", Values: []gateway.Value{gateway.BoolValue("t", true)}}, {Quality: gateway.Bad}, {Device: "c"}} {
		cfg.Sources[0].Rules.Apply(&r, func(r *gateway.Record) { got = append(got, *r) })
	}
	if len(got) != 2 || got[0].Lane != gateway.LaneAlarm.Choice() || got[0].Tags[0] != (gateway.Tag{Key: "z", Value: "y"}) || got[1].Device != "c" || got[1].Lane != 0 {
		t.Errorf("got %+v", got)
	}
}
