package buffer

import (
	"encoding/binary"
	"fmt"
	"time"
)

// Loss is a run of records that can no longer be read, and why.
type Loss struct {
	First, Last uint64    // seqs, both included
	From, To    time.Time // when the first and last of them were committed; zero when not known
	Reason      string    // one of the Reason constants
	Exact       bool      // whether Count records were really there
	Missing     uint64    // how many of First..Last are missing; 0 = all of them
}

// Count returns the number of seqs that are missing.
func (l Loss) Count() uint64 {
	if l.Missing > 0 {
		return l.Missing
	}
	return l.Last - l.First + 1
}

// The reasons of a loss.
const (
	ReasonEvicted     = "evicted"     // deleted to keep the byte budget
	ReasonThinned     = "thinned"     // every nth record was kept to keep the byte budget
	ReasonDamaged     = "damaged"     // a block failed its checksum
	ReasonTampered    = "tampered"    // a block was altered or moved by someone without the key
	ReasonQuarantined = "quarantined" // a segment could not be read
	ReasonUnknown     = "unknown"     // gone, and no entry in the journal
)

// journalCap bounds the journal; the oldest entries are dropped first.
const journalCap = 64

// addLoss appends a loss, joined with the last entry when it continues it.
func addLoss(j []Loss, l Loss) []Loss {
	if n := len(j); n > 0 && j[n-1].Last+1 == l.First && j[n-1].Reason == l.Reason && j[n-1].Exact == l.Exact {
		j[n-1].Last, j[n-1].To = l.Last, l.To
		return j
	}
	if len(j) >= journalCap {
		j = append(j[:0], j[1:]...)
	}
	return append(j, l)
}

// findLoss describes the beginning of the hole first..last from the journal:
// as much of it as has one reason.
func findLoss(j []Loss, first, last uint64) Loss {
	known := last // up to where no entry begins
	for _, l := range j {
		if l.First <= first && first <= l.Last {
			cut := l
			cut.First, cut.Last = first, min(last, l.Last)
			return cut
		}
		if first < l.First && l.First <= known {
			known = l.First - 1
		}
	}
	return Loss{First: first, Last: known, Reason: ReasonUnknown, Exact: known-first < batchRecords}
}

// encodeJournal: version u8, then per loss: first, last u64, from, to i64
// (Unix ms, 0 = not known), exact u8, reason length u8, reason.
func encodeJournal(j []Loss) []byte {
	out := []byte{1}
	be := binary.BigEndian
	for _, l := range j {
		out = be.AppendUint64(be.AppendUint64(out, l.First), l.Last)
		out = be.AppendUint64(be.AppendUint64(out, uint64(unixMilli(l.From))), uint64(unixMilli(l.To)))
		exact := byte(0)
		if l.Exact {
			exact = 1
		}
		out = append(out, exact, byte(len(l.Reason)))
		out = append(out, l.Reason...)
	}
	return out
}

func decodeJournal(p []byte) ([]Loss, error) {
	if len(p) == 0 {
		return nil, nil
	}
	if p[0] != 1 {
		return nil, fmt.Errorf("%w: journal version %d", ErrNewerFormat, p[0])
	}
	var j []Loss
	be := binary.BigEndian
	for p = p[1:]; len(p) > 0; {
		const fixed = 34
		if len(p) < fixed || len(p) < fixed+int(p[33]) {
			return nil, fmt.Errorf("%w: journal cut short", errDamaged)
		}
		n := fixed + int(p[33])
		l := Loss{First: be.Uint64(p), Last: be.Uint64(p[8:]), From: fromMilli(int64(be.Uint64(p[16:]))),
			To: fromMilli(int64(be.Uint64(p[24:]))), Exact: p[32] == 1, Reason: string(p[fixed:n])}
		if l.Last < l.First {
			return nil, fmt.Errorf("%w: journal entry %d..%d", errDamaged, l.First, l.Last)
		}
		j, p = append(j, l), p[n:]
	}
	return j, nil
}

func unixMilli(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func fromMilli(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}
