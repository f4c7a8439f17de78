package peers

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestParseKcat(t *testing.T) {
	out := "0 7 1700000000000 3 6\na\n|x\x00\n\ny|h=1,i=\n" + // key and value with newline and NUL
		"2 0 -1 -1 -1\n\n" + // null key, null value
		"1 5 0 0 0\n\n" // empty key, empty value
	want := []Message{
		{Partition: 0, Offset: 7, Time: 1700000000000, Key: "a\n|", Value: []byte("x\x00\n\ny|"), Headers: map[string]string{"h": "1", "i": ""}},
		{Partition: 2, Offset: 0, Time: -1, Headers: map[string]string{}},
		{Partition: 1, Offset: 5, Value: []byte{}, Headers: map[string]string{}},
	}
	got, err := parseKcat([]byte(out))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %#v\nwant %#v", got, want)
	}
}

func TestParseKcatRefusesBrokenOutput(t *testing.T) {
	for _, out := range []string{
		"\n",
		"0 1 2 3\nabc\n",             // four numbers
		"0 1 2 x 3\nabc\n",           // not a number
		"0 1 2 3 4",                  // no end of line
		"0 1 2 3 4\nabcxyz",          // value cut short
		"0 1 2 3 3\nabcxyz",          // no headers line
		"0 1 2 3 3\nabcxyz\ngarbage", // second record broken
		"0 1 2 9223372036854775807 9223372036854775807\nabc\n",
	} {
		if got, err := parseKcat([]byte(out)); err == nil {
			t.Errorf("parse %q: got %v, want an error", out, got)
		}
	}
}

func TestHeldPortIsLeftToThePeerAlone(t *testing.T) {
	dir := t.TempDir()
	ports, err := holdPorts(dir, 2)
	if err != nil {
		t.Fatal(err)
	}
	if ports[0].number == ports[1].number {
		t.Fatalf("both ports are %d", ports[0].number)
	}
	addr := ports[0].addr()
	if conn, err := net.Dial("tcp", addr); err == nil {
		conn.Close()
		t.Fatalf("dial %s: connected, but nobody listens", addr)
	}
	listener, err := net.Listen("tcp", addr) // as the peer does
	if err != nil {
		t.Fatalf("listen on the held port: %v", err)
	}
	defer listener.Close()
	if _, err := holdPorts(dir, 2); err == nil {
		t.Error("hold the port of a running peer: want an error")
	}
	if _, err := holdPorts(dir, 1); err == nil {
		t.Error("hold one port in the folder of a peer with two: want an error")
	}
	listener.Close()
	again, err := holdPorts(dir, 2)
	if err != nil {
		t.Fatal(err)
	}
	if again[0].number != ports[0].number || again[1].number != ports[1].number {
		t.Errorf("ports of the same folder: got %v, then %v", ports, again)
	}
}

// shell is a Process that runs a shell script and is ready at once.
func shell(t *testing.T, script string) *Process {
	t.Helper()
	p := &Process{
		name:    "shell",
		logPath: filepath.Join(t.TempDir(), "log"),
		command: func() *exec.Cmd { return exec.Command("/bin/sh", "-c", script) },
		ready:   func(context.Context) error { return nil },
	}
	t.Cleanup(func() { _ = p.Kill() }) // most have ended, which is an error
	return p
}

func TestProcessLives(t *testing.T) {
	p := shell(t, "exec sleep 300")
	if err := p.Stop(); !errors.Is(err, ErrNotRunning) {
		t.Errorf("stop before start: %v", err)
	}
	for _, end := range []func() error{p.Stop, p.Kill, func() error { return errors.Join(p.Pause(), p.Stop()) }} {
		if err := p.Start(); err != nil {
			t.Fatal(err)
		}
		pid := p.Pid()
		if err := p.Start(); err == nil || p.Pid() != pid {
			t.Errorf("start twice: error %v, pid %d, then %d", err, pid, p.Pid())
		}
		if err := p.Pause(); err != nil {
			t.Error(err)
		}
		if err := allStopped(pid); err != nil {
			t.Error(err)
		}
		if err := p.Resume(); err != nil {
			t.Error(err)
		}
		if err := end(); err != nil {
			t.Error(err)
		}
		if p.Pid() != 0 {
			t.Errorf("pid %d after the end", p.Pid())
		}
	}
}

func TestStartTellsWhyItFailed(t *testing.T) {
	p := shell(t, "echo no such disk >&2; exit 3")
	p.ready = func(context.Context) error { return errors.New("refused") }
	began := time.Now()
	err := p.Start()
	if err == nil || !strings.Contains(err.Error(), "no such disk") {
		t.Errorf("got %v, want an error with the program's output", err)
	}
	if took := time.Since(began); took > readyLimit/2 {
		t.Errorf("took %s to see that the program ended", took)
	}
}

func TestMissingPeerIsAnErrorWithAHint(t *testing.T) {
	t.Setenv("WAYSTATION_CACHE", t.TempDir())
	t.Setenv("PATH", t.TempDir())
	_, plaka := Plaka()
	_, classpath := kafkaClasspath()
	_, kafka := StartKafka(t.TempDir())
	_, cluster := StartKafkaCluster(t.TempDir(), 3, nil)
	_, kcat := Kcat(t.Context(), "127.0.0.1:1", "t")
	_, console := KafkaConsole(t.Context(), t.TempDir(), "127.0.0.1:1", "t")
	_, kafkajs := KafkaJS(t.Context(), t.TempDir(), "127.0.0.1:1", "t", 1)
	for name, err := range map[string]error{"plaka": plaka, "classpath": classpath, "kafka": kafka, "cluster": cluster,
		"kcat": kcat, "console": console, "kafkajs": kafkajs} {
		if !errors.Is(err, ErrNotInstalled) || !strings.Contains(err.Error(), ".ci/interop-deps") {
			t.Errorf("%s: got %v, want ErrNotInstalled with the hint", name, err)
		}
	}
}

func TestParseConsole(t *testing.T) {
	got, err := parseConsole([]byte("Partition:1\tOffset:7\tseq:3,received:12:30:00\tk\t{\"n\":1}\nPartition:0\tOffset:0\tNO_HEADERS\tnull\tv\n"))
	want := []Message{
		{Partition: 1, Offset: 7, Key: "k", Value: []byte(`{"n":1}`), Headers: map[string]string{"seq": "3", "received": "12:30:00"}},
		{Key: "null", Value: []byte("v"), Headers: map[string]string{"NO_HEADERS": ""}},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %#v, %v\nwant %#v", got, err, want)
	}
	for _, out := range []string{"\n", "Partition:x\tOffset:0\ta\tb\tc\n", "Partition:0\tOffset:\ta\tb\tc\n", "Partition:0\tOffset:0\ta\tb\n"} {
		if got, err := parseConsole([]byte(out)); err == nil {
			t.Errorf("parse %q: got %v, want an error", out, got)
		}
	}
}

// TestVersionsOfTheReaders holds the versions that the script installs.
func TestVersionsOfTheReaders(t *testing.T) {
	script, err := os.ReadFile("../../../.ci/interop-deps")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(script), "kafkajs=kafkajs@"+KafkaJSVersion+"\n") {
		t.Errorf(".ci/interop-deps installs another kafkajs than %s", KafkaJSVersion)
	}
}
