package mqtt

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/waystation-iot/waystation/adapters/mqtt/mqtttest"
	"github.com/waystation-iot/waystation/gateway"
)

// checked returns a line for each finding.
func checked(t *testing.T, url string, change func(*Config)) (lines []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	src := newSource(t, url, change)
	src.cfg.Check(ctx, gateway.Env{GatewayID: "gw", Name: "src"}, func(f gateway.Finding) {
		lines = append(lines, string(f.Level)+" "+f.What+": "+f.Detail+" → "+f.Fix)
	})
	return lines
}

// TestCheck leaves the session of a gateway that runs as it is.
func TestCheck(t *testing.T) {
	b := mqtttest.New(t, mqtttest.Options{Refuse: func(filter string) bool { return filter == "secret/#" },
		Auth: func(user, password string) bool { return password != "wrong-word" }})
	r := start(t, newSource(t, "tcp://"+b.Addr(), nil))
	b.Publish("a", "1", 1, true)
	r.st.first(t, 1)
	lines := checked(t, "tcp://"+b.Addr(), func(c *Config) { c.Topics = []string{"#", "secret/#", "$share/g/#"} })
	for _, want := range []string{"ok broker " + b.Addr() + ": connected", "ok topic #: granted at QoS 1", "fail topic secret/#: the broker refuses", "ok topic $share/g/#: not tried"} {
		if !strings.Contains(strings.Join(lines, "\n"), want) {
			t.Errorf("no %q in\n%s", want, strings.Join(lines, "\n"))
		}
	}
	b.Publish("a", "2", 1, false)
	r.st.first(t, 2)
	if n := len(r.errs); n > 0 {
		t.Errorf("the gateway's source was disturbed: %v", <-r.errs)
	}
	lines = checked(t, "tcp://"+b.Addr(), func(c *Config) { c.User, c.Password = "gw", "wrong-word" })
	if len(lines) != 1 || !strings.HasPrefix(lines[0], "fail ") || !strings.Contains(lines[0], "check user and password") || strings.Contains(lines[0], "wrong-word") {
		t.Error(lines)
	}
	lines = nil
	up := sinkDefaults()
	up.URL, up.Topic = "tcp://"+b.Addr(), "up/{name}"
	up.Check(t.Context(), gateway.Env{GatewayID: "gw1", Name: "alarms"}, func(f gateway.Finding) { lines = append(lines, string(f.Level)+" "+f.What+": "+f.Detail) })
	if len(lines) != 1 || !strings.HasPrefix(lines[0], "ok broker "+b.Addr()+": connected") {
		t.Error(lines)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	lines = checked(t, "tcp://"+l.Addr().String(), func(c *Config) { c.Timeout = time.Second })
	if len(lines) != 1 || !strings.HasPrefix(lines[0], "fail ") {
		t.Error(lines)
	}
}

// TestPasswordChanges renews the password while the source runs.
func TestPasswordChanges(t *testing.T) {
	var want atomic.Value
	want.Store("first")
	b := mqtttest.New(t, mqtttest.Options{Auth: func(_, password string) bool { return password == want.Load() }})
	file := filepath.Join(t.TempDir(), "password")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	write("first\n")
	src := newSource(t, "tcp://"+b.Addr(), func(c *Config) { c.User, c.Password = "gw", gateway.Secret("file:"+file) })
	src.lookEvery = 20 * time.Millisecond
	r := start(t, src)
	b.PublishN("a", 1, 100, 1)
	r.st.first(t, 100)
	write("") // to be written in a moment
	eventually(t, "the warning", func() bool { all := src.Facts(); return len(all) == 1 && all[0].Warn })
	want.Store("second")
	write("second\n")
	if err := r.err(); !strings.Contains(err.Error(), "certificates or password have changed") {
		t.Fatal(err)
	}
	b.PublishN("a", 101, 200, 1)
	r.st.first(t, 200)
	if all := src.Facts(); len(all) != 0 {
		t.Error(all)
	}
}
