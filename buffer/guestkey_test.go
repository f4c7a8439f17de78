package buffer

import (
	"path/filepath"
	"testing"
)

// TestGuestWithoutItsKey: a sealed lane of another gateway does not stop this
// one; it is delivered once its key is given.
func TestGuestWithoutItsKey(t *testing.T) {
	from := small(filepath.Join(fastDir(t), "ship"))
	from.Keys = []Key{testKey(1)}
	l := mustOpen(t, from)
	fill(t, l, lot{0, 1, 300, 50, 80})
	mustSync(t, mustCursor(t, l, "x"))
	mustClose(t, l)
	file, _ := archive(t, from.Dir, ArchiveOptions{All: true})
	to := small(fastDir(t))
	mustImport(t, to.Dir, file)
	for _, own := range [][]Key{nil, {testKey(2)}} {
		to.Keys = own
		l = mustOpen(t, to)
		if n := len(l.Lanes()); n != 2 {
			t.Fatalf("%d lanes", n)
		}
		mustClose(t, l)
	}
	to.Keys = []Key{testKey(2), testKey(1)}
	l = mustOpen(t, to)
	if x := readAll(t, mustCursor(t, l, "y"), guestNumber(t, l, "a"), 80); x.got != 300 || x.lost != 0 {
		t.Fatalf("%+v", x)
	}
}
