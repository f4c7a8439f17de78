package main

import (
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"runtime/debug"
	"strings"
	"time"
)

// provable returns a record that proves itself: number and checksum inside.
func provable(n uint64) []byte {
	s := fmt.Sprintf(`{"n":%016d,"value":%d.%02d,"pad":"%s"`, n, n%977, n%100, strings.Repeat(fmt.Sprintf("%x-", n*2654435761%100000), int(8+n%17)))
	return fmt.Appendf(nil, `%s,"crc":"%08x"}`, s, crc32.ChecksumIEEE([]byte(s)))
}

// proven returns the number of a record, or false when it was altered.
func proven(p []byte) (n uint64, ok bool) {
	if _, err := fmt.Sscanf(string(p), `{"n":%d,`, &n); err != nil {
		return 0, false
	}
	return n, string(p) == string(provable(n))
}

// verdict is what came out of a queue.
type verdict struct {
	got, altered, repeated, disorder int
	lost                             int
	firstLost                        uint64
	err                              error // opening or reading failed, or panicked
}

// judge opens a queue and reads it to its end. Every record from low to
// acked-1 must be there.
func judge(d design, dir string, low, acked uint64) (v verdict) {
	seen := map[uint64]bool{}
	last := uint64(0)
	v.err = guard(func() error {
		q, err := d.open(dir)
		if err != nil {
			return fmt.Errorf("open: %w", err)
		}
		for k := 1; k > 0 && err == nil; {
			k, err = q.drain(2000, func(p []byte) {
				n, ok := proven(p)
				switch {
				case !ok:
					v.altered++
					return
				case seen[n]:
					v.repeated++
				case n < last:
					v.disorder++
				}
				seen[n], last = true, max(last, n)
				v.got++
			})
		}
		return errors.Join(err, q.close())
	})
	for n := low; n < acked; n++ {
		if !seen[n] {
			if v.lost++; v.lost == 1 {
				v.firstLost = n
			}
		}
	}
	return v
}

// guard turns a panic or a fault into an error.
func guard(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	return fn()
}

// enospc fills the file system that -dir is on until appending fails, reads
// everything on the full disk, and appends again.
func enospc(o *options) error {
	list, err := o.chosen("waystation", "bb-key", "tidwall", "sqlite")
	if err != nil {
		return err
	}
	fmt.Printf("\n| design | acknowledged | first error | read back, full disk | lost | altered | reading | appending after that |\n|---|---|---|---|---|---|---|---|\n")
	for _, d := range list {
		dir, err := o.fresh(d.name)
		if err != nil {
			return err
		}
		acked, full := fillUp(o, d, dir)
		v := judge(d, dir, 0, acked)
		again := guard(func() error {
			q, err := d.open(dir)
			if err != nil {
				return fmt.Errorf("open: %w", err)
			}
			return errors.Join(q.append([][]byte{provable(acked)}), q.close())
		})
		fmt.Printf("| %s | %d | %s | %d | %d | %d | %s | %s |\n", d.name, acked, brief(full), v.got, v.lost, v.altered, brief(v.err), brief(again))
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return nil
}

// fillUp appends until five commits have failed or the limit is over.
func fillUp(o *options, d design, dir string) (acked uint64, full error) {
	panicked := guard(func() error {
		q, err := d.open(dir)
		if err != nil {
			return err
		}
		from := time.Now()
		for failed := 0; failed < 5 && time.Since(from) < o.limit; {
			batch := make([][]byte, 500)
			for i := range batch {
				batch[i] = provable(acked + uint64(i))
			}
			if err := q.append(batch); err != nil {
				failed++
				if full == nil {
					full = err
				}
				continue
			}
			acked += uint64(len(batch))
		}
		_ = q.close() // it may fail: the disk is full
		return nil
	})
	return acked, errors.Join(full, panicked)
}

// brief is an error on one short line.
func brief(err error) string {
	if err == nil {
		return "ok"
	}
	s := strings.Join(strings.Fields(err.Error()), " ")
	return strings.ReplaceAll(s[:min(len(s), 90)], "|", "/")
}
