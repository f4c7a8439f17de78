package modbus

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

const (
	mostInFlight = 256                   // records delivered and not yet stored
	lookWait     = 30 * time.Second      // how often certificates in files are looked at
	saveEvery    = 10 * time.Minute      // how often the state of counters is stored
	saveSoon     = 10 * time.Second      // the same when one rolled over
	reopenAfter  = 20 * time.Millisecond // least time between two openings of the line
)

// source is one line and the devices on it. What is learned of them (their
// health, what they refuse, their counters) is kept over reconnects; what
// belongs to one open line is in bus.
type source struct {
	cfg     *Config
	env     gateway.Env
	log     *slog.Logger
	where   string               // the line, for messages
	creds   *gateway.Credentials // nil: the line is not secured
	stream  bool                 // over TCP: a silent line is opened anew
	longest time.Duration        // time-out
	most    int64                // records delivered and not yet stored
	units   []*unit
	open    func(context.Context) (line, error)
	base    time.Time // when it was first run; all times are since then
	count   counts
	flight  atomic.Int64
	current atomic.Pointer[bus]

	urgentSave atomic.Bool // a counter rolled over
	saving     atomic.Bool
	savers     sync.WaitGroup
	saved      time.Duration
	looked     time.Duration
	version    int  // of the credentials of the open line
	unsaved    bool // the state of counters could not be stored

	delivering sync.Mutex // guards the use of the intake by several workers

	mu    sync.Mutex // guards what follows, the health of units and what facts show
	queue schedule
	line  lineHealth
	up    bool // Intake.Up was called in this Run
	load  load
	kept  map[string][]byte // the state of counters, as last stored or read
}

// newSource builds the source. It opens no connection.
func newSource(c *Config, env gateway.Env) (*source, error) {
	u, err := url.Parse(c.URL)
	if err != nil {
		return nil, fmt.Errorf("modbus %s: %w", env.Name, err)
	}
	s := &source{cfg: c, env: env, log: env.Log, where: u.Host, most: mostInFlight, kept: map[string][]byte{}}
	if s.where == "" {
		s.where = u.Path
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.stream = u.Scheme == "tls" || strings.HasSuffix(u.Scheme, "tcp")
	if u.Scheme == "tls" {
		t := c.TLS
		if t == nil {
			t = &gateway.TLS{}
		}
		s.creds = gateway.NewCredentials(env.Dir, t)
	}
	s.open = func(ctx context.Context) (line, error) {
		var tc *tls.Config
		if s.creds != nil {
			tc = s.creds.TLS()
		}
		return open(ctx, s.cfg, tc)
	}
	for _, d := range c.devices(env.Name) {
		if d.Profile == nil {
			return nil, fmt.Errorf("modbus %s: device %s has no profile", s.where, d.Name)
		}
		unit, err := s.newUnit(d)
		if err != nil {
			return nil, fmt.Errorf("modbus %s: %w", s.where, err)
		}
		s.units = append(s.units, unit)
		s.longest = max(s.longest, d.Timeout)
	}
	s.queue.good.byDeadline = true
	spread(env.Name, s.allGroups())
	return s, nil
}

// now is the time since the source was first run.
func (s *source) now() time.Duration { return time.Since(s.base) }

// workers is how many jobs may be done at once.
func (s *source) workers() int {
	if s.cfg.Pipeline > 1 && !strings.Contains(s.cfg.URL, "+") && s.stream {
		return s.cfg.Pipeline
	}
	return 1
}

// Run implements gateway.Source. It opens the line, and once more when a line
// that had answered is lost: devices close connections that are idle, or for
// reasons of their own.
func (s *source) Run(ctx context.Context, in *gateway.Intake) error {
	s.begin()
	defer func() {
		s.savers.Wait()
		s.save()
	}()
	for {
		opened := s.now()
		answered, err := s.try(ctx, in)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, errRenewed):
			s.log.Info("connecting anew: certificates have changed")
		case !answered || !isLost(err):
			err = fmt.Errorf("modbus %s: %w", s.where, err)
			s.end(in, err)
			return err
		}
		s.count.reopens.Add(1)
		if !settled(ctx, opened+reopenAfter-s.now()) {
			return nil
		}
	}
}

// try loads the certificates and runs a session.
func (s *source) try(ctx context.Context, in *gateway.Intake) (answered bool, err error) {
	if s.creds != nil {
		if err := s.creds.Load(); err != nil {
			return false, err
		}
		s.version = s.creds.Version()
	}
	return s.session(ctx, in)
}

// begin prepares for a Run.
func (s *source) begin() {
	s.mu.Lock()
	first := s.base.IsZero()
	if first {
		s.base = time.Now()
	}
	now := s.now()
	s.up = false
	s.flight.Store(0) // what was delivered before is answered: Run is not called sooner
	s.load.begin(now)
	for _, u := range s.units {
		s.askWho(u)
		u.looking = false
		if u.Profile.SunSpec != nil && !u.dead {
			u.lookup.due = now
			s.queue.put(&u.lookup)
		}
	}
	if first {
		for _, g := range s.allGroups() {
			g.begin(now)
		}
	}
	for _, u := range s.units {
		for j := range u.jobs() {
			if j.running = false; j.g != nil && j.heap == nil && !u.dead {
				s.queue.put(j) // after a panic it would be in none
			}
		}
		if u.dead && u.probe.heap == nil {
			s.queue.put(&u.probe)
		}
	}
	s.mu.Unlock()
	if first {
		s.saved, s.looked = now, now
		s.recall()
	}
}

// opened brings the schedule up to date when the line was opened: what was not
// read for more than its period is read now. Where nobody answers any more,
// dead units are asked again as if they had just been lost: it may have been
// the line. s.mu is held.
func (s *source) opened(now time.Duration) {
	s.line.accrued, s.line.opened, s.line.heard = now, now, false
	for _, u := range s.units {
		if u.dead {
			if s.line.well == 0 {
				u.probes = 0
				u.probe.due = now
				s.queue.put(&u.probe)
			}
			continue
		}
		for _, g := range u.groups {
			late := now - g.due
			if late < g.every {
				continue
			}
			s.count.line.Add(int64(late / g.every))
			g.soon(now)
			g.due += time.Duration(min(g.blind, 100)) * time.Millisecond // those that lost the line go last
			s.queue.put(&g.job)
		}
	}
}

// end notes that the line is lost for now.
func (s *source) end(in *gateway.Intake, err error) {
	s.mu.Lock()
	up := s.up
	s.mu.Unlock()
	if up {
		s.mourn(in, err)
	}
}

// look does what is to be done now and then.
func (s *source) look(now time.Duration) error {
	if age := now - s.saved; !s.saving.Load() && (age >= saveEvery || age >= saveSoon && s.urgentSave.Swap(false)) {
		s.saved = now
		s.saving.Store(true)
		s.savers.Go(func() { // the medium may be slow, and the line must not wait
			defer s.saving.Store(false)
			s.save()
		})
	}
	if s.creds == nil || now-s.looked < lookWait {
		return nil
	}
	s.looked = now
	s.creds.LogWarnings(s.log, time.Now())
	if s.creds.Load() == nil && s.creds.Version() != s.version {
		return errRenewed
	}
	return nil
}
