//go:build interop

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

// failpointVar tells a binary built with the tag failpoint where to kill itself.
const failpointVar = "WAYSTATION_TEST_FAILPOINT"

// keptGateway is a gateway that is started again whenever its process ends, as
// systemd does.
type keptGateway struct {
	binary, config string
	ended          chan struct{} // closed when it is not started any more
	log            func(format string, args ...any)

	mu        sync.Mutex // guards all below
	now       *proc      // the present life, nil between two
	failpoint string     // of the next life
	armed     string     // failpoint of the present one, "" when we killed it ourselves
	hits      []string   // failpoints that lives ended at
	pause     time.Duration
	lives     int
	stopping  bool
	wake      chan struct{}
	tail      string // log of the lives before
}

// keepGateway starts a gateway and keeps it running until stop.
func keepGateway(t testing.TB, binary, config string, log func(string, ...any)) *keptGateway {
	k := &keptGateway{binary: binary, config: config, log: log, ended: make(chan struct{}), wake: make(chan struct{}, 1)}
	go k.keep(t)
	t.Cleanup(func() { k.stop() })
	return k
}

// keep runs life after life. Lives are bounded, as a gateway that cannot even
// start would go on for ever.
func (k *keptGateway) keep(t testing.TB) {
	defer close(k.ended)
	for range 500 {
		p, ended, err := k.launch(t)
		if err != nil {
			k.log("gateway does not start: %v", err)
			return
		}
		if p == nil {
			return
		}
		<-ended
		_ = p.cmd.Wait()
		k.mu.Lock()
		pause, stopping := k.pause, k.stopping
		armed := k.armed
		if k.now, k.pause = nil, 0; armed != "" && !stopping {
			k.hits = append(k.hits, armed)
		}
		k.tail = last(k.tail+p.output(), 20_000)
		k.mu.Unlock()
		if stopping {
			return
		}
		k.log("gateway ended: %s %s", p.cmd.ProcessState, armed)
		select {
		case <-time.After(pause):
		case <-k.wake:
		}
	}
}

// launch begins a life; ended is closed after it.
func (k *keptGateway) launch(t testing.TB) (p *proc, ended <-chan struct{}, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.stopping {
		return nil, nil, nil
	}
	p = &proc{t: t, config: k.config, cmd: exec.Command(k.binary, "run", "-c", k.config)}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p.cmd.Env = append(os.Environ(), failpointVar+"="+k.failpoint)
	if k.failpoint == "" {
		p.cmd.Env = os.Environ()
	}
	errOut, err := p.cmd.StderrPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, nil, err
	}
	if k.lives++; k.failpoint != "" {
		k.log("gateway started, to be killed at %s", k.failpoint)
	} else {
		k.log("gateway started")
	}
	k.armed, k.failpoint = k.failpoint, ""
	k.now = p
	url, over := make(chan string, 1), make(chan struct{})
	go p.collect(errOut, url)
	go func() {
		defer close(over)
		for u := range url { // closed when the process has ended
			k.mu.Lock()
			p.url = u
			k.mu.Unlock()
		}
	}()
	return p, over, nil
}

// kill ends the present life with SIGKILL; the next begins after pause and runs
// into the failpoint, if one is named.
func (k *keptGateway) kill(pause time.Duration, failpoint string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.pause, k.failpoint, k.armed = pause, failpoint, ""
	if k.now != nil {
		_ = k.now.cmd.Process.Kill()
	}
}

// rest has the next life begin so long after the present one ends by itself.
func (k *keptGateway) rest(pause time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.pause = pause
}

// calm lets it live from now on.
func (k *keptGateway) calm() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.failpoint = ""
}

// stop ends it in order, or by force after 20 s. The lock is not held meanwhile.
func (k *keptGateway) stop() {
	k.mu.Lock()
	k.stopping = true
	if k.now != nil {
		_ = k.now.cmd.Process.Signal(syscall.SIGTERM)
	}
	k.mu.Unlock()
	select {
	case k.wake <- struct{}{}:
	default:
	}
	select {
	case <-k.ended:
		return
	case <-time.After(20 * time.Second):
	}
	k.mu.Lock()
	if k.now != nil {
		_ = k.now.cmd.Process.Kill()
	}
	k.mu.Unlock()
	<-k.ended
}

// status asks the present life.
func (k *keptGateway) status() (s gateway.Status, ok bool) {
	k.mu.Lock()
	var url string
	if k.now != nil {
		url = k.now.url
	}
	k.mu.Unlock()
	if url == "" {
		return s, false
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return s, (&client{base: url}).get(ctx, "/api/v1/status", &s) == nil
}

// await polls the status until good holds.
func (k *keptGateway) await(limit time.Duration, good func(*gateway.Status) bool) (gateway.Status, error) {
	var s gateway.Status
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(limit); time.Now().Before(end); <-tick.C {
		var ok bool
		if s, ok = k.status(); ok && good(&s) {
			return s, nil
		}
	}
	return s, fmt.Errorf("not within %s", limit)
}

// output is the end of the log of all lives.
func (k *keptGateway) output() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	text := k.tail
	if k.now != nil {
		text += k.now.output()
	}
	return last(text, 20_000)
}

func last(text string, n int) string { return text[max(0, len(text)-n):] }

// share is what publishEach publishes: so many messages of each of chaosDevices,
// numbered from first.
type share struct {
	name        string // begins the topics
	first, each int
}

// publishEach publishes a few messages at a time, so that they make several
// batches.
func publishEach(t testing.TB, mqtt string, s share) {
	t.Helper()
	p, err := newPublisher(mqtt, fmt.Sprintf("load-%s-%d", s.name, s.first), 200)
	if err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for n := s.first; n < s.first+s.each; n++ {
		<-tick.C
		for d := range chaosDevices {
			key := chaosKey(s.name, d)
			if err := p.publish(key, fmt.Appendf(nil, `{"device":"%s","n":%d,"state":"running"}`, key, n)); err != nil {
				t.Fatal(err)
			}
		}
		if err := p.out.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.finish(); err != nil {
		t.Fatal(err)
	}
}
