package main

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"
)

// trial is one design in one round.
type trial struct {
	o    *options
	s    *sheet
	name string
	q    queue
	recs [][]byte
	size float64 // mean bytes of a record
}

// bench measures appending with -batch records per commit, draining, and both
// at once.
func bench(o *options) error {
	list, err := o.chosen()
	if err != nil {
		return err
	}
	recs := telemetry(min(o.n, 100000), o.seed)
	size := totalBytes(recs) / float64(len(recs))
	s := newSheet("append/s", "÷ raw", "CPU µs", "WA", "flushes/commit", "drain/s", "CPU µs (drain)", "WA (drain)", "both: append/s", "both: drain/s", "both: WA")
	err = o.turns(s, list, func(d design, dir string) error {
		q, err := d.open(dir)
		if err != nil {
			return fmt.Errorf("open: %w", err)
		}
		syscall.Sync() // what open wrote is not counted
		t := &trial{o: o, s: s, name: d.name, q: q, recs: recs, size: size}
		n, err := t.append()
		if err == nil {
			err = t.drain(n)
		}
		if err == nil {
			err = t.both()
		}
		return errors.Join(err, q.close())
	})
	s.ratio("÷ raw", "append/s", "raw")
	s.print(os.Stdout, fmt.Sprintf("%d records of %.0f bytes, %d per commit, %d per read, %d rounds, %s.", o.n, size, o.batch, o.read, o.rounds, o.meter.name()))
	return err
}

// part returns the records of commit i.
func (t *trial) part(i int) [][]byte {
	from := i * t.o.batch % len(t.recs)
	return t.recs[from:min(from+t.o.batch, len(t.recs))]
}

// append appends up to o.n records and returns how many.
func (t *trial) append() (n int, err error) {
	from := t.o.meter.read()
	commits := 0
	for n < t.o.n && time.Since(from.at) < t.o.limit {
		part := t.part(commits)
		if err := t.q.append(part); err != nil {
			return n, fmt.Errorf("append: %w", err)
		}
		n += len(part)
		commits++
	}
	to := t.o.meter.read()
	syscall.Sync()
	all := t.o.meter.read()
	t.s.add(t.name, "append/s", float64(n)/to.at.Sub(from.at).Seconds())
	t.s.add(t.name, "CPU µs", float64((to.cpu-from.cpu).Microseconds())/float64(n))
	t.s.add(t.name, "WA", t.o.meter.written(from, all)/(float64(n)*t.size))
	t.s.add(t.name, "flushes/commit", float64(to.flushes-from.flushes)/float64(commits))
	return n, nil
}

// drain drains n records.
func (t *trial) drain(n int) error {
	from := t.o.meter.read()
	got := 0
	for got < n && time.Since(from.at) < t.o.limit {
		k, err := t.q.drain(t.o.read, func([]byte) {})
		if err != nil || k == 0 {
			return fmt.Errorf("drain: ended at %d of %d: %w", got, n, err)
		}
		got += k
	}
	to := t.o.meter.read()
	syscall.Sync()
	all := t.o.meter.read()
	t.s.add(t.name, "drain/s", float64(got)/to.at.Sub(from.at).Seconds())
	t.s.add(t.name, "CPU µs (drain)", float64((to.cpu-from.cpu).Microseconds())/float64(got))
	t.s.add(t.name, "WA (drain)", t.o.meter.written(from, all)/(float64(got)*t.size))
	for got < n { // what the limit left, so that both begins with an empty queue
		k, err := t.q.drain(100000, func([]byte) {})
		if err != nil || k == 0 {
			return fmt.Errorf("drain: ended at %d of %d: %w", got, n, err)
		}
		got += k
	}
	return nil
}

// both appends and drains at the same time for up to three seconds. One lock
// is held around every call: not every design may be called from two
// goroutines.
func (t *trial) both() error {
	var mu sync.Mutex // guards the queue
	limit := min(t.o.limit, 3*time.Second)
	from := t.o.meter.read()
	drained, added := 0, 0
	ended := make(chan error, 1)
	go func() {
		for time.Since(from.at) < limit {
			mu.Lock()
			k, err := t.q.drain(t.o.read, func([]byte) {})
			mu.Unlock()
			if err != nil {
				ended <- fmt.Errorf("both: drain: %w", err)
				return
			}
			if drained += k; k == 0 {
				time.Sleep(2 * time.Millisecond)
			}
		}
		ended <- nil
	}()
	var err error
	for i := 0; err == nil && time.Since(from.at) < limit; i++ {
		part := t.part(i)
		mu.Lock()
		err = t.q.append(part)
		mu.Unlock()
		added += len(part)
	}
	if err = errors.Join(err, <-ended); err != nil {
		return err
	}
	seconds := time.Since(from.at).Seconds()
	syscall.Sync()
	t.s.add(t.name, "both: append/s", float64(added)/seconds)
	t.s.add(t.name, "both: drain/s", float64(drained)/seconds)
	t.s.add(t.name, "both: WA", t.o.meter.written(from, t.o.meter.read())/(float64(added)*t.size))
	return nil
}

// steady measures what reaches the device at a low rate: offline nothing is
// drained, online everything after every commit.
func steady(o *options) error {
	list, err := o.chosen()
	if err != nil {
		return err
	}
	per := max(1, int(float64(o.rate)*o.every.Seconds()))
	commits := max(1, int(o.span/o.every))
	recs := telemetry(max(50000/per*per, per), o.seed)
	size := totalBytes(recs) / float64(len(recs))
	s := newSheet("WA offline", "KiB/commit offline", "WA online", "KiB/commit online")
	err = o.turns(s, list, func(d design, dir string) error {
		for _, mode := range []string{"offline", "online"} {
			sub := dir + "/" + mode
			if err := os.Mkdir(sub, 0o700); err != nil {
				return err
			}
			bytes, err := o.trickle(d, sub, recs, pace{per: per, commits: commits, online: mode == "online"})
			if err != nil {
				return fmt.Errorf("%s: %w", mode, err)
			}
			s.add(d.name, "WA "+mode, bytes/(float64(commits*per)*size))
			s.add(d.name, "KiB/commit "+mode, bytes/1024/float64(commits))
		}
		return nil
	})
	s.print(os.Stdout, fmt.Sprintf("%d records/s of %.0f bytes, a commit of %d every %v for %v, %d rounds, %s; waiting between commits: %v.",
		o.rate, size, per, o.every, o.span, o.rounds, o.meter.name(), !o.fast))
	return err
}

// pace is how a steady run goes.
type pace struct {
	per, commits int
	online       bool
}

// trickle runs a steady load and returns the bytes written from the first
// commit on, so that what a design writes once, or ahead, counts: let -span be
// long enough that it does not weigh.
func (o *options) trickle(d design, dir string, recs [][]byte, p pace) (bytes float64, err error) {
	q, err := d.open(dir)
	if err != nil {
		return 0, fmt.Errorf("open: %w", err)
	}
	syscall.Sync()
	from := o.meter.read()
	tick := time.NewTicker(o.every)
	defer tick.Stop()
	for i := range p.commits {
		at := i * p.per % (len(recs) - p.per + 1)
		if err := q.append(recs[at : at+p.per]); err != nil {
			return 0, errors.Join(err, q.close())
		}
		if p.online {
			if _, err := q.drain(p.per, func([]byte) {}); err != nil {
				return 0, errors.Join(err, q.close())
			}
		}
		if !o.fast {
			<-tick.C
		}
	}
	syscall.Sync()
	bytes = o.meter.written(from, o.meter.read())
	return bytes, q.close()
}
