package kafka

import (
	"errors"
	"net"
	"os"
	"time"
)

// maxPatience bounds how long a request may take, however slow the link.
const maxPatience = 5 * time.Minute

// patience is how many times request_timeout a request may take. A batch that
// does not pass a slow link within it would be sent again for ever: whenever a
// Send ends with a time-out, those of the next session are doubled. Each batch
// that is confirmed in a quarter of the time halves it again, for the session after.
type patience struct {
	times time.Duration // 0 is 1
	begun time.Time     // when Send was called
}

// begin notes that Send is called.
func (p *patience) begin() { p.begun = time.Now() }

// of returns the limit for a request.
func (p *patience) of(limit time.Duration) time.Duration {
	return max(limit, min(limit*max(1, p.times), maxPatience))
}

// lost notes why the network failed.
func (p *patience) lost(err error, limit time.Duration) {
	if isTimeout(err) && p.of(limit) < maxPatience {
		p.times = 2 * max(1, p.times)
	}
}

// kept notes a batch that was confirmed, quickly or not.
func (p *patience) kept(limit time.Duration) {
	if time.Since(p.begun) < p.of(limit)/4 {
		p.times /= 2
	}
}

// isTimeout reports whether err says that something took too long.
func isTimeout(err error) bool {
	var ne net.Error
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &ne) && ne.Timeout()
}
