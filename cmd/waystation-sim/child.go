package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

const (
	killLimit = 10 * time.Second // from SIGKILL to the end of a process
	termLimit = 10 * time.Second // from SIGTERM to the end of a gateway
	pollEvery = 250 * time.Millisecond
	pollLimit = time.Second // of one request for the status
)

// child is the gateway as a process of ours. Its methods are called from one
// goroutine.
type child struct {
	path    string
	config  string
	logPath string // takes what all its lives print
	life    *life  // nil before the first start
}

// life is one run of the program.
type life struct {
	process *os.Process
	ended   chan struct{} // closed when it has ended
	err     error         // why; read after ended
}

// start starts the gateway.
func (c *child) start() error {
	log, err := os.OpenFile(c.logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open log of the gateway: %w", err)
	}
	cmd := exec.Command(c.path, "run", "-c", c.config)
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = log, log, childAttr()
	l := &life{ended: make(chan struct{})}
	started := make(chan error)
	go func() {
		// Pdeathsig fires when the thread that started the child ends: keep it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer log.Close()
		err := cmd.Start()
		started <- err
		if err == nil {
			l.err = cmd.Wait()
			close(l.ended)
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("start gateway %s: %w", c.path, err)
	}
	l.process = cmd.Process
	c.life = l
	return nil
}

// ended is closed when the gateway has ended; nil while there is none.
func (c *child) ended() <-chan struct{} {
	if c.life == nil {
		return nil
	}
	return c.life.ended
}

// kill ends the gateway with SIGKILL, as a power cut would.
func (c *child) kill() error {
	if c.life == nil {
		return nil
	}
	_ = c.life.process.Kill() // it may have ended already, which is as good
	return c.await(killLimit)
}

// stop ends the gateway with SIGTERM, and with SIGKILL when that has no effect.
func (c *child) stop() error {
	if c.life == nil {
		return nil
	}
	_ = c.life.process.Signal(syscall.SIGTERM) // it may have ended already
	l := c.life
	if c.await(termLimit) != nil {
		if err := c.kill(); err != nil {
			return err
		}
		return fmt.Errorf("stop gateway: it had to be killed, no end within %s of SIGTERM", termLimit)
	}
	if l.err != nil {
		return fmt.Errorf("stop gateway: after SIGTERM: %w", l.err)
	}
	return nil
}

func (c *child) await(limit time.Duration) error {
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-c.life.ended:
		c.life = nil
		return nil
	case <-t.C:
		return fmt.Errorf("wait for gateway process %d: no end within %s", c.life.process.Pid, limit)
	}
}

// logTail is the end of what the gateway printed.
func (c *child) logTail() string {
	const most = 4096
	data, err := os.ReadFile(c.logPath)
	if err != nil {
		return err.Error()
	}
	if len(data) > most {
		data = data[len(data)-most:]
		data = data[bytes.IndexByte(data, '\n')+1:]
	}
	return string(data)
}

// poller asks a gateway for its status again and again.
type poller struct {
	url    string
	client *http.Client
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu   sync.Mutex // guards last, n and err
	last gateway.Status
	n    int   // answers so far
	err  error // of the latest try
}

// startPoller polls http://addr/api/v1/status until stop.
func startPoller(addr string) *poller {
	p := &poller{url: "http://" + addr + "/api/v1/status",
		client: &http.Client{Timeout: pollLimit, Transport: &http.Transport{DisableKeepAlives: true}}}
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	p.done.Go(func() {
		tick := time.NewTicker(pollEvery)
		defer tick.Stop()
		for {
			p.poll(ctx)
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	})
	return p
}

func (p *poller) stop() {
	p.cancel()
	p.done.Wait()
}

func (p *poller) poll(ctx context.Context) {
	s, err := p.fetch(ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err = err
	if err == nil {
		p.last = s
		p.n++
	}
}

func (p *poller) fetch(ctx context.Context) (s gateway.Status, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url, nil)
	if err != nil {
		return s, err
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return s, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return s, fmt.Errorf("get %s: %s", p.url, resp.Status)
	}
	err = json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&s)
	return s, err
}

// status returns the latest answer, its number, and the error of the latest
// try.
func (p *poller) status() (s gateway.Status, n int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last, p.n, p.err
}
