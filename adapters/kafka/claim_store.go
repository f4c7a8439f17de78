package kafka

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// objectStore is where large values are kept.
type objectStore interface {
	// put stores the file as the object of a claim and returns when it is there,
	// whole and checked. Called again after an error it goes on where it was, as
	// far as it can. A *storeRefusal says that trying again cannot mend it.
	put(ctx context.Context, u *upload) error
	// url is where a consumer finds an object.
	url(key string) string
	// id tells stores apart: what was begun in another one is begun anew.
	id() string
}

// upload is one file on its way to the store.
type upload struct {
	claim *claim // Upload is the store's; keep writes it down
	file  io.ReaderAt
	keep  func() error  // after a change of claim.Upload
	moved func(n int64) // called as bytes are sent; 0 = begun anew
	pace  *pace         // of the link
}

// storeRefusal says that the store will not take the object.
type storeRefusal struct{ err error }

func (e *storeRefusal) Error() string { return e.err.Error() }
func (e *storeRefusal) Unwrap() error { return e.err }

// refusedByStore reports whether err is a refusal for good.
func refusedByStore(err error) bool {
	var r *storeRefusal
	return errors.As(err, &r)
}

// newStore makes the store that is configured.
func (s *Sink) newStore() objectStore {
	st := &s.cfg.Large.Store
	if st.Type == wordS3 {
		return newS3(st, s.env.Dir)
	}
	return &dirStore{root: st.Path, max: int64(st.MaxBytes), mounted: st.Mounted, state: s.env.State}
}

// pace bounds the bytes per second of all uploads.
type pace struct {
	rate int64 // bytes per second; 0 = no bound

	mu   sync.Mutex // guards free: a request that was answered early may still be read
	free time.Time  // when what was sent so far has had its time
}

// paceStep is how much is sent at once under a bound, bytes.
const paceStep = 16 << 10

// take waits until n bytes may be sent.
func (p *pace) take(ctx context.Context, n int) error {
	if p.rate <= 0 {
		return ctx.Err()
	}
	now := time.Now()
	p.mu.Lock()
	if p.free.Before(now) {
		p.free = now
	}
	p.free = p.free.Add(time.Duration(n) * time.Second / time.Duration(p.rate))
	wait := p.free.Sub(now)
	p.mu.Unlock()
	return pause(ctx, wait)
}

// pause waits for d or until ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// paced reads a part of the file at the pace of the link.
type paced struct {
	ctx  context.Context
	r    io.Reader
	u    *upload
	beat func() // something moves
}

// Read implements io.Reader.
func (p *paced) Read(b []byte) (int, error) {
	if p.u.pace.rate > 0 {
		b = b[:min(len(b), paceStep)]
	}
	n, err := p.r.Read(b)
	if n > 0 {
		if werr := p.u.pace.take(p.ctx, n); werr != nil {
			return 0, fmt.Errorf("wait for the link: %w", werr)
		}
		p.u.moved(int64(n))
		p.beat()
	}
	return n, err
}
