package modbus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/goburrow/modbus"
)

// line is one open way to units: a connection or a port. Only a line over TCP
// or TLS with pipeline above 1 may be asked by several goroutines at once.
type line interface {
	// Ask sends q and returns the data of the answer to q, see request.answer,
	// valid until the next Ask. What is late or not an answer to q is dropped.
	// The error is a *modbus.ModbusError when the unit refused, a *silence when
	// it did not answer in time and the line is fit for the next request. After
	// any other error the line is to be closed.
	Ask(ctx context.Context, q *request) ([]byte, error)
	Close() error
}

// silence says that a unit did not answer in time. The line has been brought
// back in step: a late answer cannot be taken for that to another request.
type silence struct {
	after time.Duration
	heard error // why what was heard was not the answer, nil when nothing was
}

func (e *silence) Error() string {
	if e.heard == errOwed {
		return errOwed.Error()
	}
	s := fmt.Sprintf("no answer within %s", asShown(e.after))
	if e.heard != nil {
		s += ", although something was heard: " + e.heard.Error()
	}
	return s
}

// asShown is a time as people read it.
func asShown(d time.Duration) time.Duration {
	if d < 10*time.Millisecond {
		return d.Round(100 * time.Microsecond)
	}
	return d.Round(time.Millisecond)
}

// isOwed reports whether err says that a unit was not asked at all, because it
// owes too many answers.
func isOwed(err error) bool {
	var s *silence
	return errors.As(err, &s) && s.heard == errOwed
}

// isSilence reports whether err says that a unit did not answer.
func isSilence(err error) bool {
	var s *silence
	return errors.As(err, &s)
}

// exception returns the exception code of err, 0 when it is none (MODBUS
// Application Protocol V1.1b3 section 7).
func exception(err error) byte {
	var e *modbus.ModbusError
	if errors.As(err, &e) {
		return e.ExceptionCode
	}
	return 0
}
