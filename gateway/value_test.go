package gateway

import (
	"math"
	"testing"
)

func TestValues(t *testing.T) {
	withUnit := func(v Value, unit string) Value { v.Unit = unit; return v }
	for _, c := range []struct {
		v    Value
		kind Kind
		name string
		text string
	}{
		{BoolValue("v", true), KindBool, "bool", "true"},
		{BoolValue("v", false), KindBool, "bool", "false"},
		{withUnit(IntValue("v", -40), "°C"), KindInt, "int64", "-40 °C"},
		{IntValue("v", math.MinInt64), KindInt, "int64", "-9223372036854775808"},
		{UintValue("v", math.MaxUint64), KindUint, "uint64", "18446744073709551615"},
		{FloatValue("v", 0.1), KindFloat, "float64", "0.1"},
		{FloatValue("v", math.NaN()), KindFloat, "float64", "NaN"},
		{StringValue("v", "on"), KindString, "string", "on"},
		{BytesValue("v", "\x00\xff"), KindBytes, "bytes", "00ff"},
		{BadValue("v", "timeout"), KindNone, "none", "(timeout)"},
	} {
		if c.v.Kind() != c.kind || c.v.Kind().String() != c.name || c.v.String() != c.text || c.v.Name != "v" {
			t.Errorf("%+v: kind %s, text %q; want %s and %q", c.v, c.v.Kind(), c.v.String(), c.name, c.text)
		}
	}
	if v := BadValue("v", "timeout"); v.Quality != Bad || v.Reason != "timeout" {
		t.Errorf("a bad value is %+v", v)
	}
}

// A getter of another kind yields zero, not the bits.
func TestGettersKeepToTheirKind(t *testing.T) {
	for _, v := range []Value{BoolValue("", true), IntValue("", -1), UintValue("", 7), FloatValue("", 1.5), StringValue("", "x"), BytesValue("", "y"), BadValue("", "z")} {
		k := v.Kind()
		if v.Bool() != (k == KindBool) || (v.Int() != 0) != (k == KindInt) || (v.Uint() != 0) != (k == KindUint) ||
			(v.Float() != 0) != (k == KindFloat) || (v.Text() != "") != (k == KindString || k == KindBytes) {
			t.Errorf("%s: bool %t, int %d, uint %d, float %g, text %q", k, v.Bool(), v.Int(), v.Uint(), v.Float(), v.Text())
		}
	}
}

func TestNamesOfNumbers(t *testing.T) {
	for got, want := range map[string]string{
		Kind(77).String(): "kind(77)", Quality(7).String(): "quality(7)", Good.String(): "good", Uncertain.String(): "uncertain", Bad.String(): "bad",
		LaneAlarm.String(): "alarm", LaneTelemetry.String(): "telemetry", LaneBulk.String(): "bulk", Lane(9).String(): "lane(?)",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
