package kafka

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/waystation-iot/waystation/gateway"
)

func directory(path string, change func(*Config)) func(*Config) {
	return func(c *Config) {
		c.Large.Store.Type, c.Large.Store.Path = wordDirectory, path
		if change != nil {
			change(c)
		}
	}
}

// in returns the files below a directory and what they hold.
func in(t *testing.T, root string) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	err := filepath.WalkDir(root, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		out[strings.TrimPrefix(path, root+"/")] = b
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// A directory that is not there yet, goes away and comes back gets every value
// once; it is never made, so that an empty mount point is not filled.
func TestDirectoryThatComesAndGoes(t *testing.T) {
	root := filepath.Join(t.TempDir(), "depot")
	l := newLargeRig(t, nil, directory(root, nil))
	b := l.large(3, 300_000, 1)
	l.put(b)
	warned := func() bool {
		f := l.sink.Facts()
		return len(f) > 0 && f[len(f)-1].Warn && strings.Contains(f[len(f)-1].Value, "plug it in")
	}
	l.until("the trouble is shown", warned)
	if _, err := os.Stat(root); err == nil {
		t.Fatal("the directory was made")
	}
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := l.again(b); err != nil {
		t.Fatal(err)
	}
	away := root + ".away"
	if err := os.Rename(root, away); err != nil {
		t.Fatal(err)
	}
	c := l.large(3, 300_000, 0)
	l.put(c)
	l.until("the trouble is shown", warned)
	if err := os.Rename(away, root); err != nil {
		t.Fatal(err)
	}
	if err := l.again(c); err != nil {
		t.Fatal(err)
	}
	l.exactlyOnce(6, "data")
	files := in(t, root)
	one, two := b.Items[1].Record.Payload, c.Items[0].Record.Payload
	if len(files) != 2 || !bytes.Equal(files["gw1/g1/telemetry/2-"+hexHash(one)[:12]], one) || !bytes.Equal(files["gw1/g1/telemetry/4-"+hexHash(two)[:12]], two) {
		t.Errorf("%d files", len(files))
	}
	for _, rec := range l.read("data") {
		if u := head(rec, "claim"); u != "" && !strings.HasPrefix(u, "file://"+root+"/gw1/") {
			t.Errorf("claim %s", u)
		}
	}
}

// A directory is filled to its budget and no further, and a value that can
// never fit is refused.
func TestDirectoryBudget(t *testing.T) {
	root := t.TempDir()
	l := newLargeRig(t, nil, directory(root, func(c *Config) {
		c.Large.Store.MaxBytes, c.Large.Refused = 500_000, wordDeadLetter
	}))
	if err := l.again(l.large(2, 300_000, 1)); err != nil {
		t.Fatal(err)
	}
	b := l.large(2, 250_000, 0)
	l.put(b)
	l.until("the trouble is shown", func() bool {
		next := *b
		err := l.sink.Send(l.ctx(), &next)
		return err != nil && strings.Contains(err.Error(), "max_bytes")
	})
	for name := range in(t, root) {
		if err := os.Remove(filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.again(b); err != nil {
		t.Fatal(err)
	}
	var refused *gateway.RefusedError
	if err := l.again(l.large(2, 600_000, 1)); !errors.As(err, &refused) || len(refused.Refused) != 1 {
		t.Errorf("a value above the budget: %v", err)
	}
	if n := len(in(t, root)); n != 1 {
		t.Errorf("%d files", n)
	}
}

// With mounted a directory on our own file system is not written to.
func TestDirectoryMustBeMounted(t *testing.T) {
	root := t.TempDir()
	l := newLargeRig(t, nil, directory(root, func(c *Config) { c.Large.Store.Mounted = true }))
	b := l.large(1, 300_000, 0)
	l.put(b)
	l.until("it waits for the mount", func() bool {
		next := *b
		err := l.sink.Send(l.ctx(), &next)
		return err != nil && strings.Contains(err.Error(), "nothing is mounted")
	})
	if n := len(in(t, root)); n != 0 {
		t.Errorf("%d files", n)
	}
}

// What a device sends as its name cannot lead out of the store.
func TestObjectNames(t *testing.T) {
	c := &claim{Record: recordID{Gateway: "ship 7", Generation: "g1", Lane: "bulk", Seq: 12}, SHA256: strings.Repeat("ab", 32)}
	for _, tc := range []struct{ key, device, want string }{
		{defaultKey, "", "ship_7/g1/bulk/12-abababababab"},
		{"a/{device}/{sha256}", "../../etc/passwd", "a/.._.._etc_passwd/" + c.SHA256},
		{"{device}/{device}/{sha256:4}", "..", "_/_/abab"},
		{"x//{device}", "ü\x00?", "x/_/___"},
		{"{device}", strings.Repeat("d", 5000), strings.Repeat("d", 200)},
	} {
		if got, err := expandKey(tc.key, c, &gateway.Record{Device: tc.device}); err != nil || got != tc.want {
			t.Errorf("%s with %.20q: %q, %v, want %q", tc.key, tc.device, got, err, tc.want)
		}
	}
	for key, want := range map[string]string{
		"{sha256}": "", "{generation}/{lane}/{seq}": "", defaultKey: "", "all": "tell records apart", "{lane}/{seq}": "tell records apart", "{sha256:4}": "tell records apart",
		"{sha256:0}{sha256}": "1 to 64", "{sha256:x}": "1 to 64", "{colour}": "not a placeholder", "{sha256": "without", strings.Repeat("abc/", 400) + "{sha256}": "bytes, more than",
	} {
		if err := checkKey(key); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", key, err, want)
		}
	}
}
