package main

import (
	"fmt"
	"io"
	"math"
	"strings"
)

// sheet collects figures by design and column over the rounds of a run.
type sheet struct {
	columns []string
	values  map[string]map[string][]float64 // by design and column
	errs    map[string]error                // why a design has no or fewer figures
	order   []string
}

func newSheet(columns ...string) *sheet {
	return &sheet{columns: columns, values: map[string]map[string][]float64{}, errs: map[string]error{}}
}

// row makes a row appear in the table, in the order of the calls.
func (s *sheet) row(name string) {
	if s.values[name] == nil {
		s.values[name] = map[string][]float64{}
		s.order = append(s.order, name)
	}
}

// add notes one figure of one round.
func (s *sheet) add(name, column string, v float64) {
	s.row(name)
	s.values[name][column] = append(s.values[name][column], v)
}

// fail notes why a row lacks figures.
func (s *sheet) fail(name string, err error) {
	s.row(name)
	if s.errs[name] == nil {
		s.errs[name] = err
	}
}

// median returns the median of a column over the rounds.
func (s *sheet) median(name, column string) float64 { return median(s.values[name][column]) }

// ratio fills a column with the median of another over that of a base row.
func (s *sheet) ratio(column, of, base string) {
	for _, name := range s.order {
		if len(s.values[name][of]) > 0 && len(s.values[base][of]) > 0 {
			s.values[name][column] = []float64{s.median(name, of) / s.median(base, of)}
		}
	}
}

// print writes the medians as a Markdown table.
func (s *sheet) print(w io.Writer, title string) {
	fmt.Fprintf(w, "\n%s\n\n| design | %s |\n|---|%s\n", title, strings.Join(s.columns, " | "), strings.Repeat("---|", len(s.columns)))
	for _, name := range s.order {
		fmt.Fprintf(w, "| %s |", name)
		for _, c := range s.columns {
			fmt.Fprintf(w, " %s |", number(s.median(name, c)))
		}
		fmt.Fprintln(w)
	}
	for _, name := range s.order {
		if err := s.errs[name]; err != nil {
			fmt.Fprintf(w, "\n%s: %v\n", name, err)
		}
	}
}

// number writes v with three digits that matter.
func number(v float64) string {
	switch a := math.Abs(v); {
	case math.IsNaN(v):
		return "–"
	case a >= 1e6:
		return fmt.Sprintf("%.2f M", v/1e6)
	case a >= 1e4:
		return fmt.Sprintf("%.0f k", v/1e3)
	case a >= 100 || v == math.Trunc(v):
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}
