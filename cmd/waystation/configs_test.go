package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/waystation-iot/waystation/adapters"
	"github.com/waystation-iot/waystation/gateway/config"
)

// TestConfigs loads every configuration that is shipped with the real adapters.
func TestConfigs(t *testing.T) {
	var files []string
	for _, pattern := range []string{"../../configs/*.yaml", "../../configs/demo/waystation.yaml", "../../configs/demo/modbus.yaml"} {
		found, err := filepath.Glob(pattern)
		if err != nil || len(found) == 0 {
			t.Fatalf("%s: %v, %v", pattern, found, err)
		}
		files = append(files, found...)
	}
	for _, f := range files {
		if _, err := config.Load(f, adapters.All()); err != nil {
			t.Errorf("%v", err)
		}
	}
	for _, f := range []string{"../../configs/demo/modbus.yaml", "../../configs/plant-modbus.yaml"} { // and that their plans can be kept
		var out, errOut bytes.Buffer
		if code := check([]string{f}, &out, &errOut, adapters.All()); code != exitGood {
			t.Errorf("check %s: %s%s", f, out.String(), errOut.String())
		}
	}
}

// TestShippedProfiles checks every profile that comes along, by itself and as
// a configuration names it.
func TestShippedProfiles(t *testing.T) {
	files, err := filepath.Glob("../../configs/devices/*.yaml")
	if err != nil || len(files) < 6 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, f := range files {
		if kind, err := config.Part(f, adapters.All()); kind != "profile" || err != nil {
			t.Errorf("%s: %q, %v", f, kind, err)
		}
		name := strings.TrimSuffix(filepath.Base(f), ".yaml")
		text := "gateway: {id: g}\nsources: [{name: a, type: modbus, url: \"tcp://h\", profile: \"builtin:" + name +
			"\"}]\nsinks: [{name: s, type: kafka, brokers: [\"b:1\"], topic: t}]\n"
		if _, err := config.Parse("w.yaml", []byte(text), adapters.All()); err != nil {
			t.Errorf("builtin:%s: %v", name, err)
		}
		page, err := os.ReadFile("../../docs/modbus.md")
		if err != nil || !strings.Contains(string(page), "| `"+name+"` |") {
			t.Errorf("docs/modbus.md does not list %s: %v", name, err)
		}
	}
}

// TestBadConfigs holds the sentence that each bad configuration must be
// answered with: its first line says it.
func TestBadConfigs(t *testing.T) {
	files, err := filepath.Glob("../../configs/bad/*.yaml")
	if err != nil || len(files) < 10 {
		t.Fatalf("%v, %v", files, err)
	}
	own, err := filepath.Glob("../../configs/bad/*/*.yaml") // options of one adapter
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range append(files, own...) {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		first, _, _ := strings.Cut(string(text), "\n")
		want, ok := strings.CutPrefix(first, "# expect: ")
		if !ok {
			t.Errorf("%s: the first line must be # expect: SENTENCE", f)
			continue
		}
		if _, err := config.Load(f, adapters.All()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: want %q, got %v", f, want, err)
		}
	}
}

// TestGeneratedPages holds the generated files to the code: `make docs` writes them.
func TestGeneratedPages(t *testing.T) {
	for path, args := range map[string][]string{
		"../../docs/configuration.md":           {"--markdown"},
		"../../configs/waystation.example.yaml": {"--example"},
		"../../configs/waystation.schema.json":  {"--json"},
	} {
		var out, errOut bytes.Buffer
		if code := describe(args, &out, &errOut, adapters.All()); code != exitGood {
			t.Fatalf("describe %v: exit %d: %s", args, code, errOut.String())
		}
		have, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(have, out.Bytes()) {
			t.Errorf("%s is stale: run make docs", path)
		}
	}
	if err := config.CheckDocs(adapters.All()); err != nil {
		t.Error(err)
	}
}

// TestDeliveryPage holds docs/delivery.md to the code: every test it names exists.
func TestDeliveryPage(t *testing.T) {
	page, err := os.ReadFile("../../docs/delivery.md")
	if err != nil {
		t.Fatal(err)
	}
	exists := map[string]bool{}
	for _, f := range house(t) {
		for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllStringSubmatch(f.text, -1) {
			exists[m[1]] = true
		}
	}
	named := regexp.MustCompile("`(Test\\w+)`").FindAllStringSubmatch(string(page), -1)
	if len(named) < 20 {
		t.Fatalf("only %d tests named", len(named))
	}
	for _, m := range named {
		if !exists[m[1]] {
			t.Errorf("docs/delivery.md names %s, which does not exist", m[1])
		}
	}
}
