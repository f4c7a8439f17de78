package kafka

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/IBM/sarama"
)

const (
	// answerSlack is how much longer than request_timeout we wait for an answer,
	// so that the broker's own REQUEST_TIMED_OUT arrives first.
	answerSlack = 500 * time.Millisecond
	// grace is how long a cancelled call may take to notice that its
	// connection is cut before it is abandoned.
	grace = time.Second
)

// dialFunc opens a connection; tests put faults in here.
type dialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

// session is a sarama client and the connections it has opened. sarama's calls
// take no context: they are ended by cutting the connections under them.
type session struct {
	client sarama.Client
	dial   dialFunc
	ctx    context.Context // ends with the session; stops dials
	stop   context.CancelFunc
	broken bool // the network failed; the next Connect starts a new session

	mu    sync.Mutex // guards conns and sides
	conns map[*conn]struct{}
	sides map[string]*sarama.Broker // by address: see side
}

// conn removes itself from its session when closed.
type conn struct {
	net.Conn
	s *session
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.s.mu.Lock()
	delete(c.s.conns, c)
	c.s.mu.Unlock()
	return c.Conn.Close()
}

// dialError says that no connection was made, so nothing was sent.
type dialError struct{ err error }

func (e *dialError) Error() string { return e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }

// newSession makes a client. It does not connect yet.
func newSession(brokers []string, conf *sarama.Config, dial dialFunc) (*session, error) {
	ctx, stop := context.WithCancel(context.Background())
	s := &session{dial: dial, ctx: ctx, stop: stop, conns: make(map[*conn]struct{}), sides: make(map[string]*sarama.Broker)}
	conf.Net.Proxy.Enable = true
	conf.Net.Proxy.Dialer = s
	client, err := sarama.NewClient(brokers, conf)
	if err != nil {
		stop()
		return nil, err
	}
	s.client = client
	return s, nil
}

// Dial implements proxy.Dialer for sarama.
func (s *session) Dial(network, addr string) (net.Conn, error) {
	c, err := s.dial(s.ctx, network, addr)
	if err != nil {
		return nil, &dialError{err}
	}
	tracked := &conn{Conn: c, s: s}
	s.mu.Lock()
	s.conns[tracked] = struct{}{}
	s.mu.Unlock()
	if s.ctx.Err() != nil { // cut came between
		_ = tracked.Close()
		return nil, &dialError{s.ctx.Err()}
	}
	return tracked, nil
}

// cut ends every connection and dial, now and in future.
func (s *session) cut() {
	s.stop()
	s.mu.Lock()
	open := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		open = append(open, c)
	}
	s.mu.Unlock()
	for _, c := range open {
		_ = c.Close()
	}
}

// close ends the session.
func (s *session) close() error {
	s.cut()
	s.closeSides()
	if err := s.client.Close(); err != nil && !errors.Is(err, sarama.ErrClosedClient) {
		return err
	}
	return nil
}

// result is what a call returned.
type result[T any] struct {
	v   T
	err error
}

// call runs fn, which uses the session, and returns soon after ctx ends. fn
// must not write to anything but its own variables: it may outlive call.
func call[T any](ctx context.Context, s *session, fn func() (T, error)) (T, error) {
	done := make(chan result[T], 1)
	go func() {
		v, err := fn()
		done <- result[T]{v, err}
	}()
	select {
	case r := <-done:
		return r.v, r.err
	case <-ctx.Done():
	}
	s.broken = true
	s.cut()
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
	var zero T
	return zero, context.Cause(ctx)
}

// initProducerID asks any broker for a producer id.
func (s *session) initProducerID(ctx context.Context) (*sarama.InitProducerIDResponse, error) {
	answer, err := call(ctx, s, s.client.InitProducerID)
	if err != nil {
		return nil, err
	}
	if answer.Err != sarama.ErrNoError {
		return nil, answer.Err
	}
	return answer, nil
}

// probe makes sure that a broker answers.
func (s *session) probe(ctx context.Context, topic string) error {
	if topic == "" {
		_, err := s.initProducerID(ctx)
		return err
	}
	_, err := call(ctx, s, func() (struct{}, error) {
		return struct{}{}, s.client.RefreshMetadata(topic)
	})
	if isTopicError(err) || errors.Is(err, sarama.ErrLeaderNotAvailable) {
		return nil // that is an answer
	}
	return err
}

// partitions returns the ids of the topic's partitions.
func (s *session) partitions(ctx context.Context, topic string, refresh bool) ([]int32, error) {
	return call(ctx, s, func() ([]int32, error) {
		if refresh {
			if err := s.client.RefreshMetadata(topic); err != nil && !errors.Is(err, sarama.ErrLeaderNotAvailable) {
				return nil, err
			}
		}
		ids, err := s.client.Partitions(topic)
		if err == nil && len(ids) == 0 {
			err = sarama.ErrLeaderNotAvailable
		}
		return ids, err
	})
}

// place is a partition to find the leader of.
type place struct {
	key     partitionKey
	refresh bool
}

// leaders returns the leader, or why there is none, of each place.
func (s *session) leaders(ctx context.Context, places []place) ([]result[*sarama.Broker], error) {
	return call(ctx, s, func() ([]result[*sarama.Broker], error) {
		found := make([]result[*sarama.Broker], len(places))
		fresh := make(map[string]error)
		for i, p := range places {
			if _, seen := fresh[p.key.topic]; p.refresh && !seen {
				fresh[p.key.topic] = s.client.RefreshMetadata(p.key.topic)
			}
			if err := fresh[p.key.topic]; err != nil && !errors.Is(err, sarama.ErrLeaderNotAvailable) {
				found[i].err = err
				continue
			}
			found[i].v, found[i].err = s.client.Leader(p.key.topic, p.key.id)
			if found[i].err == nil && found[i].v == nil {
				found[i].err = fmt.Errorf("no leader: %w", sarama.ErrLeaderNotAvailable)
			}
		}
		return found, nil
	})
}
