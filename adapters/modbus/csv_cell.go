package modbus

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// pointBuilder makes the point of a row.
type pointBuilder struct {
	list  *registerList
	row   *listRow
	point Point
	every time.Duration
}

// cell returns the cell of an option.
func (b *pointBuilder) cell(option string) (c listCell, ok bool) {
	c, ok = b.row.cells[option]
	return c, ok
}

func (b *pointBuilder) build() {
	q := &b.point
	if c, ok := b.cell("name"); ok {
		q.Name = saneName(c.text)
		if q.Name == "" {
			b.list.fault(c, fmt.Sprintf("name: %q is not a name", c.text), nameHint)
		} else if q.Name != c.text {
			q.Doc = c.text
		}
	}
	if c, ok := b.cell("doc"); ok {
		q.Doc = c.text
	}
	b.place()
	b.kind()
	b.scaling()
	b.meaning()
	if c, ok := b.cell("every"); ok {
		b.every = b.period(c)
	}
}

// place reads where the point is.
func (b *pointBuilder) place() {
	q := &b.point
	set := func(c listCell, table string, ok bool) {
		switch {
		case !ok:
			b.list.fault(c, fmt.Sprintf("%q is not a table", c.text), "coil, discrete, holding, input or fifo; in a column named function 1, 2, 3, 4 or 24")
		case q.Table != "" && q.Table != table:
			b.list.fault(c, fmt.Sprintf("%q is %s, another cell of the row says %s", c.text, table, q.Table), "")
		default:
			q.Table = table
		}
	}
	if c, ok := b.cell("table"); ok {
		table, known := tableWord(c.text)
		set(c, table, known)
	}
	if c, ok := b.cell("function"); ok {
		table, known := functionWord(c.text)
		set(c, table, known)
	}
	address := -1
	put := func(c listCell, n int) {
		if address >= 0 && address != n {
			b.list.fault(c, fmt.Sprintf("%q is address %d, another cell of the row says %d", c.text, n, address), "")
		}
		address = n
	}
	if c, ok := b.cell("modicon"); ok {
		table, n, known := modicon(c.text)
		if !known {
			b.list.fault(c, fmt.Sprintf("%q is not a register number such as 40001 or 400001", c.text), "call the column address when it holds addresses on the line")
			address = 0
		} else {
			set(c, table, true)
			put(c, n)
		}
	}
	if c, ok := b.cell("address"); ok {
		put(c, b.address(c, 10))
	}
	if c, ok := b.cell("address_hex"); ok {
		put(c, b.address(c, 16))
	}
	if address < 0 {
		b.list.fault(listCell{line: b.row.line}, "the row has no address", "begin a line that is not a point with #")
	}
	q.Address = max(0, address)
}

// address reads an address on the line.
func (b *pointBuilder) address(c listCell, base int) int {
	digits, prefixed := strings.CutPrefix(strings.ToLower(c.text), "0x")
	if prefixed {
		base = 16
	}
	n, err := strconv.ParseUint(digits, base, 31)
	if err == nil {
		return int(n)
	}
	hint := "decimal, or hexadecimal like 0x1A; a column named address (hex) holds the latter without 0x"
	if strings.ContainsAny(digits, ".:") {
		hint = "a bit of a register has a column of its own: bit"
	}
	b.list.fault(c, fmt.Sprintf("address: %q is not an address", c.text), hint)
	return 0
}

// kind reads the type.
func (b *pointBuilder) kind() {
	q := &b.point
	if c, ok := b.cell("type"); ok {
		if q.Type, ok = typeWord(c.text); !ok {
			b.list.fault(c, fmt.Sprintf("type: %q is not known", c.text), "one of "+strings.Join(types(), ", "))
		}
	}
	if c, ok := b.cell("order"); ok {
		if q.Order, ok = orderWord(c.text); !ok {
			b.list.fault(c, fmt.Sprintf("order: %q is not known", c.text), "ABCD, CDAB, BADC or DCBA")
		}
	}
	q.Count, _ = b.whole("count")
	if n, ok := b.whole("bit"); ok {
		q.Bit = &n
	}
	q.Width, _ = b.whole("width")
	size, ok := b.whole("size")
	t, known := q.typ()
	switch c, _ := b.cell("size"); {
	case !ok || !known:
	case t.words == 0 && q.Count == 0:
		q.Count = size
	case q.ofBits() && size == 1, t.words == 0 && size == q.Count, size == q.elements()*int(t.words):
	default:
		want := q.elements() * q.length()
		b.list.fault(c, fmt.Sprintf("%s takes %d of the table, not %d", strings.TrimSpace(q.Type+" value"), want, size),
			"the type says how many registers a value takes; column count holds how many values there are in a row")
	}
}

// scaling reads what makes the value of the number.
func (b *pointBuilder) scaling() {
	q := &b.point
	if f := b.number("scale"); f != nil {
		q.Scale = *f
	}
	if f := b.number("divisor"); f != nil {
		switch c, _ := b.cell("divisor"); {
		case *f == 0:
			b.list.fault(c, "divisor: must not be 0", "")
		case q.Scale != 0 && q.Scale != 1 && *f != 1:
			b.list.fault(c, "divisor: the row has a scale already", "")
		case *f != 1:
			q.Scale = 1 / *f
		}
	}
	if f := b.number("offset"); f != nil {
		q.Offset = *f
	}
	if n, ok := b.whole("scale_at"); ok {
		q.ScaleAt = &n
	}
	q.Min, q.Max = b.number("min"), b.number("max")
	if c, ok := b.cell("unit"); ok {
		q.Unit = c.text
	}
}

// meaning reads names, patterns and what is reported.
func (b *pointBuilder) meaning() {
	q := &b.point
	if c, ok := b.cell("invalid"); ok {
		q.Invalid = strings.FieldsFunc(c.text, func(r rune) bool { return r == '|' || r == ';' || r == ' ' || r == '\n' })
		if b.list.comma != ',' && q.Type != "" && strings.HasPrefix(q.Type, "float") {
			for i := range q.Invalid {
				q.Invalid[i] = strings.Replace(q.Invalid[i], ",", ".", 1)
			}
		}
	}
	if c, ok := b.cell("enum"); ok {
		b.enum(c)
	}
	if c, ok := b.cell("counter"); ok {
		if q.Counter, ok = yes(c.text); !ok {
			b.list.fault(c, fmt.Sprintf("counter: %q is neither yes nor no", c.text), "")
		}
	}
	if c, ok := b.cell("deadband"); ok && strings.HasSuffix(c.text, "%") {
		c.text = strings.TrimSpace(strings.TrimSuffix(c.text, "%"))
		if f := b.float("deadband", c); f != nil {
			q.Percent = *f
		}
	} else if f := b.number("deadband"); f != nil {
		q.Deadband = *f
	}
	if f := b.number("deadband_percent"); f != nil {
		q.Percent = *f
	}
}

// enum reads the names of numbers: 0=stopped|1=running.
func (b *pointBuilder) enum(c listCell) {
	b.point.Enum = make(map[string]string)
	for _, pair := range strings.FieldsFunc(c.text, func(r rune) bool { return r == '|' || r == ';' || r == '\n' }) {
		if strings.TrimSpace(pair) == "" {
			continue
		}
		at := strings.IndexAny(pair, "=:")
		if at < 0 {
			b.list.fault(c, fmt.Sprintf("enum: %q is not number=name", strings.TrimSpace(pair)), "for instance 0=stopped|1=running")
			return
		}
		key, name := strings.TrimSpace(pair[:at]), strings.TrimSpace(pair[at+1:])
		if _, twice := b.point.Enum[key]; twice {
			b.list.fault(c, fmt.Sprintf("enum: %s has two names", key), "")
		}
		b.point.Enum[key] = name
	}
}

// number reads a number, nil when there is none.
func (b *pointBuilder) number(option string) *float64 {
	c, ok := b.cell(option)
	if !ok {
		return nil
	}
	return b.float(option, c)
}

// float reads 0.1 or 1/10; where the separator is not a comma, also 0,1.
func (b *pointBuilder) float(option string, c listCell) *float64 {
	above, below, quotient := strings.Cut(c.text, "/")
	f, ok := b.decimal(above)
	if quotient {
		d, fine := b.decimal(below)
		if ok = ok && fine && d != 0; ok {
			f /= d
		}
	}
	if !ok || !finite(f) {
		hint := "write it like 0.1 or 1/10"
		if b.list.comma == ',' && strings.Contains(c.text, ",") {
			hint = "a decimal comma is read only in lists with semicolons or tabs: write a point"
		}
		b.list.fault(c, fmt.Sprintf("%s: %q is not a number", option, c.text), hint)
		return nil
	}
	return &f
}

func (b *pointBuilder) decimal(s string) (f float64, ok bool) {
	s = strings.TrimSpace(s)
	if b.list.comma != ',' && strings.Count(s, ",") == 1 && !strings.Contains(s, ".") {
		s = strings.Replace(s, ",", ".", 1)
	}
	if strings.ContainsAny(s, "_xXpPnN") { // what only programmers write, and NaN and Inf
		return 0, false
	}
	f, err := strconv.ParseFloat(s, 64)
	return f, err == nil
}

// whole reads a whole number that is not negative.
func (b *pointBuilder) whole(option string) (n int, ok bool) {
	c, ok := b.cell(option)
	if !ok {
		return 0, false
	}
	v, err := strconv.ParseUint(c.text, 10, 31)
	if err != nil && strings.HasPrefix(strings.ToLower(c.text), "0x") {
		v, err = strconv.ParseUint(c.text[2:], 16, 31)
	}
	if err != nil {
		b.list.fault(c, fmt.Sprintf("%s: %q is not a whole number", option, c.text), "")
		return 0, false
	}
	return int(v), true
}
