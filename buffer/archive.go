package buffer

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// An archive is a tar file, POSIX.1-2001:
//
//	<lane directory>/<first seq, 16 hex digits>.blocks   parts, in the order of the seqs
//	manifest.json                                        Manifest
//	manifest.json.sha256                                 as sha256sum(1) writes it
//
// A part is blocks as they are stored, each after its length as a u32,
// big-endian: what is encrypted stays encrypted. The manifest comes last, so
// that an archive that was cut short has none.
const (
	archiveFormat = 1
	manifestName  = "manifest.json"
	partSuffix    = ".blocks"
	partBytes     = 4 << 20  // a part ends after the block that reaches so many
	maxPartBytes  = 40 << 20 // that and one largest block
	maxManifest   = 64 << 20
)

// ErrArchive says that a file is not an archive, or that it is damaged or not complete.
var ErrArchive = errors.New("not a whole archive of a queue")

// Manifest says what an archive holds.
type Manifest struct {
	Format     int           `json:"format"`
	Made       time.Time     `json:"made"`
	Gateway    string        `json:"gateway"`          // whose queue it is
	Generation string        `json:"generation"`       // of that queue
	Cursor     string        `json:"cursor,omitempty"` // the sink that had not released what is here; "" = the slowest
	Everything bool          `json:"everything,omitempty"`
	Lanes      []ArchiveLane `json:"lanes"`
}

// ArchiveLane is one lane in an archive. Every seq from First to Next-1 is in
// a block or in a loss.
type ArchiveLane struct {
	Dir        string        `json:"dir"` // of its parts
	Lane       string        `json:"lane"`
	Gateway    string        `json:"gateway"`    // who gave the seqs: not the gateway of the archive for what that took over itself
	Generation string        `json:"generation"` // of the seqs
	First      uint64        `json:"first"`
	Next       uint64        `json:"next"`
	Records    int64         `json:"records"` // in the blocks; the first may begin before First
	Bytes      int64         `json:"bytes"`   // stored
	From       time.Time     `json:"from"`    // when the first and the last block were committed
	To         time.Time     `json:"to"`
	Sealed     bool          `json:"sealed,omitempty"` // some blocks are encrypted
	Keys       []string      `json:"keys,omitempty"`   // ids of the keys, in hexadecimal
	Losses     []ArchiveLoss `json:"losses,omitempty"`
	Parts      []ArchivePart `json:"parts"`
}

// ArchiveLoss is a run of seqs that the queue no longer had.
type ArchiveLoss struct {
	First  uint64     `json:"first"`
	Last   uint64     `json:"last"`
	From   *time.Time `json:"from,omitempty"`
	To     *time.Time `json:"to,omitempty"`
	Reason string     `json:"reason"`
	Exact  bool       `json:"exact"`
}

// ArchivePart is one file in an archive.
type ArchivePart struct {
	Name    string `json:"name"`
	First   uint64 `json:"first"`
	Next    uint64 `json:"next"`
	Blocks  int    `json:"blocks"`
	Records int64  `json:"records"`
	Bytes   int64  `json:"bytes"`
	SHA256  string `json:"sha256"`
}

// loss turns a loss of the archive into one of the journal.
func (a *ArchiveLoss) loss() Loss {
	l := Loss{First: a.First, Last: a.Last, Reason: a.Reason, Exact: a.Exact}
	if a.From != nil {
		l.From = *a.From
	}
	if a.To != nil {
		l.To = *a.To
	}
	return l
}

func archiveLoss(l Loss) ArchiveLoss {
	a := ArchiveLoss{First: l.First, Last: l.Last, Reason: l.Reason, Exact: l.Exact}
	if !l.From.IsZero() {
		a.From = &l.From
	}
	if !l.To.IsZero() {
		a.To = &l.To
	}
	return a
}

// archiveReader reads an archive part by part and checks it against the manifest.
type archiveReader struct {
	k     *coder
	tar   *tar.Reader
	parts map[string][]ArchivePart // as read, by directory
	have  map[string][]SeqRange    // seqs in blocks, by directory
	last  string                   // directory of the part before
	m     *Manifest
	raw   []byte
}

// readArchive reads a whole archive, calling visit with each part before it
// is known whether the whole is right. It holds one part in memory.
func readArchive(k *coder, r io.Reader, visit func(dir string, p ArchivePart, body []byte) error) (*Manifest, error) {
	a := &archiveReader{k: k, tar: tar.NewReader(r), parts: map[string][]ArchivePart{}, have: map[string][]SeqRange{}}
	var digest string
	for {
		h, err := a.tar.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrArchive, err)
		}
		switch {
		case h.Typeflag != tar.TypeReg || a.m != nil && h.Name != manifestName+".sha256":
			err = fmt.Errorf("%w: %q does not belong in it", ErrArchive, h.Name)
		case h.Name == manifestName:
			digest, err = a.manifest(h.Size)
		case h.Name == manifestName+".sha256":
			err = a.digest(h.Size, digest)
			digest = ""
		default:
			err = a.part(h, visit)
		}
		if err != nil {
			return nil, err
		}
	}
	if a.m == nil || digest != "" {
		return nil, fmt.Errorf("%w: it was cut short: no manifest at its end", ErrArchive)
	}
	return a.m, a.check()
}

// body reads one file of the archive.
func (a *archiveReader) body(size, limit int64) ([]byte, error) {
	if size < 0 || size > limit {
		return nil, fmt.Errorf("%w: a file of %d bytes in it", ErrArchive, size)
	}
	var b bytes.Buffer // grows with what is there, not with what the header says
	if _, err := io.CopyN(&b, a.tar, size); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrArchive, err)
	}
	return b.Bytes(), nil
}

// manifest reads the manifest and returns its digest.
func (a *archiveReader) manifest(size int64) (string, error) {
	p, err := a.body(size, maxManifest)
	if err != nil {
		return "", err
	}
	a.m = &Manifest{}
	if err := json.Unmarshal(p, a.m); err != nil {
		return "", fmt.Errorf("%w: %s: %w", ErrArchive, manifestName, err)
	}
	if a.m.Format > archiveFormat {
		return "", fmt.Errorf("%w: archive format %d, this version reads %d", ErrNewerFormat, a.m.Format, archiveFormat)
	}
	sum := sha256.Sum256(p)
	return hex.EncodeToString(sum[:]), nil
}

// digest checks the manifest's digest.
func (a *archiveReader) digest(size int64, want string) error {
	p, err := a.body(size, 256)
	if err == nil && (want == "" || !strings.HasPrefix(string(p), want+" ")) {
		err = fmt.Errorf("%w: the digest of the manifest differs", ErrArchive)
	}
	return err
}

// part reads and checks one part.
func (a *archiveReader) part(h *tar.Header, visit func(string, ArchivePart, []byte) error) error {
	dir, base, _ := strings.Cut(h.Name, "/")
	if _, _, ok := parseLaneDir(dir); !ok || !strings.HasSuffix(base, partSuffix) || strings.Contains(base, "/") {
		return fmt.Errorf("%w: %q does not belong in it", ErrArchive, h.Name)
	}
	if dir != a.last && a.parts[dir] != nil {
		return fmt.Errorf("%w: the parts of %s do not follow each other", ErrArchive, dir)
	}
	a.last = dir
	body, err := a.body(h.Size, maxPartBytes)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(body)
	p := ArchivePart{Name: h.Name, Bytes: int64(len(body)), SHA256: hex.EncodeToString(sum[:])}
	for b, err := range partBlocks(a.k, body) {
		if err == nil {
			err = a.block(dir, b)
		}
		if err != nil {
			return fmt.Errorf("%w: %s: %w", ErrArchive, h.Name, err)
		}
		head, _ := parseHeader(b.block)
		if p.Blocks == 0 {
			p.First = b.first
		}
		p.Next, p.Blocks, p.Records = b.end, p.Blocks+1, p.Records+int64(head.count)
	}
	a.parts[dir] = append(a.parts[dir], p)
	return visit(dir, p, body)
}

// block checks that a block follows those before it and, unless it is
// encrypted, that it expands.
func (a *archiveReader) block(dir string, b found) error {
	have := a.have[dir]
	if n := len(have); n > 0 && b.first <= have[n-1].Last {
		return fmt.Errorf("%w: block %d is out of order", errDamaged, b.first)
	}
	a.have[dir] = addRange(have, SeqRange{b.first, b.end - 1})
	if h, _ := parseHeader(b.block); h.flags&flagSealed != 0 {
		return nil
	}
	var err error
	a.raw, _, err = a.k.decode(a.raw[:0], b.block, scope{})
	return err
}

// partBlocks yields the blocks of a part; their bytes are whole.
func partBlocks(k *coder, body []byte) blockSeq {
	return func(yield func(found, error) bool) {
		for len(body) > 0 {
			var b found
			err := fmt.Errorf("%w: cut short", errDamaged)
			if n := uint64(0); len(body) >= 4 {
				if n = uint64(binary.BigEndian.Uint32(body)); n <= uint64(len(body)-4) {
					p := body[4 : 4+n]
					body = body[4+n:]
					b, err = wholeFound(k, p)
				}
			}
			if !yield(b, err) || err != nil {
				return
			}
		}
	}
}

// wholeFound checks a block and reads its seqs.
func wholeFound(k *coder, p []byte) (found, error) {
	if err := k.check(p); err != nil {
		return found{}, err
	}
	h, err := parseHeader(p)
	if err == nil && (h.span == 0 || h.span > maxSegmentRecords || h.first+h.span < h.first) {
		err = fmt.Errorf("%w: block %d of %d seqs", errDamaged, h.first, h.span)
	}
	return found{first: h.first, end: h.first + h.span, block: p}, err
}

// check compares what was read with the manifest.
func (a *archiveReader) check() error {
	if a.m.Format != archiveFormat {
		return fmt.Errorf("%w: archive format %d", ErrArchive, a.m.Format)
	}
	seen := map[string]bool{}
	for i := range a.m.Lanes {
		ln := &a.m.Lanes[i]
		name, g, ok := parseLaneDir(ln.Dir)
		own, err := hex.DecodeString(ln.Generation)
		if !ok || err != nil || len(own) != len(g) || name != ln.Lane || g != (Generation{}) && g.String() != ln.Generation ||
			Generation(own) == (Generation{}) || seen[ln.Dir] || seen[ln.Lane+guestMark+ln.Generation] || !plainText(ln.Gateway) {
			return fmt.Errorf("%w: lane %q of the manifest", ErrArchive, ln.Dir)
		}
		seen[ln.Dir], seen[ln.Lane+guestMark+ln.Generation] = true, true
		if err := a.checkLane(ln); err != nil {
			return fmt.Errorf("%w: lane %s: %w", ErrArchive, ln.Dir, err)
		}
		delete(a.parts, ln.Dir)
	}
	for dir := range a.parts {
		return fmt.Errorf("%w: the manifest does not name the lane %s", ErrArchive, dir)
	}
	return nil
}

// checkLane checks the parts of a lane, and that blocks and losses together
// are every seq once.
func (a *archiveReader) checkLane(ln *ArchiveLane) error {
	got := slices.Clone(a.parts[ln.Dir])
	if len(got) > 0 && got[0].First < ln.First { // of a first block some may be released
		got[0].First = ln.First
	}
	if !slices.Equal(got, ln.Parts) {
		return errors.New("a part is missing, or is not the one the manifest names")
	}
	holes := []SeqRange{{ln.First, ln.Next - 1}}
	if ln.Next <= ln.First {
		return fmt.Errorf("seqs %d to %d", ln.First, ln.Next)
	}
	var have []found
	for _, r := range a.have[ln.Dir] {
		have = append(have, found{first: r.First, end: r.Last + 1})
		if r.Last >= ln.Next || r.Last < ln.First {
			return fmt.Errorf("it holds %d..%d, the manifest says %d..%d", r.First, r.Last, ln.First, ln.Next-1)
		}
	}
	holes = minus(holes, have, ln.First)
	var lost []SeqRange
	for _, l := range ln.Losses {
		if l.Last < l.First || len(l.Reason) > 100 || !plainText(l.Reason) {
			return fmt.Errorf("loss %d..%d", l.First, l.Last)
		}
		lost = addRange(lost, SeqRange{l.First, l.Last})
	}
	if !slices.Equal(holes, lost) {
		return fmt.Errorf("no block holds the seqs %v, and the manifest says that %v are lost", holes, lost)
	}
	return nil
}

// plainText reports whether s is short text that can stand in a line.
func plainText(s string) bool {
	return len(s) <= 256 && utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}
