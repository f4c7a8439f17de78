package gateway

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
)

// Source reads devices. Run connects, calls Intake.Up once data can flow,
// delivers records until the link is lost or ctx ends, closes what it opened
// and says why it returned. All state of one connection is local to Run: the
// supervisor calls it again after a pause. It returns nil only when ctx ended.
// An error wrapped by Permanent is not retried until the configuration changes.
type Source interface {
	Run(ctx context.Context, in *Intake) error
}

// Sink forwards records to a far side. The forwarder calls it from one
// goroutine at a time.
type Sink interface {
	// Connect makes sure that the far side answers. It is called before the
	// first Send and again after every error, under the forwarder's back-off.
	Connect(ctx context.Context) error
	// Send returns nil only when the far side has confirmed every record of
	// the batch. A *RefusedError says that all but the named records are
	// confirmed and that those will never be accepted. After any other error
	// Send is called again with the same *Batch (same pointer, same content)
	// until it returns nil or a *RefusedError: the sink may remember which
	// records of it are already confirmed. Two kinds of batches are given up
	// instead, and another *Batch is sent next: one that makes Send panic time
	// and again, whose records then come in pieces, each a *Batch of its own;
	// and one that is Replayed, after some errors, whose records come again
	// later. What was confirmed of such a batch is sent again, so a sink must
	// take another *Batch as the end of the one before: it undoes what it can,
	// such as a transaction that is open, and remembers nothing else of it.
	Send(ctx context.Context, b *Batch) error
	// Close releases what Connect opened. The sink may be connected again.
	Close() error
}

// Batch is consecutive records of one lane on their way to a sink. The
// records and everything they point to are valid until Send returns nil or
// the sink is closed for good.
type Batch struct {
	Lane       Lane
	LaneName   string // of Lane; "" = Lane.String()
	Gateway    string // whose queue gave the seqs; "" = this gateway's
	Generation string // identity of that queue: seqs are unique within it
	Replayed   bool   // sent before, and asked for again
	Items      []Item // ascending Seq
	Bytes      int    // stored size of the records, for limits

	// Recall tells what the queue knows of a seq of this lane; nil = nothing is
	// known. It may read the disk, and is to be called by Send only.
	Recall  func(seq uint64) Recalled
	Letters []DeadLetterInfo // parallel to Items: these are dead letters, for a LetterSink only; nil = no
}

// Item is one record with its position in the queue.
type Item struct {
	Seq    uint64 // position in the lane, gap-free, never reused
	Record Record
}

// Refusal names one record of a batch that the far side refuses for good.
type Refusal struct {
	Index  int    // index in Batch.Items
	Reason string // short, for the dead-letter list
}

// RefusedError says that every record of the batch is confirmed except the
// listed ones, which will never be accepted and belong in the dead letters.
type RefusedError struct{ Refused []Refusal }

// Error implements error.
func (e *RefusedError) Error() string {
	if len(e.Refused) == 0 {
		return "refused no record"
	}
	return fmt.Sprintf("refused %d records for good, first: %s", len(e.Refused), e.Refused[0].Reason)
}

// permanentError marks an error that trying again cannot mend.
type permanentError struct{ err error }

func (p *permanentError) Error() string { return p.err.Error() }
func (p *permanentError) Unwrap() error { return p.err }

// Permanent marks err as one that trying again cannot mend, for instance a
// certificate file that does not parse. The supervisor stops trying and shows
// it in the status.
func Permanent(err error) error { return &permanentError{err} }

// IsPermanent reports whether err was marked by Permanent.
func IsPermanent(err error) bool {
	var p *permanentError
	return errors.As(err, &p)
}

// Env is what an adapter gets from the gateway when it is built.
type Env struct {
	GatewayID string       // gateway.id of the configuration
	Name      string       // configured name of this source or sink
	Dir       string       // directory of the configuration file, for relative paths
	State     string       // directory, not made yet, for what this source or sink keeps over restarts; "" = nowhere (check, tests)
	Log       *slog.Logger // already carries the name
}

// SourceConfig is the configuration of one source. Its exported fields carry
// yaml and doc tags, from which the decoder, `describe`, the documentation and
// the JSON schema are made. Field defaults are those of the value returned by
// Adapter.NewSource.
type SourceConfig interface {
	// Validate returns every fault, joined with errors.Join; each is a *FieldError.
	Validate() error
	// Source builds the source. It opens no connection.
	Source(env Env) (Source, error)
}

// SinkConfig is the configuration of one sink; see SourceConfig.
type SinkConfig interface {
	Validate() error
	// Sink builds the sink. It opens no connection.
	Sink(env Env) (Sink, error)
}

// Adapter is one entry in the list of adapters.
type Adapter struct {
	Type      string              // value of `type:` in the configuration
	Doc       string              // one sentence: what it connects to
	NewSource func() SourceConfig // returns the defaults; nil when it cannot be a source
	NewSink   func() SinkConfig   // returns the defaults; nil when it cannot be a sink
	Schemes   []string            // URL schemes that `browse` takes to this adapter, e.g. "modbus+rtu"; they are no other adapter's
	Browse    Browser             // looks around at such a URL; nil = it cannot
	Library   fs.FS               // files that options with a `file` tag may name as builtin:NAME; nil = none
}

// FieldError is a fault in one option of a configuration.
type FieldError struct {
	Key  string // option, as a path below the section: "topics[2]", "tls.ca"
	Msg  string // what is wrong and what is allowed
	Hint string // what to do; may be ""
}

// Error implements error.
func (e *FieldError) Error() string {
	s := e.Key + ": " + e.Msg
	if e.Hint != "" {
		s += " (" + e.Hint + ")"
	}
	return s
}
