package codec

import (
	"math"
	"strconv"
	"strings"

	"github.com/tidwall/gjson"

	"github.com/waystation-iot/waystation/gateway"
)

// want is the type a value must have.
type want uint8

const (
	wantAny want = iota
	wantBool
	wantInt
	wantFloat
	wantString
)

func parseWant(s string) (want, bool) {
	switch s {
	case "":
		return wantAny, true
	case "bool":
		return wantBool, true
	case "int":
		return wantInt, true
	case "float":
		return wantFloat, true
	case "string":
		return wantString, true
	}
	return wantAny, false
}

// value makes a reading of r. What cannot be read becomes a reading of bad
// quality with the reason.
func (w want) value(name string, r gjson.Result) gateway.Value {
	if !r.Exists() {
		return gateway.BadValue(name, "absent from the payload")
	}
	if r.Type == gjson.Null {
		return gateway.BadValue(name, "is null")
	}
	switch w {
	case wantBool:
		return boolValue(name, r)
	case wantInt:
		return intValue(name, r)
	case wantFloat:
		return floatValue(name, r)
	case wantString:
		if r.Type == gjson.String {
			return gateway.StringValue(name, r.Str)
		}
		return gateway.StringValue(name, r.Raw)
	}
	switch r.Type {
	case gjson.True, gjson.False:
		return gateway.BoolValue(name, r.Type == gjson.True)
	case gjson.Number:
		return number(name, r.Raw)
	case gjson.String:
		return gateway.StringValue(name, r.Str)
	}
	return gateway.BadValue(name, "is an "+shape(r)+", not a single value")
}

// shape names the JSON type of r for messages.
func shape(r gjson.Result) string {
	switch {
	case r.IsObject():
		return "object"
	case r.IsArray():
		return "array"
	case r.Type == gjson.String:
		return "text"
	case r.Type == gjson.Number:
		return "number"
	case r.Type == gjson.Null:
		return "null"
	}
	return "boolean"
}

// number makes a reading of a JSON number: int64 or uint64 when it is written
// as a whole number and fits, else float64.
func number(name, raw string) gateway.Value {
	whole := !strings.ContainsAny(raw, ".eE")
	if whole {
		if i, err := strconv.ParseInt(raw, 10, 64); err == nil {
			return gateway.IntValue(name, i)
		}
		if u, err := strconv.ParseUint(raw, 10, 64); err == nil {
			return gateway.UintValue(name, u)
		}
	}
	f, err := strconv.ParseFloat(raw, 64)
	if err != nil {
		return kept(name, raw, "number beyond the range of a double")
	}
	v := gateway.FloatValue(name, f)
	if whole {
		v.Quality, v.Reason = gateway.Uncertain, "whole number beyond 64 bits, rounded"
	}
	return v
}

// kept is a reading of bad quality that keeps what was sent as text.
func kept(name, text, reason string) gateway.Value {
	v := gateway.StringValue(name, text)
	v.Quality, v.Reason = gateway.Bad, reason
	return v
}

// numeral returns the text of r when it may be a number, also in quotes.
func numeral(r gjson.Result) (string, bool) {
	switch r.Type {
	case gjson.Number:
		return r.Raw, true
	case gjson.String:
		s := strings.TrimSpace(r.Str)
		sc := scanner{s: s}
		return s, sc.number() == nil && sc.i == len(s)
	}
	return "", false
}

func text(r gjson.Result) string {
	if r.Type == gjson.String {
		return r.Str
	}
	return r.Raw
}

func intValue(name string, r gjson.Result) gateway.Value {
	s, ok := numeral(r)
	if !ok {
		return kept(name, text(r), "is "+article(shape(r))+", not a whole number")
	}
	v := number(name, s)
	if f := v.Float(); v.Kind() == gateway.KindFloat {
		if f != math.Trunc(f) {
			return kept(name, s, "is not a whole number")
		}
		if f < -1<<63 || f >= 1<<63 {
			return kept(name, s, "whole number beyond 64 bits")
		}
		if math.Abs(f) > 1<<53 {
			return rounded(name, f)
		}
		return gateway.IntValue(name, int64(f))
	}
	return v
}

// rounded is a whole number written with a fraction or an exponent whose last
// digits a double cannot hold.
func rounded(name string, f float64) gateway.Value {
	v := gateway.IntValue(name, int64(f))
	v.Quality, v.Reason = gateway.Uncertain, "rounded to the nearest double"
	return v
}

func floatValue(name string, r gjson.Result) gateway.Value {
	s, ok := numeral(r)
	if !ok {
		return kept(name, text(r), "is "+article(shape(r))+", not a number")
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return kept(name, s, "number beyond the range of a double")
	}
	return gateway.FloatValue(name, f)
}

func boolValue(name string, r gjson.Result) gateway.Value {
	switch strings.ToLower(text(r)) {
	case "true", "1", "on":
		return gateway.BoolValue(name, true)
	case "false", "0", "off":
		return gateway.BoolValue(name, false)
	}
	return kept(name, text(r), "is neither true nor false")
}

// article puts "a" or "an" before a shape; "text" stays as it is.
func article(shape string) string {
	switch shape {
	case "text", "null":
		return shape
	case "object", "array":
		return "an " + shape
	}
	return "a " + shape
}
