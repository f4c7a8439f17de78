package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// BenchmarkManyDevices loads a configuration of 1,000 devices that name one file
// of 50 points.
func BenchmarkManyDevices(b *testing.B) {
	dir := b.TempDir()
	var text, units strings.Builder
	text.WriteString("name: m\npoints:\n")
	for i := range 50 {
		fmt.Fprintf(&text, "  - {name: p%d, type: int}\n", i)
	}
	for range 1000 {
		units.WriteString("{map: m.yaml}, ")
	}
	if err := os.WriteFile(filepath.Join(dir, "m.yaml"), []byte(text.String()), 0o600); err != nil {
		b.Fatal(err)
	}
	file := []byte(fileConfig("units: [" + units.String() + "]"))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(filepath.Join(dir, "w.yaml"), file, fakesWithFiles()); err != nil {
			b.Fatal(err)
		}
	}
}
