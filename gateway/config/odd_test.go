package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestBadFiles loads every file of configs/bad with adapters that look like
// the real ones: each is refused with the sentence in its first line.
func TestBadFiles(t *testing.T) {
	files, err := filepath.Glob("../../configs/bad/*.yaml")
	if err != nil || len(files) < 10 {
		t.Fatalf("found %d files, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			first, _, _ := strings.Cut(string(text), "\n")
			want, ok := strings.CutPrefix(first, "# expect: ")
			if !ok {
				t.Fatalf("first line is %q", first)
			}
			_, err = Load(file, fakes())
			fs, ok := err.(Faults)
			if !ok || len(fs) != 1 || !strings.Contains(err.Error(), want) {
				t.Errorf("want one fault with\n%s\ngot\n%v", want, err)
			}
		})
	}
}

// TestOddFiles reads what is no configuration: it is refused with a place and
// a sentence, and nothing crashes.
func TestOddFiles(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"empty", "", "w.yaml:1:1: is empty"},
		{"comments", "# a\n# b\n", "is empty"},
		{"blank", " \n\n", "is empty"},
		{"null", "~\n", "must be a mapping with gateway, sources and sinks, not nothing"},
		{"list", "- a\n- b\n", "w.yaml:1:1: must be a mapping with gateway, sources and sinks, not a list"},
		{"text", "hello\n", "must be a mapping"},
		{"tab", "gateway:\n\tid: a\n", "indent with spaces, not tabs"},
		{"binary", "gateway: \x00\x01", "w.yaml:1:10: has the control character U+0000"},
		{"latin1", "gateway: {id: \xe4}", "w.yaml:1:15: is not UTF-8 text"},
		{"utf16", "\xff\xfeg\x00", "w.yaml:1:1: is not UTF-8 text"},
		{"unclosed", "gateway: {id: a\n", "not valid YAML"},
		{"unclosed quote", "gateway: \"a\n", "not valid YAML"},
		{"flow deep", strings.Repeat("[", 1<<17), "nested too deep"},
		{"maps deep", strings.Repeat("{a: ", 1<<15), "nested too deep"},
		{"dashes deep", strings.Repeat("- ", 1<<16), "nested too deep"},
		{"questions deep", strings.Repeat("? ", 1<<16), "nested too deep"},
		{"anchors deep", strings.Repeat("&a ", 1<<16), "nested too deep"},
		{"tags deep", strings.Repeat("!a ", 1<<16), "nested too deep"},
		{"indent deep", deepIndent(400), "nested too deep"},
		{"garbage", strings.Repeat("%@`#&*!|>'\"{}[],?-: ~x\n", 1<<20/24), "w.yaml:"},
		{"tokens", "[" + strings.Repeat("a, ", 110_000), "has more than 200000 keys"},
		{"long line", strings.Repeat("x", 1<<20), "must be a mapping"},
		{"many keys", manyKeys(2_000), "comes twice"},
		{"too large", strings.Repeat("#", maxFileBytes+1), "is larger than 2 MiB"},
		{"self alias", "gateway: &g {id: *g}\n", "alias *g has no anchor"},
		{"laughs", laughs(), "unknown section"},
		{"merge bomb", mergeBomb(2000), "merge keys add more than"},
		{"complex key", "? [a, b]\n: c\n", "not valid YAML"},
		{"directive", "%YAML 1.2\n---\na: b\n", "unknown section"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			if fs := faults(t, tc.text); !strings.Contains(fs.Error(), tc.want) {
				s := fs.Error()
				t.Errorf("want %q, got %s", tc.want, s[:min(len(s), 2000)])
			}
		})
	}
}

func deepIndent(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(strings.Repeat(" ", i) + "a:\n")
	}
	return b.String()
}

func manyKeys(n int) string {
	return strings.Repeat("a", 50) + ": 1\n" + strings.Repeat("b: 2\n", n)
}

// laughs is the "billion laughs" of YAML: ten aliases of ten aliases of ten …
func laughs() string {
	var b strings.Builder
	b.WriteString("a0: &a0 [x]\n")
	for i := range 20 {
		n, p := string(rune('b'+i)), string(rune('a'+i))
		if i == 0 {
			p = "a0"
		}
		b.WriteString(n + ": &" + n + " [" + strings.Repeat("*"+p+", ", 10) + "]\n")
	}
	return b.String()
}

// mergeBomb grows a mapping by merging the one before it.
func mergeBomb(n int) string {
	var b strings.Builder
	b.WriteString("x-0: &m {k: v}\n")
	for i := range n {
		k := strings.Repeat("k", 1+i%30) + string(rune('a'+i%26)) + strings.Repeat("z", i/26%40)
		b.WriteString("x-" + k + ": &m {<<: *m, " + k + ": v}\n")
	}
	return b.String()
}

func TestByteOrderMarkAndLineBreaks(t *testing.T) {
	parse(t, "\ufeff"+strings.ReplaceAll(okAll, "\n", "\r\n"))
	parse(t, strings.ReplaceAll(okAll, "\n", "\r"))
	fs := faults(t, "\ufeff"+strings.ReplaceAll(okGateway+"a: b\n"+okSources+okSinks, "\n", "\r\n"))
	if len(fs) != 1 || fs[0].Line != 2 || fs[0].Column != 1 {
		t.Errorf("got %v", fs)
	}
}

func TestRendering(t *testing.T) {
	got := faults(t, source("topics: []")).Error()
	want := `w.yaml:3:59: sources[0].topics: must not be empty: list at least one topic filter
      3 |   - {name: deck, type: mqtt, url: "tcp://h:1883", topics: []}
        |                                                           ^`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	// Wide characters before the place, and a long line.
	fs := faults(t, "gateway: {id: g, tags: {größe: \"µ°\"}, x: 1}\n"+okSources+okSinks)
	if fs[0].Column != 39 || !strings.Contains(fs[0].Excerpt, strings.Repeat(" ", 38)+"^") {
		t.Errorf("got %d\n%s", fs[0].Column, fs[0].Excerpt)
	}
	fs = faults(t, src(`client_id: "`+strings.Repeat("é", 500)+`", nope: 1`))
	if lines := strings.Split(fs[0].Excerpt, "\n"); len([]rune(lines[0])) > 120 || []rune(lines[0])[len([]rune(lines[1]))-1] != 'n' {
		t.Errorf("got\n%s", fs[0].Excerpt)
	}
}

// TestSecretsAreMasked looks for passwords in everything that is printed.
func TestSecretsAreMasked(t *testing.T) {
	for _, text := range []string{
		src("password: hunter2, nope: 1"),
		okGateway + "sources:\n  - name: a\n    type: mqtt\n    pasword: hun,ter2\n    topics: [a]\n" + okSinks,
		okGateway + "sources:\n  - name: a\n    type: mqtt\n    sasl_token: hun,ter2\n    topics: [a]\n" + okSinks,
		src("password: [hunter2]"),
		src("password: {hunter2: a}"),
		src(`password: "hun\"ter2", nope: 1`),
		src("'password': 'hunter2', nope: 1"),
		src("passwrd: hunter2"),
		src("sasl_token: hunter2"),
		src("nope: 1, url: \"tcp://bob:hunter2@h\""),
		"gateway: {id: a\npassword: hunter2\n",
		"password: hunter2 \"\n",
		okGateway + "sources:\n  - name: a\n    type: mqtt\n    password: |\n      hunter2\n    topics: [a]\n" + okSinks,
		okGateway + "x-p: &p {password: hunter2, nope: 1}\nsources: [{<<: *p, name: a, type: mqtt, url: a, topics: [a]}]\n" + okSinks,
	} {
		if s := faults(t, text).Error(); strings.Contains(s, "hunter2") || strings.Contains(s, "ter2") {
			t.Errorf("secret shown:\n%s", s)
		}
	}
	if s := faults(t, src("password: env:WS_NONE")).Error(); !strings.Contains(s, "password: env:WS_NONE}") {
		t.Errorf("reference hidden:\n%s", s)
	}
}

func TestLoadUnreadable(t *testing.T) {
	for path, want := range map[string]string{
		"no-such.yaml": "no-such.yaml: cannot be read: no such file or directory",
		t.TempDir():    "cannot be read: is a directory",
	} {
		_, err := Load(path, fakes())
		if _, ok := err.(Faults); !ok || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// FuzzParse looks for panics and for faults without a place.
func FuzzParse(f *testing.F) {
	for _, pattern := range []string{"../../configs/*/*.yaml", "../../configs/*.yaml"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(string(text))
		}
	}
	for _, s := range []string{okAll, Example(fakes()), src("<<: {a: b}"), "a: |\n  x\n- b", "&a *a", "!!str", "? a", "{", "a: 'b", "<<: [1", laughs(), "a: >+1\n\n x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		cfg, err := Parse("w.yaml", []byte(text), fakes())
		if err == nil {
			if cfg.Gateway.ID == "" || len(cfg.Sources) == 0 || len(cfg.Sinks) == 0 {
				t.Fatalf("accepted %+v", cfg)
			}
			return
		}
		for _, fault := range err.(Faults) {
			if fault.Line < 1 || fault.Column < 1 || fault.Msg == "" {
				t.Fatalf("fault without a place: %+v", fault)
			}
		}
	})
}

// TestSecretFiles reads secrets only from small regular files.
func TestSecretFiles(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "big"), strings.Repeat("x", 64<<10+1))
	write(t, filepath.Join(dir, "empty"), "\n")
	write(t, filepath.Join(dir, "lines"), "a\n\r\n")
	for name, want := range map[string]string{
		"/dev/zero": "is not a regular file", dir: "is not a regular file", dir + "/big": "is larger than", dir + "/empty": "is empty", dir + "/none": "no such file",
	} {
		if err := faults(t, src("password: file:"+name)).Error(); !strings.Contains(err, want) {
			t.Errorf("%s: got %s", name, err)
		}
	}
	cfg := parse(t, src("password: file:"+dir+"/lines"))
	if got, err := cfg.Sources[0].Config.(*fakeMQTT).Password.Reveal(""); err != nil || got != "a\n" {
		t.Errorf("got %q, %v: one line break is cut off", got, err)
	}
}
