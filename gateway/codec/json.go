package codec

import (
	"fmt"
	"strconv"

	"github.com/tidwall/gjson"

	"github.com/waystation-iot/waystation/gateway"
)

const (
	maxValues  = 1000  // values of one record
	maxRecords = 1000  // records of one payload
	maxTotal   = 20000 // values of one payload
)

// JSON takes named values out of JSON payloads. Build one with New.
type JSON struct {
	cfg    JSONConfig
	device *template
	name   *template
	wants  []want // of cfg.Values
	format timeFormat
	names  interned       // composed names of nested values
	seen   map[string]int // index of each name in the record being made
	path   []byte         // name of the leaf being looked at
	total  int            // values made of the payload so far
	last   int            // values of the last record: a guess for the next
}

func newJSON(cfg JSONConfig) (*JSON, error) {
	d := &JSON{cfg: cfg, seen: make(map[string]int)}
	var err error
	if d.device, err = compileTemplate(cfg.Device, true); err != nil {
		return nil, fmt.Errorf("build codec: json.device: %w", err)
	}
	if d.name, err = compileTemplate(cfg.Name, true); err != nil {
		return nil, fmt.Errorf("build codec: json.name: %w", err)
	}
	for _, v := range cfg.Values {
		w, _ := parseWant(v.Type) // checked by Validate
		d.wants = append(d.wants, w)
	}
	d.format, _ = parseTimeFormat(cfg.Time.Format)
	return d, nil
}

// Decode appends one record, or one for each element when the payload is an
// array and each is set. It fails when the payload is empty, is not JSON
// (RFC 8259) in valid UTF-8, is nested deeper than 64, or makes more than
// 1,000 records or 20,000 values; the message names the byte.
func (d *JSON) Decode(dst []gateway.Record, topic string, payload []byte) ([]gateway.Record, error) {
	doc := string(payload) // the values point into this copy
	if len(doc) >= 3 && doc[:3] == "\xef\xbb\xbf" {
		if err := checkJSON(doc[3:]); err != nil {
			return dst, fmt.Errorf("%w (counted after a byte order mark of 3 bytes)", err)
		}
		doc = doc[3:]
	} else if err := checkJSON(doc); err != nil {
		return dst, err
	}
	d.total = 0
	root := gjson.Parse(doc)
	if !d.cfg.Each || !root.IsArray() {
		return append(dst, d.record(topic, root, payload)), nil
	}
	return d.elements(dst, topic, root, payload)
}

// elements makes one record of each element of root.
func (d *JSON) elements(dst []gateway.Record, topic string, root gjson.Result, payload []byte) ([]gateway.Record, error) {
	start := len(dst)
	root.ForEach(func(_, e gjson.Result) bool {
		dst = append(dst, d.record(topic, e, []byte(nil)))
		r := &dst[len(dst)-1]
		if d.cfg.KeepPayload || r.Payload != nil {
			r.Payload, r.ContentType = []byte(e.Raw), "application/json"
		}
		return len(dst)-start <= maxRecords && d.total <= maxTotal
	})
	switch n := len(dst) - start; {
	case n > maxRecords:
		return dst[:start], fmt.Errorf("decode json: array has more than %d elements", maxRecords)
	case d.total > maxTotal:
		return dst[:start], fmt.Errorf("decode json: payload has more than %d values", maxTotal)
	case n == 0: // nothing observed: say so rather than drop the message
		r := d.record(topic, gjson.Result{Type: gjson.JSON, Raw: "[]"}, payload)
		r.Payload, r.ContentType = payload, "application/json"
		uncertain(&r, "array has no elements")
		return append(dst, r), nil
	}
	return dst, nil
}

// record makes one record of one JSON value.
func (d *JSON) record(topic string, root gjson.Result, payload []byte) gateway.Record {
	r := gateway.Record{
		Device: d.device.expand(topic, root.Raw),
		Name:   d.name.expand(topic, root.Raw),
	}
	if d.cfg.KeepPayload {
		r.Payload, r.ContentType = payload, "application/json"
	}
	if len(d.cfg.Values) > 0 {
		r.Values = d.pick(root)
	} else if full := d.flatten(&r, root); full {
		uncertain(&r, fmt.Sprintf("more than %d values, the rest is only in the payload", maxValues))
		r.Payload, r.ContentType = payload, "application/json"
		if payload == nil {
			r.Payload = []byte(root.Raw)
		}
	}
	d.total += len(r.Values)
	if d.cfg.Time.Path != "" {
		t, err := readTime(gjson.Get(root.Raw, d.cfg.Time.Path), d.format)
		if err != nil {
			uncertain(&r, "time "+d.cfg.Time.Path+" "+err.Error())
		}
		r.Time = t
	}
	return r
}

// uncertain lowers the quality of a record and notes why.
func uncertain(r *gateway.Record, why string) {
	if r.Quality < gateway.Uncertain {
		r.Quality = gateway.Uncertain
	}
	if r.Reason != "" {
		why = r.Reason + "; " + why
	}
	r.Reason = why
}

// pick takes the configured values out of root.
func (d *JSON) pick(root gjson.Result) []gateway.Value {
	values := make([]gateway.Value, len(d.cfg.Values))
	for i := range d.cfg.Values {
		c := &d.cfg.Values[i]
		values[i] = d.wants[i].value(or(c.Name, c.Path), gjson.Get(root.Raw, c.Path))
		values[i].Unit = c.Unit
	}
	return values
}

// flatten makes a value of every scalar below root and reports whether there
// were more than maxValues.
func (d *JSON) flatten(r *gateway.Record, root gjson.Result) (full bool) {
	clear(d.seen)
	d.path = d.path[:0]
	if root.Type == gjson.JSON {
		r.Values = make([]gateway.Value, 0, d.last)
	}
	full = !d.walk(r, root)
	d.last = len(r.Values)
	return full
}

// walk adds the scalars below v, whose name is d.path; false when full.
func (d *JSON) walk(r *gateway.Record, v gjson.Result) bool {
	if v.Type != gjson.JSON {
		return d.add(r, v)
	}
	start, index, more, list := len(d.path), 0, true, v.IsArray()
	v.ForEach(func(key, child gjson.Result) bool {
		if start == 0 && !list && child.Type != gjson.JSON {
			more = d.addNamed(r, key.Str, child) // a top-level name needs no copy
			return more
		}
		d.path = d.path[:start]
		if start > 0 {
			d.path = append(d.path, '.')
		}
		if list {
			d.path = strconv.AppendInt(d.path, int64(index), 10)
			index++
		} else {
			d.path = append(d.path, key.Str...)
		}
		more = d.walk(r, child)
		return more
	})
	d.path = d.path[:start]
	return more
}

// add adds a scalar under the name in d.path.
func (d *JSON) add(r *gateway.Record, v gjson.Result) bool {
	if len(d.path) == 0 {
		return d.addNamed(r, "value", v)
	}
	return d.addNamed(r, d.names.bytes(d.path), v)
}

// addNamed adds one value. A name that comes twice keeps the last value, as
// most readers of JSON do (RFC 8259 §4), and says so.
func (d *JSON) addNamed(r *gateway.Record, name string, v gjson.Result) bool {
	val := wantAny.value(name, v)
	if at, dup := d.seen[name]; dup {
		if val.Quality == gateway.Good {
			val.Quality, val.Reason = gateway.Uncertain, "name comes twice in the payload, last one kept"
		}
		r.Values[at] = val
		return true
	}
	if len(r.Values) >= maxValues {
		return false
	}
	d.seen[name] = len(r.Values)
	r.Values = append(r.Values, val)
	return true
}
