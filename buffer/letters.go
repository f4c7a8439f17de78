package buffer

import (
	"errors"
	"fmt"
	"os"
)

// examineShelf counts the dead letters without opening the file with bbolt.
func examineShelf(path string) (s ShelfState) {
	f, err := os.Open(path)
	if err != nil {
		if !isGone(err) {
			s.Err = err
		}
		return s
	}
	defer f.Close()
	for try := 0; ; try++ {
		t, err := newestTree(f)
		if err != nil {
			s.Err = fmt.Errorf("read dead letters %s: %w", path, err)
			return s
		}
		s, err = countShelf(t)
		if after, gone := newestTree(f); gone != nil || after.txid == t.txid || try > maxRereads {
			if s.Err = err; err != nil {
				s.Err = fmt.Errorf("read dead letters %s: %w", path, err)
			}
			return s
		}
	}
}

func countShelf(t *pageTree) (s ShelfState, err error) {
	w, err := t.bucket(bucketShelf)
	if errors.Is(err, errNoBucket) {
		return s, nil
	}
	if err != nil {
		return s, err
	}
	w.heads = true
	for {
		n, err := w.nextPlace()
		if n == nil || err != nil {
			return s, err
		}
		_, _, size := n.value(n.at)
		s.Count, s.Bytes = s.Count+1, s.Bytes+int64(size)
		n.at++
	}
}
