package main

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// submitter is a queue that gathers what many producers submit by itself. For
// the others the lab has one committer, which takes all that waits.
type submitter interface {
	submit(rec []byte, done func(error))
}

// group measures producers that each wait until their record is durable,
// beside one write of 4 KiB with fdatasync in the same directory.
func group(o *options) error {
	list, err := o.chosen("raw", "raw-zstd", "waystation", "waystation-prefill", "bb-key", "tidwall", "sqlite")
	if err != nil {
		return err
	}
	recs := telemetry(50000, o.seed)
	span := min(o.span, 3*time.Second)
	s := newSheet("records/s", "÷ raw", "p50 ms", "p99 ms", "max ms", "p99 ÷ fdatasync")
	const floor = "4 KiB + fdatasync"
	err = o.turns(s, list, func(d design, dir string) error {
		one, err := syncTimes(dir)
		if err != nil {
			return err
		}
		s.add(floor, "p50 ms", median(one))
		s.add(floor, "p99 ms", quantile(one, 0.99))
		q, err := d.open(dir)
		if err != nil {
			return fmt.Errorf("open: %w", err)
		}
		waits, seconds, err := produce(q, recs, o.producers, span)
		if err = errors.Join(err, q.close()); err != nil {
			return err
		}
		s.add(d.name, "records/s", float64(len(waits))/seconds)
		s.add(d.name, "p50 ms", median(waits))
		s.add(d.name, "p99 ms", quantile(waits, 0.99))
		s.add(d.name, "max ms", quantile(waits, 1))
		s.add(d.name, "p99 ÷ fdatasync", quantile(waits, 0.99)/median(one))
		return nil
	})
	s.ratio("÷ raw", "records/s", "raw")
	s.print(os.Stdout, fmt.Sprintf("%d producers that wait, %v each, %d rounds.", o.producers, span, o.rounds))
	return err
}

// syncTimes measures writes of 4 KiB at the end of a file, each with fdatasync, ms.
func syncTimes(dir string) (ms []float64, err error) {
	f, err := os.Create(filepath.Join(dir, "floor"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	p := make([]byte, 4096)
	for i := range int64(200) {
		from := time.Now()
		if _, err := f.WriteAt(p, i*4096); err != nil {
			return nil, err
		}
		if err := syscall.Fdatasync(int(f.Fd())); err != nil {
			return nil, err
		}
		ms = append(ms, time.Since(from).Seconds()*1e3)
	}
	return ms, os.Remove(f.Name())
}

// produce runs n producers for a time and returns how long each record took, ms.
func produce(q queue, recs [][]byte, n int, span time.Duration) (waits []float64, seconds float64, err error) {
	submit, finish := gatherer(q, n)
	var mu sync.Mutex // guards waits and err
	var all sync.WaitGroup
	from := time.Now()
	for p := range n {
		all.Go(func() {
			var mine []float64
			var failed error
			done := make(chan error, 1)
			for i := p; failed == nil && time.Since(from) < span; i += n {
				at := time.Now()
				submit(recs[i%len(recs)], func(err error) { done <- err })
				failed = <-done
				mine = append(mine, time.Since(at).Seconds()*1e3)
			}
			mu.Lock()
			defer mu.Unlock()
			waits = append(waits, mine...)
			err = errors.Join(err, failed)
		})
	}
	all.Wait()
	seconds = math.Max(time.Since(from).Seconds(), 1e-9)
	finish()
	return waits, seconds, err
}

// gatherer returns how to submit a record to q, and what ends the committer.
func gatherer(q queue, n int) (submit func([]byte, func(error)), finish func()) {
	if own, ok := q.(submitter); ok {
		return own.submit, func() {}
	}
	type request struct {
		rec  []byte
		done func(error)
	}
	waiting := make(chan request, n)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		var batch [][]byte
		var dones []func(error)
		for first := range waiting {
			batch, dones = append(batch[:0], first.rec), append(dones[:0], first.done)
			for range len(waiting) {
				r := <-waiting
				batch, dones = append(batch, r.rec), append(dones, r.done)
			}
			err := q.append(batch)
			for _, done := range dones {
				done(err)
			}
		}
	}()
	return func(rec []byte, done func(error)) { waiting <- request{rec, done} }, func() { close(waiting); <-ended }
}
