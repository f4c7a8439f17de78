package modbus

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// writer writes lines and remembers the first error.
type writer struct {
	w   io.Writer
	err error
}

// f writes a line, indented by n places.
func (w *writer) f(n int, format string, args ...any) {
	if w.err == nil {
		_, w.err = fmt.Fprintf(w.w, strings.Repeat(" ", n)+format+"\n", args...)
	}
}

// write writes a configuration to start from: whole, so that `waystation check`
// has nothing to say about it.
func (e *explorer) write(all []*found) error {
	w := &writer{w: e.b.Out}
	w.f(0, "# What waystation browse found at %s on %s.", oneLine(e.c.URL), time.Now().UTC().Format("2006-01-02 15:04 MST"))
	w.f(0, "# Types, order of words and names are guesses from the values behind the #: compare them with the")
	w.f(0, "# device's manual, name what you need, and delete the rest. A range that can be read says nothing of its meaning.")
	w.f(0, "")
	w.f(0, "gateway: {id: gateway} # unique in the fleet")
	w.f(0, "buffer: {dir: ./data}")
	w.f(0, "")
	w.f(0, "sources:")
	w.f(2, "- name: modbus")
	w.f(4, "type: modbus")
	w.f(4, "url: %s", quote(e.c.URL))
	e.writeLine(w)
	w.f(4, "every: 1s")
	w.f(4, "devices:")
	for _, f := range all {
		f.write(w)
	}
	w.f(0, "")
	w.f(0, "sinks:")
	w.f(2, `- {name: shore, type: kafka, brokers: ["kafka.example:9092"], topic: "fleet.{source}"} # where records go`)
	if w.err != nil {
		return fmt.Errorf("write what was found: %w", w.err)
	}
	return nil
}

// writeLine writes the options of the line.
func (e *explorer) writeLine(w *writer) {
	if s := e.c.Serial; strings.HasPrefix(e.c.URL, "rtu:") || strings.HasPrefix(e.c.URL, "ascii:") {
		w.f(4, "serial: {baud: %d, data_bits: %d, parity: %s, stop_bits: %d}", s.Baud, s.DataBits, s.Parity, s.stopBits())
	}
	if t := e.c.TLS; t != nil {
		var set []string
		for _, x := range []struct{ key, value string }{{"ca", t.CA}, {"cert", t.Cert}, {"key", t.Key}, {"server_name", t.ServerName}} {
			if x.value != "" {
				set = append(set, x.key+": "+quote(x.value))
			}
		}
		w.f(4, "tls: {%s}", strings.Join(set, ", "))
	}
}

// write writes one device.
func (f *found) write(w *writer) {
	w.f(6, "- name: unit-%d", f.unit)
	w.f(8, "unit: %d", f.unit)
	if len(f.tags) > 0 {
		w.f(8, "identify: true")
	}
	name := ""
	for _, t := range f.tags {
		name = strings.TrimSpace(name + " " + t.Value)
	}
	if len(f.sunspec) > 0 {
		w.f(8, "# It has SunSpec models: %s.", oneLine(strings.Join(f.sunspec, ", ")))
		w.f(8, "# profile: builtin:sunspec reads them with their names and units: take it instead of what follows.")
	}
	points := 0
	for _, t := range f.tables {
		points += len(t.points)
	}
	if points == 0 {
		w.f(8, "# Nothing was found that can be read and is not 0: take the registers from the manual.")
		if name != "" {
			name = "name: " + quote(name) + ", "
		}
		w.f(8, "profile: {%sgroups: [{name: holding, points: [{name: holding_0, address: 0}]}]}", name)
		return
	}
	w.f(8, "profile:")
	if name != "" {
		w.f(10, "name: %s", quote(name))
	}
	var limits []string
	if f.words > 0 {
		limits = append(limits, fmt.Sprintf("words: %d", f.words))
	}
	if f.holes() {
		limits = append(limits, "gap: 0")
	}
	if len(limits) > 0 {
		w.f(10, "limits: {%s}", strings.Join(limits, ", "))
	}
	if f.order != "" {
		w.f(10, "order: %s", f.order)
	}
	w.f(10, "groups:")
	for _, t := range f.tables {
		t.write(w, f.order)
	}
}

// write writes one table as a group.
func (t *foundTable) write(w *writer, order string) {
	const mostRanges = 20
	w.f(12, "# %s: %s can be read.", t.name, rangesText(t.ranges, mostRanges))
	if t.zeros > 0 {
		w.f(12, "# %d of these were 0 and are left out here.", t.zeros)
	}
	if len(t.points) == 0 {
		return
	}
	w.f(12, "- name: %s", t.name)
	w.f(14, "points:")
	for _, p := range t.points {
		w.f(16, "- {%s} # %s", p.yaml(order), oneLine(p.comment))
	}
}

// yaml writes a point without what is the default.
func (p *foundPoint) yaml(order string) string {
	text := "name: " + p.Name
	if p.Table != "holding" {
		text += ", table: " + p.Table
	}
	text += fmt.Sprintf(", address: %d", p.Address)
	if p.Type != "uint16" && p.Type != "bool" {
		text += ", type: " + p.Type
	}
	if p.Count > 0 {
		text += fmt.Sprintf(", count: %d", p.Count)
	}
	if order == "" || p.Type == "string" {
		order = "ABCD"
	}
	if p.Order != "" && p.Order != order {
		text += ", order: " + p.Order
	}
	return text
}

// rangesText lists ranges, at most most.
func rangesText(all []Range, most int) string {
	var parts []string
	for _, r := range all[:min(len(all), most)] {
		if r.From == r.To {
			parts = append(parts, strconv.Itoa(r.From))
		} else {
			parts = append(parts, fmt.Sprintf("%d to %d", r.From, r.To))
		}
	}
	text := strings.Join(parts, ", ")
	if len(all) > most {
		text += fmt.Sprintf(" and %d more ranges", len(all)-most)
	}
	return text
}

// quote makes a YAML string of text.
func quote(text string) string { return strconv.QuoteToASCII(text) }

// oneLine keeps text from leaving a comment.
func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7F || r == 0x85 || r == 0x2028 || r == 0x2029 {
			return ' '
		}
		return r
	}, text)
}
