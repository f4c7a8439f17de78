package modbus

import (
	"bytes"
	"cmp"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/waystation-iot/waystation/gateway"
)

const (
	maxListRows   = 20000
	maxListFaults = 50 // that are told at once
	listGroup     = "data"
)

// DecodeFile reads a profile from a file that is not YAML: a list of registers,
// name.csv. handled is false for any other.
func (p *Profile) DecodeFile(name string, data []byte) (handled bool, err error) {
	if !strings.EqualFold(filepath.Ext(name), ".csv") {
		return false, nil
	}
	list, err := parseCSV(name, data)
	if err != nil {
		return true, err
	}
	*p = *list
	return true, nil
}

// parseCSV reads a list of registers, one point in each row; docs/modbus-profiles.md
// tells its columns. The error holds everything that is wrong with it, each a
// *gateway.FileError; without one the profile is valid.
func parseCSV(name string, data []byte) (*Profile, error) {
	l := &registerList{groups: make(map[string]int)}
	base := path.Base(filepath.ToSlash(name))
	l.profile.Name = strings.TrimSuffix(base, path.Ext(base))
	text, bad := listText(data)
	if bad != nil {
		return nil, bad
	}
	l.read(text)
	if len(l.faults) == 0 {
		l.validate()
	}
	if err := l.err(); err != nil {
		return nil, err
	}
	return &l.profile, nil
}

// listText returns the text of a list: UTF-8, or ISO 8859-1 as spreadsheets
// on some systems write it.
func listText(data []byte) (string, *gateway.FileError) {
	if bytes.HasPrefix(data, []byte("\xFF\xFE")) || bytes.HasPrefix(data, []byte("\xFE\xFF")) {
		return "", &gateway.FileError{Line: 1, Column: 1, Msg: "the file is UTF-16", Hint: "save it as CSV UTF-8"}
	}
	if bytes.HasPrefix(data, []byte("PK\x03\x04")) || bytes.HasPrefix(data, []byte("\xD0\xCF\x11\xE0")) {
		return "", &gateway.FileError{Line: 1, Column: 1, Msg: "the file is a workbook, not CSV", Hint: "save it as CSV UTF-8"}
	}
	data = bytes.TrimPrefix(data, []byte("\uFEFF"))
	if utf8.Valid(data) {
		return string(data), nil
	}
	return latin1(data), nil
}

// registerList is a list on its way to a profile.
type registerList struct {
	profile Profile
	comma   rune
	lines   []string
	columns []string       // option of each column, "" is passed over
	groups  map[string]int // places in the profile
	rows    [][]listRow    // where the points of each group come from
	faults  []*gateway.FileError
}

// listRow is where a point comes from.
type listRow struct {
	line  int
	cells map[string]listCell // by option
}

// listCell is a cell with its place.
type listCell struct {
	text         string
	line, column int
}

func (l *registerList) fault(c listCell, msg, hint string) {
	l.faults = append(l.faults, &gateway.FileError{Line: c.line, Column: max(1, c.column), Msg: msg, Hint: hint})
}

// err joins the faults in the order of the file.
func (l *registerList) err() error {
	slices.SortStableFunc(l.faults, func(a, b *gateway.FileError) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	var errs []error
	for i, f := range l.faults {
		if i == maxListFaults {
			errs = append(errs, &gateway.FileError{Line: f.Line, Column: f.Column,
				Msg: fmt.Sprintf("and %d more from here on", len(l.faults)-i)})
			break
		}
		errs = append(errs, f)
	}
	return errors.Join(errs...)
}

// read takes the rows apart.
func (l *registerList) read(text string) {
	l.lines = strings.Split(text, "\n")
	l.prepare()
	r := csv.NewReader(strings.NewReader(strings.Join(l.lines, "\n")))
	r.Comma, r.FieldsPerRecord, r.TrimLeadingSpace = l.comma, -1, l.comma != '\t'
	for n := 0; ; n++ {
		fields, err := r.Read()
		if err == io.EOF {
			break
		}
		if bad, ok := errors.AsType[*csv.ParseError](err); ok {
			c := listCell{line: bad.Line}
			c.column = l.column(bad.Line, bad.Column)
			l.fault(c, bad.Err.Error(), `a cell with quotes is "like ""this"" one"`)
			return
		}
		if n > maxListRows {
			line, _ := r.FieldPos(0)
			l.fault(listCell{line: line}, fmt.Sprintf("more than %d rows", maxListRows), "")
			return
		}
		cells := make([]listCell, len(fields))
		for i, s := range fields {
			line, column := r.FieldPos(i)
			cells[i] = listCell{strings.TrimSpace(s), line, l.column(line, column)}
		}
		switch {
		case !slices.ContainsFunc(cells, func(c listCell) bool { return c.text != "" }):
		case l.columns == nil:
			if !l.header(cells) {
				return
			}
		default:
			l.row(cells)
		}
	}
	if len(l.rows) == 0 && len(l.faults) == 0 {
		l.fault(listCell{line: 1}, "the list has no rows", "the first row names the columns, such as name, address, type")
	}
}

// column turns a place in bytes into one in characters.
func (l *registerList) column(line, column int) int {
	if line < 1 || line > len(l.lines) {
		return column
	}
	text := l.lines[line-1]
	return utf8.RuneCountInString(text[:min(max(0, column-1), len(text))]) + 1
}

// prepare finds the separator and blanks the comments: lines that begin with #
// and are not the header.
func (l *registerList) prepare() {
	quoted, header := false, false
	for i, line := range l.lines {
		line = strings.TrimSpace(line)
		switch sep := strings.TrimPrefix(strings.ToLower(line), "sep="); {
		case i == 0 && sep != strings.ToLower(line) && utf8.RuneCountInString(sep) <= 1:
			l.lines[i] = "" // for spreadsheets; the header tells it too
			continue
		case strings.HasPrefix(line, "#") && !quoted && (header || !headerLike(line)):
			l.lines[i] = ""
			continue
		case line == "":
			continue
		}
		if !header {
			header = true
			l.comma = separator(line)
		}
		if strings.Count(line, `"`)%2 == 1 {
			quoted = !quoted
		}
	}
	if l.comma == 0 {
		l.comma = ','
	}
}

// separator is the one of comma, semicolon and tab of which the line has most,
// outside of quotes.
func separator(line string) rune {
	counts := make(map[rune]int)
	quoted := false
	for _, r := range line {
		if r == '"' {
			quoted = !quoted
		}
		if !quoted {
			counts[r]++
		}
	}
	best := ','
	for _, r := range ";\t" {
		if counts[r] > counts[best] {
			best = r
		}
	}
	return best
}

// headerLike reports whether a line that begins with # names columns.
func headerLike(line string) bool {
	name, address := false, false
	for _, cell := range strings.Split(line, string(separator(line))) {
		switch columnOf(cell) {
		case "name":
			name = true
		case "address", "address_hex", "modicon":
			address = true
		}
	}
	return name && address
}

// row makes a point of a row.
func (l *registerList) row(cells []listCell) {
	r := listRow{cells[0].line, make(map[string]listCell)}
	for i, c := range cells {
		switch {
		case c.text == "" || c.text == "-":
		case i >= len(l.columns):
			l.fault(c, "the row has more cells than the header", "put a cell that holds the separator in quotes")
			return
		case l.columns[i] != "":
			r.cells[l.columns[i]] = c
		}
	}
	if access, ok := r.cells["access"]; ok && !l.readable(access) {
		return
	}
	b := pointBuilder{list: l, row: &r}
	b.build()
	group := listGroup
	if c, ok := r.cells["group"]; ok {
		group = saneName(c.text)
		if group == "" {
			l.fault(c, fmt.Sprintf("%q is not a name", c.text), nameHint)
			return
		}
	}
	l.add(group, &b, r)
}

// add appends the point to its group.
func (l *registerList) add(group string, b *pointBuilder, r listRow) {
	i, ok := l.groups[group]
	if !ok {
		i = len(l.profile.Groups)
		l.groups[group] = i
		l.profile.Groups = append(l.profile.Groups, Group{Name: group})
		l.rows = append(l.rows, nil)
	}
	g := &l.profile.Groups[i]
	g.Points = append(g.Points, b.point)
	l.rows[i] = append(l.rows[i], r)
	switch every := b.every; {
	case every == 0:
	case g.Every != 0 && g.Every != every:
		l.fault(r.cells["every"], fmt.Sprintf("%s is not what another row of group %s says, %s", every, group, g.Every),
			"a group is polled as a whole: make several groups")
	default:
		g.Every = every
	}
}

// validate checks the profile and shows its faults where the cells are.
func (l *registerList) validate() {
	for _, err := range l.profile.validate("") {
		bad, ok := errors.AsType[*gateway.FieldError](err)
		if !ok {
			continue
		}
		var group, point int
		place, msg := listCell{line: 1}, bad.Key+": "+bad.Msg
		if _, err := fmt.Sscanf(bad.Key, "groups[%d].points[%d]", &group, &point); err == nil {
			r := l.rows[group][point]
			_, key, _ := strings.Cut(bad.Key, "].points")
			_, key, _ = strings.Cut(key, "].")
			option := key[:len(key)-len(strings.TrimLeft(key, "abcdefghijklmnopqrstuvwxyz_"))]
			place, msg = r.place(option), key+": "+bad.Msg
		} else if _, err := fmt.Sscanf(bad.Key, "groups[%d]", &group); err == nil {
			place = l.rows[group][0].place("group")
			msg = fmt.Sprintf("group %s: %s", l.profile.Groups[group].Name, bad.Msg)
		}
		l.fault(place, msg, bad.Hint)
	}
}

// place is where an option of a point stands, or the start of its row.
func (r *listRow) place(option string) listCell {
	names := map[string][]string{"scale": {"scale", "divisor"}, "address": {"address", "address_hex", "modicon"},
		"table": {"table", "function", "modicon"}, "count": {"count", "size"}}[option]
	for _, name := range append(names, option) {
		if c, ok := r.cells[name]; ok {
			return c
		}
	}
	return listCell{line: r.line, column: 1}
}

// period reads the time between two polls of a group.
func (b *pointBuilder) period(c listCell) time.Duration {
	d, err := time.ParseDuration(c.text)
	if err != nil || d <= 0 {
		b.list.fault(c, fmt.Sprintf("every: %q is not a duration", c.text), "write it with its unit: 500ms, 10s, 1m")
		return 0
	}
	return d
}
