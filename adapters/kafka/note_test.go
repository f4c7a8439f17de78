package kafka

import (
	"errors"
	"maps"
	"math/rand/v2"
	"strings"
	"testing"
)

func TestNoteKeepsWhatIsRefused(t *testing.T) {
	sum := uint32(77)
	all := map[uint64]string{5: "too large", 6: "too large", 1 << 40: "INVALID_RECORD"}
	n := &note{Version: 1, Generation: "g1", Instance: "i", Sum: &sum}
	if err := n.list(all); err != nil {
		t.Fatal(err)
	}
	text, err := n.text()
	if err != nil {
		t.Fatal(err)
	}
	got, refused, err := parseNote(text)
	if err != nil || *got.Sum != sum || got.Generation != "g1" || !maps.Equal(refused, all) {
		t.Fatalf("%v %v %v", got, refused, err)
	}
}

// A whole batch, or every other record of one, can be refused for many reasons
// and still fits.
func TestNoteFits(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	n := &note{Version: 1, Generation: strings.Repeat("g", 32), Instance: "0123456789abcdef"}
	all := make(map[uint64]string)
	seq := uint64(1) << 40
	for range 2049 {
		all[seq] = strings.Repeat(string(rune('a'+rng.IntN(2))), 300)
		seq += 1 + uint64(rng.IntN(4))
	}
	if err := n.list(all); err != nil {
		t.Fatal(err)
	}
	text, err := n.text()
	if err != nil {
		t.Fatal(err)
	}
	_, got, err := parseNote(text)
	if err != nil || len(got) != 2049 {
		t.Fatal(len(got), err)
	}
	for i := range uint64(2049) { // far apart, as no thinning leaves them
		all[i*uint64(rng.IntN(1<<30))] = strings.Repeat("x", int(i))
	}
	if err := n.list(all); err != nil {
		t.Fatal(err)
	}
	if _, err := n.text(); !errors.Is(err, errTooLong) {
		t.Fatal(err)
	}
}

func FuzzParseNote(f *testing.F) {
	n := &note{Version: 1, Generation: "g1", Instance: "i"}
	_ = n.list(map[uint64]string{3: "x", 9: "y"})
	good, _ := n.text()
	for _, text := range []string{good, "", "{}", `{"v":2}`, good + "x", `{"v":1,"g":"a","i":"b","r":[{"t":"","s":"AAAA"}]}`, `{"v":1,"g":"a","i":"b","z":1}`} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		n, refused, err := parseNote(text)
		if err != nil {
			return
		}
		if n.Version != 1 || n.Generation == "" || n.Instance == "" || len(refused) > maxListed {
			t.Fatalf("took %q", text)
		}
	})
}
