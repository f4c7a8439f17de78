//go:build interop

package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/waystation-iot/waystation/cmd/waystation/peers"
	"github.com/waystation-iot/waystation/gateway"
)

// TestMosquittoUpstream forwards to a second mosquitto that is stopped, started
// and held up under load; mosquitto_sub, with a session of its own, sees every
// message, in order, and again only what was on its way.
func TestMosquittoUpstream(t *testing.T) {
	const messages, window, faults = 20_000, 64, 4
	dir := t.TempDir()
	deck, err := peers.StartMosquitto(mkdir(t, dir, "deck"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = deck.Kill() })
	shore, err := peers.StartMosquitto(mkdir(t, dir, "shore"), peers.MosquittoSet("persistence", "true"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = shore.Kill() })
	var got atomic.Int64
	result := subscribeUpstream(t, shore.Addr, &got)
	g := startGateway(t, upstreamConfig(t, dir, deck.Addr, shore.Addr))
	g.await("up", 30*time.Second, func(s *gateway.Status) bool {
		return s.Sources[0].State == gateway.Up && s.Sinks[0].State == gateway.Up
	})
	var lines [][]byte
	for n := range messages {
		lines = append(lines, []byte(strconv.Itoa(n)))
	}
	sentences(t, deck.Addr, lines[:messages/2])
	sent := make(chan bool)
	go func() { defer close(sent); sentences(t, deck.Addr, lines[messages/2:]) }()
	trouble(g, shore, messages, faults)
	<-sent
	s := g.await("all sent", 3*time.Minute, func(s *gateway.Status) bool {
		return s.Sources[0].Queued >= messages && s.Sinks[0].Waiting == 0
	})
	if !s.Books.Balanced || s.Sinks[0].Lost != 0 || s.Sinks[0].DeadLettered != 0 {
		t.Errorf("books: %+v", s.Sinks)
	}
	if code := g.stop(); code != exitGood {
		t.Errorf("exit code %d after SIGTERM\n%s", code, g.output())
	}
	repeats := result(messages)
	log, err := os.ReadFile(filepath.Join(dir, "shore", "mosquitto.log"))
	if err != nil {
		t.Fatal(err)
	}
	// Of each connection that is lost a window was on its way. On a busy machine
	// more are given up than faults were made. mosquitto repeats to mosquitto_sub
	// what it likes.
	losses := strings.Count(string(log), " as waystation-test-gateway-to-shore ") - 1
	t.Logf("%d messages, %d seen again; %d sent again after %d faults and %d lost connections", messages, repeats, again(&s), faults, losses)
	if most := losses * window; losses < faults/2 || again(&s) > most {
		t.Errorf("%d sent again, at most %d were on their way", again(&s), most)
	}
}

// trouble stops and starts the broker and holds it up, in turn, while messages
// are sent.
func trouble(g *proc, shore *peers.Mosquitto, messages, faults int) {
	for i := range faults {
		at := uint64((i + 1) * messages / (faults + 2))
		g.await("more to be sent", time.Minute, func(s *gateway.Status) bool { return s.Sinks[0].Sent >= at })
		down, up := shore.Stop, shore.Start
		if i%2 == 1 {
			down, up = shore.Pause, shore.Resume
		}
		if err := down(); err != nil {
			g.t.Fatal(err)
		}
		g.await("the loss to be seen", time.Minute, func(s *gateway.Status) bool {
			return s.Sinks[0].State == gateway.Down || s.Sinks[0].Waiting == 0
		})
		if err := up(); err != nil {
			g.t.Fatal(err)
		}
	}
}

// again is how many messages the sink says it sent again.
func again(s *gateway.Status) (n int) {
	for _, f := range s.Sinks[0].Facts {
		if f.Name == "sent again" {
			_, _ = fmt.Sscan(f.Value, &n)
		}
	}
	return n
}

// probe retains a message by which a subscriber notices that it is one.
func probe(t *testing.T, host, port string) {
	t.Helper()
	cmd := exec.Command("mosquitto_pub", "-h", host, "-p", port, "-q", "1", "-r", "-t", "shore/probe", "-m", "here")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("mosquitto_pub: %v: %s", err, text)
	}
}

// subscribeUpstream runs mosquitto_sub. The function it returns waits until n
// numbers from 0 on were seen, checks their order and counts the repeats.
func subscribeUpstream(t *testing.T, addr string, got *atomic.Int64) func(n int) (repeats int) {
	t.Helper()
	host, port, _ := net.SplitHostPort(addr)
	probe(t, host, port)
	cmd := exec.Command("mosquitto_sub", "-h", host, "-p", port, "-q", "1", "-c", "-i", "judge", "-t", "shore/#", "-F", "%p")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	seen, last, repeats, disorder := map[int]bool{}, -1, 0, ""
	ended, ready := make(chan bool), make(chan bool, 1)
	go func() {
		defer close(ended)
		for in := bufio.NewScanner(out); in.Scan(); {
			if in.Text() == "here" { // retained: it comes with every subscription
				select {
				case ready <- true:
				default:
				}
				continue
			}
			n, err := strconv.Atoi(in.Text())
			switch {
			case err != nil:
				disorder = "not ours: " + in.Text()
			case seen[n]:
				repeats++
			case n < last:
				disorder = fmt.Sprintf("%d came first after %d", n, last)
			}
			last, seen[n] = max(last, n), true
			got.Store(int64(len(seen)))
		}
	}()
	t.Cleanup(func() { _ = cmd.Process.Kill(); <-ended; _ = cmd.Wait() })
	select {
	case <-ready:
	case <-time.After(20 * time.Second):
		t.Fatal("mosquitto_sub has not subscribed after 20s")
	}
	return func(n int) int { // waits for n of them
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for end := time.Now().Add(time.Minute); got.Load() < int64(n) && time.Now().Before(end); {
			<-tick.C
		}
		_ = cmd.Process.Kill()
		<-ended
		if len(seen) != n || disorder != "" {
			t.Errorf("mosquitto_sub saw %d of %d messages; %s", len(seen), n, disorder)
		}
		return repeats
	}
}

// upstreamConfig writes a configuration that forwards from one broker to another.
func upstreamConfig(t *testing.T, dir, from, to string) string {
	t.Helper()
	path := filepath.Join(dir, "waystation.yaml")
	text := fmt.Sprintf(`gateway: {id: test-gateway}
buffer: {dir: ./queue, max_bytes: 1GiB}
http: {listen: "127.0.0.1:0"}
sources:
  - {name: plant, type: mqtt, url: "tcp://%s", topics: ["#"]}
sinks:
  - {name: shore, type: mqtt, url: "tcp://%s", topic: "shore/{name}", encoding: raw, keep_alive: 2s}
`, from, to)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
