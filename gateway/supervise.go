package gateway

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Pauses between tries of a source or sink.
const (
	retryMin  = time.Second
	retryMax  = 15 * time.Second
	steadyFor = time.Minute // a link up for so long starts over with the shortest pause
)

// RetryAfterError is an error that says when trying again makes sense.
type RetryAfterError struct {
	Err   error
	After time.Duration
}

// Error implements error.
func (e *RetryAfterError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *RetryAfterError) Unwrap() error { return e.Err }

// supervise runs a source until ctx ends or it fails for good: it recovers
// from panics and pauses between tries with back-off and jitter. It tries
// again only when the queue has answered what the last try delivered: a queue
// that does not answer must not collect deliveries of ever new connections.
func supervise(ctx context.Context, name string, src Source, in *Intake) {
	wait := backoff{min: retryMin, max: retryMax}
	for {
		in.link.trying()
		err := recovered(func() error { return src.Run(ctx, in) })
		if ctx.Err() != nil {
			in.link.end(Stopped, nil)
			return
		}
		if err == nil {
			err = errors.New("ended without an error")
		}
		err = fmt.Errorf("source %s: %w", name, err)
		if IsPermanent(err) {
			in.link.end(Failed, err)
			return
		}
		if in.link.upFor() >= steadyFor {
			wait.reset()
		}
		pause := wait.next()
		var after *RetryAfterError
		if errors.As(err, &after) {
			pause = max(pause, after.After)
		}
		in.link.down(err, pause)
		if !sleep(ctx, pause) || !in.settle(ctx) {
			in.link.end(Stopped, nil)
			return
		}
	}
}

// sleep waits for d and reports whether ctx did not end before.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
