package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

// explored is an adapter that can be browsed.
func explored(b gateway.Browser) []gateway.Adapter {
	return []gateway.Adapter{{Type: "mute"}, {Type: "talker", Schemes: []string{"talk", "talk+tls"}, Browse: b}}
}

func TestBrowse(t *testing.T) {
	file, late := filepath.Join(t.TempDir(), "found.yaml"), filepath.Join(t.TempDir(), "late.yaml")
	adapters := explored(func(_ context.Context, b *gateway.Browse) error {
		b.Progress(1, 4, "unit 1")
		b.Progress(2, 4, "unit 2") // too soon to be shown
		b.Note("unit %d is there", 1)
		if b.Options["fail"] != "" {
			return errors.New("nobody is there (do this)")
		}
		if b.Options["gone"] != "" { // meanwhile somebody else makes the file
			_ = os.WriteFile(late, nil, 0o600)
		}
		_, err := fmt.Fprintf(b.Out, "# %s %v\n", b.URL, b.Options)
		return err
	})
	for _, tt := range []struct {
		args      []string
		code      int
		out, errs string // in what is printed
	}{
		{[]string{"talk://x"}, exitGood, "# talk://x map[]", "25 % unit 1\nunit 1 is there\n"},
		{[]string{"talk+tls://x", "--set", "a=1", "--set", "b=x=y"}, exitGood, "map[a:1 b:x=y]", ""},
		{[]string{"talk://x", "--out", file}, exitGood, "", "written: " + file + " (look it through, then: waystation check " + file},
		{[]string{"talk://x", "--out", file}, exitFound, "", "is there already"},
		{[]string{"talk://x", "--out", filepath.Join(file, "x")}, exitFound, "", "there is no directory " + file + " (make it first)"},
		{[]string{"talk://x", "--set", "gone=1", "--out", late}, exitFound, "# talk://x", "write what was found: "},
		{[]string{"talk://x", "--set", "fail=1"}, exitFound, "", "waystation browse: nobody is there (do this)\n"},
		{[]string{"walk://x"}, exitUsage, "", "begins with one of talk, talk+tls"},
		{[]string{"x"}, exitUsage, "", "begins with one of talk, talk+tls"},
		{[]string{}, exitUsage, "", "usage: "},
		{[]string{"talk://x", "talk://y"}, exitUsage, "", "usage: "},
		{[]string{"talk://x", "--set", "a"}, exitUsage, "", "NAME=VALUE"},
		{[]string{"talk://x", "--set", "a=1", "--set", "a=2"}, exitUsage, "", "each name once"},
		{[]string{"talk://x", "--timeout", "-1s"}, exitUsage, "", "usage: "},
		{[]string{"--help"}, exitGood, "", "Kinds of addresses: talk, talk+tls"},
	} {
		var out, errs bytes.Buffer
		if code := browse(tt.args, &out, &errs, adapters); code != tt.code || !strings.Contains(out.String(), tt.out) || !strings.Contains(errs.String(), tt.errs) || tt.out == "" && out.Len() > 0 {
			t.Errorf("%q: code %d\n%s\n%s", tt.args, code, out.String(), errs.String())
		}
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "# talk://x map[]\n" {
		t.Error(string(text), err)
	}
}

// TestBrowseEnds: a signal and the end of the time end it with what was found.
func TestBrowseEnds(t *testing.T) {
	adapters := explored(func(ctx context.Context, b *gateway.Browse) error {
		if b.Options["signal"] != "" {
			if err := syscall.Kill(os.Getpid(), syscall.SIGINT); err != nil {
				return err
			}
		}
		<-ctx.Done()
		_, err := fmt.Fprintln(b.Out, "half:", context.Cause(ctx))
		return err
	})
	for args, want := range map[string]string{"--set signal=1": "half: interrupt signal received", "--timeout 10ms": "half: 10ms are over"} {
		var out, errs bytes.Buffer
		if code := browse(append(strings.Fields(args), "talk://x"), &out, &errs, adapters); code != exitGood || !strings.Contains(out.String(), want) {
			t.Errorf("%s: code %d\n%s\n%s", args, code, out.String(), errs.String())
		}
	}
}

// TestProgressBar draws a bar over itself on a terminal, and lines elsewhere.
func TestProgressBar(t *testing.T) {
	var b bytes.Buffer
	now := time.Unix(1000, 0)
	p := &progressBar{w: &b, terminal: true, now: func() time.Time { return now }}
	p.show(1, 4, "one")
	p.show(2, 4, "too soon")
	p.note("found %d", 7)
	p.show(9, 4, strings.Repeat("x", 50))
	now = now.Add(time.Second)
	p.show(3, 0, "who knows")
	p.end()
	p.end()
	want := "\r\x1b[K[######..................]  25 % one\r\x1b[Kfound 7\n" +
		"\r\x1b[K[########################] 100 % " + strings.Repeat("x", 39) + "…\r\x1b[Kwho knows\r\x1b[K"
	if b.String() != want {
		t.Errorf("%q\n%q", b.String(), want)
	}
	b.Reset()
	p = newProgressBar(&b)
	p.now = func() time.Time { return now }
	for i := range 30 {
		p.show(i, 30, "unit")
		now = now.Add(time.Second)
	}
	if b.String() != "0 % unit\n33 % unit\n66 % unit\n" {
		t.Errorf("%q", b.String())
	}
}
