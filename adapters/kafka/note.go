package kafka

import (
	"bytes"
	"compress/flate"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

const (
	// maxMeta is the longest metadata of an offset that a broker takes
	// (offset.metadata.max.bytes, 4096 by default).
	maxMeta = 4096
	// maxReason is how much of a reason is kept beside the position, and
	// maxReasons how many different ones.
	maxReason  = 100
	maxReasons = 8
	// carry is for how many seqs what was refused is listed again with the
	// batches that follow: it may not be among the dead letters yet.
	carry = 4096
	// maxListed bounds the seqs of a list that is read. A batch has fewer.
	maxListed = 1 << 16
	// noReason stands for the reasons that were not kept.
	noReason = "refused by Kafka; the reason was not kept over the restart"
)

// errTooLong says that the note does not fit into the metadata of an offset.
var errTooLong = errors.New("the list of refused records is too long")

// note is what is stored with a position: whose it is, which record is the
// last before it, and what of the batch was refused, for the gateway may have
// died before those were among the dead letters.
type note struct {
	Version    int       `json:"v"` // 1
	Generation string    `json:"g"`
	Instance   string    `json:"i"`           // of the process that wrote it
	Sum        *uint32   `json:"c,omitempty"` // CRC-32C of the stored form of the record before the position
	Refused    []refused `json:"r,omitempty"`
}

// refused are the seqs refused for one reason.
type refused struct {
	Reason string `json:"t"`
	Seqs   string `json:"s"` // base64 of deflate of the differences as uvarints
}

// text returns the note as metadata.
func (n *note) text() (string, error) {
	b, err := json.Marshal(n)
	if err != nil {
		return "", err
	}
	if len(b) > maxMeta {
		return "", errTooLong
	}
	return string(b), nil
}

// list sets what is refused, and why.
func (n *note) list(all map[uint64]string) error {
	byReason := make(map[string][]uint64)
	var order []string
	for _, seq := range slices.Sorted(maps.Keys(all)) {
		reason := shorten(all[seq])
		if _, known := byReason[reason]; !known {
			if len(order) == maxReasons {
				reason = noReason
			}
			if _, known := byReason[reason]; !known {
				order = append(order, reason)
			}
		}
		byReason[reason] = append(byReason[reason], seq)
	}
	n.Refused = nil
	for _, reason := range order {
		text, err := packSeqs(byReason[reason])
		if err != nil {
			return err
		}
		n.Refused = append(n.Refused, refused{reason, text})
	}
	return nil
}

// shorten cuts a reason at a character.
func shorten(s string) string {
	s = strings.ToValidUTF8(s, "?")
	if len(s) <= maxReason {
		return s
	}
	n := maxReason
	for !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// parseNote reads metadata. Anything that is not exactly a note of a version
// we know is an error.
func parseNote(text string) (*note, map[uint64]string, error) {
	dec := json.NewDecoder(strings.NewReader(text))
	dec.DisallowUnknownFields()
	n := &note{}
	if err := dec.Decode(n); err != nil {
		return nil, nil, fmt.Errorf("read position: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, nil, errors.New("read position: something follows it")
	}
	if n.Version != 1 || n.Generation == "" || n.Instance == "" {
		return nil, nil, fmt.Errorf("read position: version %d, generation %q, instance %q", n.Version, n.Generation, n.Instance)
	}
	var all map[uint64]string
	for _, r := range n.Refused {
		seqs, err := unpackSeqs(r.Seqs)
		if err != nil {
			return nil, nil, fmt.Errorf("read position: %w", err)
		}
		if all == nil {
			all = make(map[uint64]string)
		}
		for _, seq := range seqs {
			all[seq] = r.Reason
		}
		if len(all) > maxListed {
			return nil, nil, errors.New("read position: too many refused records")
		}
	}
	return n, all, nil
}

// packSeqs packs ascending seqs.
func packSeqs(seqs []uint64) (string, error) {
	var raw []byte
	last := uint64(0)
	for _, seq := range seqs {
		raw = binary.AppendUvarint(raw, seq-last)
		last = seq
	}
	var out bytes.Buffer
	w, err := flate.NewWriter(&out, flate.BestCompression)
	if err != nil {
		return "", err
	}
	if _, err := w.Write(raw); err != nil {
		return "", err
	}
	if err := w.Close(); err != nil {
		return "", err
	}
	return base64.RawStdEncoding.EncodeToString(out.Bytes()), nil
}

func unpackSeqs(text string) ([]uint64, error) {
	packed, err := base64.RawStdEncoding.DecodeString(text)
	if err != nil {
		return nil, err
	}
	raw, err := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(packed)), maxListed+1))
	if err != nil {
		return nil, err
	}
	if len(raw) > maxListed {
		return nil, errors.New("too many refused records")
	}
	var seqs []uint64
	last := uint64(0)
	for len(raw) > 0 {
		d, n := binary.Uvarint(raw)
		if n <= 0 || last+d < last || (d == 0 && len(seqs) > 0) {
			return nil, errors.New("list of refused records is damaged")
		}
		last += d
		seqs, raw = append(seqs, last), raw[n:]
	}
	return seqs, nil
}
