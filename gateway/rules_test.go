package gateway

import (
	"math"
	"slices"
	"strings"
	"testing"
)

func TestPatterns(t *testing.T) {
	for _, c := range []struct {
		pattern string
		yes, no []string
	}{
		{"", []string{"", "a", "a/b"}, nil},
		{"#", []string{"", "a", "a/b", "$SYS/x"}, nil},
		{"a", []string{"a"}, []string{"", "A", "a/", "a/b", "aa"}},
		{"a/#", []string{"a", "a/b", "a/b/c", "a/"}, []string{"ab", "b/a", ""}},
		{"+", []string{"a", ""}, []string{"a/b", "/"}},
		{"a/+/c", []string{"a/b/c", "a//c"}, []string{"a/c", "a/b/b/c", "a/b/c/d", "a/b"}},
		{"+/+/#", []string{"a/b", "a/b/c", "/"}, []string{"a"}},
		{"pump-*", []string{"pump-", "pump-7"}, []string{"pump", "pump-7/x", "a/pump-7"}},
		{"*/temp", []string{"a/temp", "/temp"}, []string{"temp", "a/b/temp"}},
		{"a*b*c", []string{"abc", "aXbYc", "abbc", "abcbc"}, []string{"ab", "acb", "abcd", "ac"}},
		{"a*a", []string{"aa", "aba"}, []string{"a"}},
		{"*", []string{"", "a"}, []string{"a/b"}},
		{"ns=2;s=Chiller.*", []string{"ns=2;s=Chiller.Temp"}, []string{"ns=2;s=Boiler.Temp"}},
		{"tank#3", []string{"tank#3"}, []string{"tank", "tank#"}},
	} {
		p, msg := newPattern(c.pattern)
		if msg != "" {
			t.Errorf("%q: %s", c.pattern, msg)
		}
		for _, s := range c.yes {
			if !p.match(s) {
				t.Errorf("%q does not match %q", c.pattern, s)
			}
		}
		for _, s := range c.no {
			if p.match(s) {
				t.Errorf("%q matches %q", c.pattern, s)
			}
		}
	}
}

// ref returns a pointer to v.
func ref[T any](v T) *T { return &v }

// What each condition matches, and that all must hold.
func TestRuleMatches(t *testing.T) {
	values := func(v ...Value) Record { return Record{Device: "pump/7", Name: "pump/7/state", Values: v} }
	uncertain := IntValue("x", 1)
	uncertain.Quality = Uncertain
	for _, c := range []struct {
		name string
		rule Rule
		rec  Record
		want bool
	}{
		{"all", Rule{}, values(), true},
		{"device", Rule{Device: "pump/+"}, values(), true},
		{"device and name", Rule{Device: "pump/+", Name: "+/+/alarm"}, values(), false},
		{"good", Rule{Quality: ref(Good)}, values(IntValue("x", 1)), true},
		{"good but a value", Rule{Quality: ref(Good)}, values(IntValue("x", 1), uncertain), false},
		{"a value is uncertain", Rule{Quality: ref(Uncertain)}, values(IntValue("x", 1), uncertain), true},
		{"the worst counts", Rule{Quality: ref(Uncertain)}, values(uncertain, BadValue("y", "no answer")), false},
		{"the record is bad", Rule{Quality: ref(Bad)}, Record{Quality: Bad}, true},
		{"value there", Rule{Value: "temp*"}, values(IntValue("a", 1), IntValue("temp1", 1)), true},
		{"value not there", Rule{Value: "temp"}, values(IntValue("a", 1)), false},
		{"no values", Rule{Value: "*"}, Record{Payload: []byte("1")}, false},
		{"above", Rule{Value: "t", Above: ref(90.0)}, values(FloatValue("t", 90.5)), true},
		{"not above", Rule{Value: "t", Above: ref(90.0)}, values(FloatValue("t", 90)), false},
		{"above, another value", Rule{Value: "t", Above: ref(90.0)}, values(FloatValue("u", 99)), false},
		{"below", Rule{Value: "t", Below: ref(0.0)}, values(IntValue("t", -1)), true},
		{"not below", Rule{Value: "t", Below: ref(0.0)}, values(IntValue("t", 0)), false},
		{"unsigned", Rule{Value: "t", Above: ref(0.0)}, values(UintValue("t", math.MaxUint64)), true},
		{"between", Rule{Value: "t", Above: ref(1.0), Below: ref(3.0)}, values(IntValue("t", 2)), true},
		{"not between, one each", Rule{Value: "*", Above: ref(1.0), Below: ref(3.0)}, values(IntValue("t", 0), IntValue("u", 4)), false},
		{"no number", Rule{Value: "t", Above: ref(1.0)}, values(FloatValue("t", math.NaN()), StringValue("t", "9"), BytesValue("t", "9"), BadValue("t", "")), false},
		{"a truth is no number", Rule{Value: "t", Above: ref(0.0)}, values(BoolValue("t", true)), false},
		{"equals text", Rule{Value: "t", Equals: ref("RUN")}, values(StringValue("t", "RUN")), true},
		{"equals other text", Rule{Value: "t", Equals: ref("RUN")}, values(StringValue("t", "run")), false},
		{"equals truth", Rule{Value: "t", Equals: ref("true")}, values(BoolValue("t", true)), true},
		{"equals other truth", Rule{Value: "t", Equals: ref("true")}, values(BoolValue("t", false)), false},
		{"equals number", Rule{Value: "t", Equals: ref("3")}, values(FloatValue("t", 3)), true},
		{"equals no number", Rule{Value: "t", Equals: ref("x")}, values(FloatValue("t", 0)), false},
	} {
		c.rule.Drop = true
		tr, faults := NewRules([]Rule{c.rule})
		if len(faults) > 0 {
			t.Errorf("%s: %v", c.name, faults[0])
			continue
		}
		matched := true
		tr.Apply(&c.rec, func(*Record) { matched = false })
		if matched != c.want {
			t.Errorf("%s: matched %t", c.name, matched)
		}
	}
}

// The first rule that matches decides; its tags replace those of the same key.
func TestFirstRuleDecides(t *testing.T) {
	tr, faults := NewRules([]Rule{
		{Device: "a/#", Lane: LaneAlarm.Choice(), Tags: []Tag{{"class", "urgent"}, {"site", "7"}}},
		{Device: "a/b", Drop: true},
		{Device: "c", Tags: []Tag{{"class", "c"}}},
	})
	if faults != nil {
		t.Fatal(faults)
	}
	for _, c := range []struct {
		device string
		lane   LaneChoice
		tags   []Tag
	}{
		{"a/b", LaneAlarm.Choice(), []Tag{{"class", "urgent"}, {"site", "7"}, {"vessel", "aurora"}}},
		{"c", 0, []Tag{{"class", "c"}, {"vessel", "aurora"}, {"site", "1"}}},
		{"d", 0, []Tag{{"vessel", "aurora"}, {"site", "1"}}},
	} {
		n := 0
		tr.Apply(&Record{Device: c.device, Tags: []Tag{{"vessel", "aurora"}, {"site", "1"}}}, func(r *Record) {
			n++
			if r.Lane != c.lane || !slices.Equal(r.Tags, c.tags) {
				t.Errorf("%s: lane %d, tags %v", c.device, r.Lane, r.Tags)
			}
		})
		if n != 1 {
			t.Errorf("%s: emitted %d times", c.device, n)
		}
	}
}

func TestRuleFaults(t *testing.T) {
	alarm := LaneAlarm.Choice()
	for _, c := range []struct {
		rules     []Rule
		key, says string
	}{
		{[]Rule{{Device: "a/#/b", Lane: alarm}}, "[0].match.device", `"a/#/b" has # before its last level`},
		{[]Rule{{Name: "a", Lane: alarm}, {Name: "#/b", Lane: alarm}}, "[1].match.name", "before its last level"},
		{[]Rule{{Value: "#/b", Lane: alarm}}, "[0].match.value", "before its last level"},
		{[]Rule{{Device: "a"}}, "[0]", "does nothing: needs lane, tags or drop"},
		{[]Rule{{Device: "a", Drop: true, Lane: alarm}}, "[0]", "no effect on records that are dropped"},
		{[]Rule{{Device: "a", Drop: true, Tags: []Tag{{"a", "b"}}}}, "[0]", "no effect on records that are dropped"},
		{[]Rule{{Lane: alarm}, {Name: "a", Lane: alarm}}, "[1]", "is never reached: rule 1 matches every record"},
		{[]Rule{{Device: "#", Name: "#", Lane: alarm}, {Name: "a", Lane: alarm}}, "[1]", "is never reached"},
		{[]Rule{{Above: ref(1.0), Lane: alarm}}, "[0].match", "need value: the name of the signal"},
		{[]Rule{{Value: "t", Above: ref(1.0), Below: ref(1.0), Lane: alarm}}, "[0].match", "no number is above 1 and below 1"},
		{[]Rule{{Value: "t", Above: ref(1.0), Equals: ref("x"), Lane: alarm}}, "[0].match", "equals goes with neither"},
		{make([]Rule, maxRules+1), "", "257 rules: at most 256"},
	} {
		tr, faults := NewRules(c.rules)
		if tr != nil || len(faults) != 1 || faults[0].Key != c.key || !strings.Contains(faults[0].Msg, c.says) {
			t.Errorf("want %s: %s; got %v", c.key, c.says, faults)
		}
	}
	if _, faults := NewRules([]Rule{{Value: "t", Lane: alarm}, {Quality: ref(Bad), Lane: alarm}, {Drop: true}}); faults != nil {
		t.Errorf("good rules have faults: %v", faults)
	}
}
