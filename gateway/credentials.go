package gateway

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// lookEvery is how long files are believed not to have changed.
const lookEvery = 30 * time.Second

// NamedSecret is a secret with the option it stands in, for messages.
type NamedSecret struct {
	Option string
	Secret Secret
}

// Credentials are the certificates and secrets of a connection. Connections
// live for weeks, certificates and passwords are renewed meanwhile: Look reads
// the files again when they have changed. Files that cannot be used (a key that
// does not belong to the certificate because the other file is still to come,
// an empty password) leave what was read before in force, with a warning, until
// they are right. Its methods may be called from several goroutines.
type Credentials struct {
	dir     string
	tls     *TLS // nil = not encrypted
	secrets []NamedSecret

	mu      sync.Mutex // guards what follows
	looked  time.Time
	stamps  []stamp
	version int // of what is in force; 0 = nothing was read yet
	inForce material
	fault   error       // why the newest files are not in force
	server  certificate // of the far side, the first of its chain to end
	told    time.Time   // when a warning was logged last
}

// material is what the files hold.
type material struct {
	config *tls.Config
	plain  []string // the secrets
	own    certificate
	ca     certificate
	open   error // the private key may be read by others
}

// certificate is what is to be known of one.
type certificate struct {
	where string // "file …" or "of …"
	ends  time.Time
}

// stamp tells whether a file is the same as before.
type stamp struct {
	mod   time.Time
	size  int64
	inode uint64
}

// NewCredentials names files and secrets and reads nothing yet. t is nil when
// the connection is not encrypted; relative files are looked up below dir.
func NewCredentials(dir string, t *TLS, secrets ...NamedSecret) *Credentials {
	return &Credentials{dir: dir, tls: t, secrets: secrets}
}

// Load reads what has changed, and returns an error when there is nothing that
// could be used: neither the files now, nor what they held before.
func (c *Credentials) Load() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.look(time.Now())
	if c.version == 0 {
		return c.fault
	}
	return nil
}

// Look reads files that have changed, but looks at most every 30 s, and returns
// the version of what is in force: another number means that a connection made
// with the one before should be made anew.
func (c *Credentials) Look(now time.Time) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if since := now.Sub(c.looked); since < 0 || since >= lookEvery {
		c.look(now)
	}
	return c.version
}

// Version is that of what is in force.
func (c *Credentials) Version() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.version
}

// look reads the files if they are not those in force. mu is held.
func (c *Credentials) look(now time.Time) {
	c.looked = now
	stamps := c.stampFiles() // before they are read: a change in between is seen next time
	if c.version > 0 && c.fault == nil && slices.Equal(stamps, c.stamps) {
		return
	}
	m, err := c.read()
	if err != nil {
		c.fault = err
		return
	}
	c.fault = nil
	if c.version > 0 && slices.Equal(stamps, c.stamps) {
		return // what was wrong is again as it was
	}
	c.inForce, c.stamps, c.server = m, stamps, certificate{}
	c.version++
}

// files are those that hold something of ours.
func (c *Credentials) files() (all []string) {
	if c.tls != nil {
		for _, f := range []string{c.tls.CA, c.tls.Cert, c.tls.Key} {
			if f != "" {
				all = append(all, InDir(c.dir, f))
			}
		}
	}
	for _, s := range c.secrets {
		if f, err := s.Secret.file(c.dir); err == nil && f != "" {
			all = append(all, f)
		}
	}
	return all
}

func (c *Credentials) stampFiles() []stamp {
	var all []stamp
	for _, f := range c.files() {
		info, err := os.Stat(f)
		if err != nil {
			all = append(all, stamp{size: -1})
			continue
		}
		all = append(all, stamp{info.ModTime(), info.Size(), inode(info)})
	}
	return all
}

// read reads everything anew.
func (c *Credentials) read() (m material, err error) {
	for _, s := range c.secrets {
		text, err := s.Secret.Reveal(c.dir)
		if err == nil && text == "" {
			err = errors.New("it is empty")
		}
		if err != nil {
			return m, fmt.Errorf("read %s: %w", s.Option, err)
		}
		m.plain = append(m.plain, text)
	}
	if c.tls == nil {
		return m, nil
	}
	if m.config, err = c.tls.Config(c.dir); err != nil {
		return m, err
	}
	if c.tls.CA != "" {
		m.ca = lastToEnd(InDir(c.dir, c.tls.CA))
	}
	if c.tls.Cert != "" {
		m.own = certificate{"file " + c.tls.Cert, m.config.Certificates[0].Leaf.NotAfter}
		m.open = private(InDir(c.dir, c.tls.Key))
	}
	return m, nil
}

// lastToEnd returns the certificate of a file that is valid longest: beside the
// authority that signs today a file may hold the one before it.
func lastToEnd(path string) (last certificate) {
	text, err := os.ReadFile(path)
	if err != nil {
		return last
	}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if x, err := x509.ParseCertificate(block.Bytes); err == nil && x.NotAfter.After(last.ends) {
			last = certificate{"file " + path, x.NotAfter}
		}
	}
	return last
}

// TLS returns the configuration of a connection, nil when it is not encrypted.
// Load must have returned nil before.
func (c *Credentials) TLS() *tls.Config {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.inForce.config == nil {
		return nil
	}
	conf := c.inForce.config.Clone()
	conf.VerifyConnection = func(state tls.ConnectionState) error {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.server = firstToEnd(state)
		return nil
	}
	return conf
}

// firstToEnd returns the certificate that ends first in the best chain from the
// server to an authority that we trust.
func firstToEnd(state tls.ConnectionState) (best certificate) {
	for _, chain := range state.VerifiedChains {
		var first certificate
		for i, x := range chain {
			server := state.ServerName // none for an IP address
			if server == "" {
				server = chain[0].Subject.CommonName
			}
			if i == 0 || x.NotAfter.Before(first.ends) {
				first = certificate{"of the server " + server, x.NotAfter}
				if i > 0 {
					first.where = "of the authority " + x.Subject.CommonName + " of the server " + server
				}
			}
		}
		if first.ends.After(best.ends) {
			best = first
		}
	}
	return best
}

// Secret returns the i-th secret as it is in force.
func (c *Credentials) Secret(i int) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if i >= len(c.inForce.plain) {
		return ""
	}
	return c.inForce.plain[i]
}

// Facts tells when certificates end and what is wrong with the files.
func (c *Credentials) Facts(now time.Time) (all []Fact) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fault != nil && c.version > 0 {
		all = append(all, Fact{Name: "new credentials", Warn: true,
			Value: fmt.Sprintf("cannot be used, those from before stay in force: %v", c.fault)})
	}
	for _, x := range []struct {
		name, remedy string
		certificate
	}{
		{"certificate", "put a new certificate and key in their place, they are taken up without a restart", c.inForce.own},
		{"authority", "add the new authority to the file, it is taken up without a restart", c.inForce.ca},
		{"server certificate", "renew it on the server", c.server},
	} {
		if f, ok := x.fact(now, x.remedy); ok {
			f.Name = x.name
			all = append(all, f)
		}
	}
	if c.inForce.open != nil {
		all = append(all, Fact{Name: "private key", Value: c.inForce.open.Error(), Warn: true})
	}
	return all
}

// Hint says what a person must do about an error of the connection, as TLSHint
// does; it knows besides when our own certificate has ended.
func (c *Credentials) Hint(err error, now time.Time) string {
	hint := TLSHint(err, now)
	c.mu.Lock()
	defer c.mu.Unlock()
	own := c.inForce.own
	if hint == "" || own.ends.IsZero() || now.Before(own.ends) || !strings.Contains(err.Error(), "remote error: tls: ") {
		return hint
	}
	return fmt.Sprintf("our certificate, %s, ended on %s: put a new certificate and key in their place, they are taken up without a restart",
		own.where, own.ends.UTC().Format(time.DateOnly))
}

// warnAhead is how long before its end a certificate is warned about.
const warnAhead = 30 * 24 * time.Hour

// fact says when the certificate ends.
func (x certificate) fact(now time.Time, remedy string) (Fact, bool) {
	if x.ends.IsZero() {
		return Fact{}, false
	}
	left, date, where := x.ends.Sub(now), x.ends.UTC().Format(time.DateOnly), x.where
	f := Fact{Warn: left < warnAhead, Ends: x.ends.Unix()}
	switch {
	case now.Unix() < oldestBelievable:
		f.Warn = false // the clock is wrong, and that is said elsewhere
		f.Value = fmt.Sprintf("ends on %s, %s", date, where)
	case left < 0:
		f.Value = fmt.Sprintf("ended %s ago (%s), %s: %s", days(-left), date, where, remedy)
	case f.Warn:
		f.Value = fmt.Sprintf("ends in %s (%s), %s: %s", days(left), date, where, remedy)
	default:
		f.Value = fmt.Sprintf("ends in %s (%s), %s", days(left), date, where)
	}
	return f, true
}

// days writes a time in days, or in hours when it is less than two days.
func days(d time.Duration) string {
	if d < 48*time.Hour {
		return fmt.Sprintf("%d hours", int(d.Hours()))
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}

// LogWarnings logs the facts that need a person, at most once a day.
func (c *Credentials) LogWarnings(log *slog.Logger, now time.Time) {
	c.mu.Lock()
	quiet := !c.told.IsZero() && now.Sub(c.told) < 24*time.Hour && !now.Before(c.told)
	c.mu.Unlock()
	if quiet {
		return
	}
	for _, f := range c.Facts(now) {
		if f.Warn {
			log.Warn(f.Name, "is", f.Value)
			c.mu.Lock()
			c.told = now
			c.mu.Unlock()
		}
	}
}

// inode is the number of a file, 0 where the system has none: a file that is
// replaced by one of the same size and time is still another one.
func inode(info fs.FileInfo) uint64 {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return s.Ino
	}
	return 0
}
