package peers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	readyLimit = 90 * time.Second      // from start to the first good answer
	stopLimit  = 60 * time.Second      // from SIGTERM to the end
	pauseLimit = 5 * time.Second       // from SIGSTOP to every thread stopped
	tryEvery   = 50 * time.Millisecond // between two looks at a process
)

// ErrNotRunning is returned for a signal to a peer that has ended.
var ErrNotRunning = errors.New("not running")

// Process is a foreign program that can be stopped, killed, frozen and started
// again on the same folder and the same port. Its methods may be called from
// several goroutines.
type Process struct {
	name    string // for errors
	logPath string // takes stdout and stderr of every run
	command func() *exec.Cmd
	ready   func(context.Context) error // nil once the peer answers its own protocol
	ports   []port                      // stay reserved as long as the Process is in use

	mu  sync.Mutex // guards run
	run *run       // nil before the first start
}

// run is one life of the program.
type run struct {
	process *os.Process
	ended   chan struct{} // closed after exit
	err     error         // result of Wait, to be read after ended is closed
}

// Pid is the process id, 0 when the program is not running.
func (p *Process) Pid() int {
	r, err := p.current()
	if err != nil {
		return 0
	}
	return r.process.Pid
}

// LogPath is the file with the output of all runs.
func (p *Process) LogPath() string { return p.logPath }

// Start starts the program after Stop or Kill, on the same data and port, and
// returns once it answers; at most 90 s.
func (p *Process) Start() error {
	r, err := p.launch()
	if err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	if err := p.awaitReady(r); err != nil {
		return fmt.Errorf("start %s: %w; end of %s:\n%s", p.name, errors.Join(err, r.kill()), p.logPath, logTail(p.logPath))
	}
	return nil
}

// launch begins a new life of the program. The lock is not held while the
// program gets ready, so that it can be killed in that time.
func (p *Process) launch() (*run, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.run != nil && !p.run.over() {
		return nil, fmt.Errorf("it is already running, pid %d", p.run.process.Pid)
	}
	r, err := spawn(p.command(), p.logPath)
	if err != nil {
		return nil, err
	}
	p.run = r
	return r, nil
}

// Stop ends the program in good order with SIGTERM, also when it is paused. It
// returns when the program has ended. A program that has not ended after 60 s
// is killed, which is an error, as it is to stop one that is not running.
func (p *Process) Stop() error {
	r, err := p.current()
	if err != nil {
		return fmt.Errorf("stop %s: %w", p.name, err)
	}
	if err := r.signal(syscall.SIGTERM, syscall.SIGCONT); err != nil {
		return fmt.Errorf("stop %s: %w", p.name, err)
	}
	select {
	case <-r.ended:
		return nil
	case <-time.After(stopLimit):
		return fmt.Errorf("stop %s: still running %s after SIGTERM: %w", p.name, stopLimit, errors.Join(syscall.ETIMEDOUT, r.kill()))
	}
}

// Kill ends the program with SIGKILL, and returns when it has ended.
func (p *Process) Kill() error {
	r, err := p.current()
	if err != nil {
		return fmt.Errorf("kill %s: %w", p.name, err)
	}
	if err := r.kill(); err != nil {
		return fmt.Errorf("kill %s: %w", p.name, err)
	}
	return nil
}

// Pause freezes the program with SIGSTOP: its connections stay open, the kernel
// still accepts new ones, and nothing is answered. It returns when every thread
// has stopped.
func (p *Process) Pause() error {
	r, err := p.current()
	if err != nil {
		return fmt.Errorf("pause %s: %w", p.name, err)
	}
	if err := r.signal(syscall.SIGSTOP); err != nil {
		return fmt.Errorf("pause %s: %w", p.name, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), pauseLimit)
	defer cancel()
	if err := poll(ctx, r.ended, func() error { return allStopped(r.process.Pid) }); err != nil {
		return fmt.Errorf("pause %s: %w", p.name, err)
	}
	return nil
}

// Resume lets a paused program run on, with SIGCONT.
func (p *Process) Resume() error {
	r, err := p.current()
	if err != nil {
		return fmt.Errorf("resume %s: %w", p.name, err)
	}
	if err := r.signal(syscall.SIGCONT); err != nil {
		return fmt.Errorf("resume %s: %w", p.name, err)
	}
	return nil
}

// Restart is Stop and Start.
func (p *Process) Restart() error {
	if err := p.Stop(); err != nil {
		return err
	}
	return p.Start()
}

// current is the running life of the program, or ErrNotRunning.
func (p *Process) current() (*run, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.run == nil || p.run.over() {
		return nil, ErrNotRunning
	}
	return p.run, nil
}

func (p *Process) awaitReady(r *run) error {
	ctx, cancel := context.WithTimeout(context.Background(), readyLimit)
	defer cancel()
	return poll(ctx, r.ended, func() error { return p.ready(ctx) })
}

// spawn starts the command from a thread of its own that lives as long as the
// child: the kernel sends the death signal when the THREAD that made the child
// ends, and only a locked goroutine keeps its thread for sure.
func spawn(cmd *exec.Cmd, logPath string) (*run, error) {
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	defer log.Close() // the child has its own copy
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}

	r := &run{ended: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(r.ended)
		err := cmd.Start()
		r.process = cmd.Process
		started <- err
		if err == nil {
			r.err = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return r, nil
}

func (r *run) over() bool {
	select {
	case <-r.ended:
		return true
	default:
		return false
	}
}

func (r *run) signal(signals ...syscall.Signal) error {
	for _, s := range signals {
		if err := r.process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("send %s to pid %d: %w", s, r.process.Pid, err)
		}
	}
	return nil
}

// kill returns when the program has ended; SIGKILL cannot be refused, so that
// takes as long as the kernel needs to take its memory back.
func (r *run) kill() error {
	if err := r.signal(syscall.SIGKILL); err != nil {
		return err
	}
	select {
	case <-r.ended:
		return nil
	case <-time.After(stopLimit):
		return fmt.Errorf("wait for pid %d: not gone %s after SIGKILL", r.process.Pid, stopLimit)
	}
}

// poll calls try until it returns nil, the program ends, or ctx is done.
func poll(ctx context.Context, ended <-chan struct{}, try func() error) error {
	tick := time.NewTicker(tryEvery)
	defer tick.Stop()
	for { // bounded by ctx, which always has a deadline
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ended:
			return fmt.Errorf("the program ended by itself; last try: %w", err)
		case <-ctx.Done():
			return fmt.Errorf("%w; last try: %w", ctx.Err(), err)
		case <-tick.C:
		}
	}
}

// allStopped is nil when every thread of the process is in state T (proc(5)).
func allStopped(pid int) error {
	stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil || len(stats) == 0 {
		return fmt.Errorf("list threads of pid %d: %w", pid, ErrNotRunning)
	}
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("read thread state: %w", err)
		}
		// "tid (name) T ...": the name may hold brackets and spaces.
		_, rest, _ := strings.Cut(string(text[strings.LastIndexByte(string(text), ')')+1:]), " ")
		if !strings.HasPrefix(rest, "T") {
			return fmt.Errorf("wait for thread to stop: %s", strings.TrimSpace(string(text)))
		}
	}
	return nil
}

// logTail is the last 4 KiB of a log, for error messages.
func logTail(path string) string {
	const keep = 4096
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	if len(text) > keep {
		text = text[len(text)-keep:]
	}
	return string(text)
}
