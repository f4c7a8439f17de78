package gateway

import (
	"context"
	"errors"
	"fmt"
)

// Bounds of what is tried with a batch that makes the sink panic.
const (
	panicTries = 5 // of a batch, and of a single record
	// maxGivenUp is how many records in a row are given up with none confirmed
	// in between. A sink that panics whatever it is sent must not turn the whole
	// queue into dead letters.
	maxGivenUp = 8
)

// pieces is how far a batch is sent. Mostly it is sent whole. One that makes
// the sink panic again and again is cut in halves, in order, until the guilty
// record is alone: that one is refused, and the others go on.
//
// What the sink had confirmed of the batch when it panicked is not known, so it
// is sent again, under the same seqs: a panic repeats what a crash would, and
// no more.
type pieces struct {
	done    int       // items[:done] are confirmed or refused
	ends    []int     // ends of the pieces that follow, nearest last; none = all of it
	piece   *Batch    // the next one: the batch itself while it is whole
	panics  int       // of the piece
	trying  bool      // Send was called and has not returned: it panicked
	text    string    // of the last panic
	refused []Refusal // indexes into the batch
	givenUp int       // records in a row, over all batches
}

// note keeps what a panic says.
func (p *pieces) note(err error) {
	var bug *panicError
	if errors.As(err, &bug) {
		p.text = fmt.Sprint(bug.value)
	}
}

// deliverAll sends what is left of the batch and returns what the far side
// refuses of all of it.
func (f *forwarder) deliverAll(hard context.Context) ([]Refusal, error) {
	p := &f.pieces
	if p.trying {
		p.trying = false
		f.blame()
	}
	for n := len(f.batch.Items); p.done < n; {
		if p.piece == nil {
			p.cut(f.batch)
		}
		p.trying = true
		refused, err := f.deliver(hard, p.piece)
		p.trying = false
		if err != nil {
			return nil, err
		}
		for _, r := range refused {
			p.refused = append(p.refused, Refusal{Index: p.done + r.Index, Reason: r.Reason})
		}
		if len(refused) < len(p.piece.Items) {
			p.givenUp = 0
		}
		p.pass(len(p.piece.Items))
	}
	refused := p.refused
	f.pieces = pieces{givenUp: p.givenUp}
	return refused, nil
}

// cut makes the next piece.
func (p *pieces) cut(b *Batch) {
	end := len(b.Items)
	if n := len(p.ends); n > 0 {
		end = p.ends[n-1]
	}
	if p.done == 0 && end == len(b.Items) {
		p.piece = b
		return
	}
	piece := *b
	piece.Items = b.Items[p.done:end:end]
	piece.Bytes = b.Bytes / len(b.Items) * len(piece.Items)
	p.piece = &piece
}

// pass goes on behind n items that are confirmed or refused.
func (p *pieces) pass(n int) {
	p.done += n
	p.piece, p.panics = nil, 0
	for len(p.ends) > 0 && p.ends[len(p.ends)-1] <= p.done {
		p.ends = p.ends[:len(p.ends)-1]
	}
}

// blame counts a panic against the piece, and cuts it or gives it up.
func (f *forwarder) blame() {
	p := &f.pieces
	p.panics++
	n, whole := len(p.piece.Items), p.piece == f.batch
	switch {
	case (whole || n == 1) && p.panics < panicTries:
	case n > 1:
		if whole {
			f.log.Error("the sink panics on a batch; it is sent in pieces, and records it has taken may arrive twice, with the same seq",
				"sink", f.name, "lane", f.batch.LaneName, "first_seq", f.batch.Items[0].Seq, "records", n)
		}
		if len(p.ends) == 0 || p.ends[len(p.ends)-1] != p.done+n {
			p.ends = append(p.ends, p.done+n)
		}
		p.ends = append(p.ends, p.done+n/2)
		p.piece, p.panics = nil, 0
	case p.givenUp < maxGivenUp:
		p.givenUp++
		p.refused = append(p.refused, Refusal{Index: p.done, Reason: "the sink panics on it: " + p.text})
		p.pass(1)
	}
}
