package modbus

import (
	"errors"
	"io"
	"sync"
	"syscall"
	"time"
)

// maxHeard bounds what is kept of what nobody has looked at yet. The longest
// frame is 513 characters of ASCII.
const maxHeard = 4096

// emptyReads is how many reads of nothing in a row are taken for a port that
// has hung up, which else would be read for ever at full speed.
const emptyReads = 100

// ear listens to a line: one goroutine reads what comes, who asks takes it.
// So a port that hangs up is noticed at once, and what came too early or too
// late is there to be dropped before the next request.
type ear struct {
	wake chan struct{} // holds a token while there is something new
	gone chan struct{} // closed when nothing is read any more
	char time.Duration // of one byte; 0 = not known, they come together

	mu   sync.Mutex // guards what follows
	buf  []byte     // heard and not taken, the last maxHeard of it
	last time.Time  // when the last of it came
	err  error      // why nothing is read any more
	want int        // bytes of the answer that is waited for, 0 = any may be the last
	got  int        // of them
}

const (
	// Until an answer can be complete the port is left alone, for so long at
	// most: a driver that hands on every byte would else wake us for each.
	longestNap  = 50 * time.Millisecond
	shortestNap = time.Millisecond
)

// expect says how long the answer is that follows.
func (e *ear) expect(bytes int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.want, e.got = bytes, 0
}

// nap returns how long nothing needs to be read after n more bytes: less than
// what is missing takes at the baud rate. An exception is never waited with.
func (e *ear) nap(n int) time.Duration {
	e.got += n
	if e.want == 0 || e.got < 2+rtuOverhead {
		return 0
	}
	d := min(longestNap, time.Duration(e.want-e.got-1)*e.char*3/4) // the next may be about to come
	if d < shortestNap {
		return 0
	}
	return d
}

func newEar(from io.Reader, char time.Duration) *ear {
	e := &ear{wake: make(chan struct{}, 1), gone: make(chan struct{}), char: char}
	go e.listen(from)
	return e
}

func (e *ear) listen(from io.Reader) {
	defer close(e.gone)
	var piece [1024]byte
	for empty := 0; ; {
		n, err := from.Read(piece[:])
		empty++
		if n > 0 {
			empty = 0
		} else if err == nil && empty >= emptyReads {
			err = io.ErrNoProgress
		}
		e.mu.Lock()
		if n > 0 {
			e.last = time.Now()
			e.buf = append(e.buf, piece[:n]...)
			if over := len(e.buf) - maxHeard; over > 0 {
				e.buf = append(e.buf[:0], e.buf[over:]...)
			}
		}
		e.err = err
		nap := e.nap(n)
		e.mu.Unlock()
		select {
		case e.wake <- struct{}{}:
		default:
		}
		if err != nil {
			return
		}
		if nap > 0 {
			time.Sleep(nap)
		}
	}
}

// take appends what was heard to dst and says when the last of it came.
func (e *ear) take(dst []byte) (heard []byte, last time.Time, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	dst = append(dst, e.buf...)
	e.buf = e.buf[:0]
	return dst, e.last, e.err
}

// isGone reports whether err says that the far side, or the adapter, has gone.
func isGone(err error) bool {
	for _, gone := range [...]error{io.EOF, io.ErrNoProgress, syscall.EIO, syscall.ENXIO, syscall.ENODEV, syscall.ECONNRESET} {
		if errors.Is(err, gone) {
			return true
		}
	}
	return false
}

// pending reports whether there is something to take.
func (e *ear) pending() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.buf) > 0 || e.err != nil
}
