package buffer

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// The writer process of TestKill: writers append numbered records, each batch
// is answered on the standard output after done, a cursor reads, writes down
// what it read ("sent"), and releases.
const (
	killEnv     = "WAYSTATION_BUFFER_KILL_DIR"
	variantEnv  = "WAYSTATION_BUFFER_KILL_VARIANT"
	killWriters = 4
)

// killOptions are those of the writer and of the test; v names a variant.
func killOptions(dir, v string) Options {
	o := Options{Dir: dir, Lanes: NamedLanes("a", "b"), MaxBytes: 256 << 20, SegmentBytes: 64 << 10, CursorDelay: 5 * time.Millisecond}
	for _, x := range variants() {
		if x.name == v {
			x.set(&o)
		}
	}
	return o
}

// killRecord is record n of a writer: writer, n, and bytes that follow from both.
func killRecord(w, n uint64) []byte {
	p := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, w), n)
	return append(p, strings.Repeat(strconv.FormatUint(n*2654435761, 36), 1+int(n%20))...)
}

// killWriter is the foreign process. It ends by being killed.
func killWriter(dir string) error {
	l, err := Open(killOptions(dir, os.Getenv(variantEnv)))
	if err != nil {
		return err
	}
	c, err := l.Cursor("sink")
	if err != nil {
		return err
	}
	if _, err := l.Cursor("all"); err != nil { // holds what the test has not read
		return err
	}
	var out sync.Mutex // guards the standard output
	say := func(format string, args ...any) {
		out.Lock()
		defer out.Unlock()
		fmt.Fprintf(os.Stdout, format, args...)
	}
	base := uint64(time.Now().UnixNano()) // numbers of this run are above those of earlier ones
	for w := range uint64(killWriters) {
		go func() {
			for n, i := base, uint64(0); ; i++ {
				b := &Batch{}
				from := n
				for range 1 + (i*7+w)%30 {
					b.Add(killRecord(w, n))
					n++
				}
				done := make(chan error)
				l.Append(int(w%2), b, func(err error) { done <- err })
				if err := <-done; err != nil {
					say("fail %v\n", err)
					return
				}
				say("ack %d %d %d\n", w, from, n)
			}
		}()
	}
	var ch Chunk
	for {
		for lane := range 2 {
			if err := c.Read(lane, Limit{Records: 100, Bytes: 1 << 20}, &ch); err != nil {
				return err
			}
			if ch.Loss != nil {
				say("fail loss %+v\n", *ch.Loss)
			} else if n := len(ch.Records); n > 0 {
				say("sent %d %d\n", lane, ch.Next())
				c.Release(lane, ch.Next(), Released{Sent: uint64(n)})
			}
		}
		<-c.Ready()
	}
}

// killState is what the killed processes have said so far.
type killState struct {
	acked   [killWriters][][2]uint64 // runs of numbers acknowledged, in order
	sent    [2]uint64                // released below this at most
	last    [killWriters]uint64      // number read last, of every writer
	read    [2]uint64                // seqs read below this
	seen    uint64
	records map[[2]uint64]bool // writer and number, read
	variant string
}

// note takes one line of a process.
func (k *killState) note(line string) error {
	var a, b, c uint64
	if n, _ := fmt.Sscanf(line, "ack %d %d %d", &a, &b, &c); n == 3 {
		k.acked[a] = append(k.acked[a], [2]uint64{b, c})
		return nil
	}
	if n, _ := fmt.Sscanf(line, "sent %d %d", &a, &b); n == 2 {
		k.sent[a] = max(k.sent[a], b)
		return nil
	}
	return errors.New(line)
}

// run starts a writer process, kills it after it has said n lines, and takes
// in what it said.
func (k *killState) run(t *testing.T, dir string, n int) {
	t.Helper()
	cmd := writerCommand(t, dir)
	cmd.Env = append(cmd.Env, variantEnv+"="+k.variant)
	cmd.Stderr = os.Stderr
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(pipe)
	for i := 0; ; i++ {
		if i == n {
			if err := cmd.Process.Kill(); err != nil {
				t.Error(err)
			}
		}
		line, err := r.ReadString('\n')
		if errors.Is(err, io.EOF) { // a line cut short was not said
			break
		}
		if err == nil {
			err = k.note(strings.TrimSpace(line))
		}
		if err != nil {
			t.Errorf("writer: %v", err)
			_ = cmd.Process.Kill()
			break
		}
	}
	_ = cmd.Wait()
}

// writerCommand is this test binary as a writer. WAYSTATION_EXEC names what
// runs it when the kernel cannot: "qemu-arm-static".
func writerCommand(t testing.TB, dir string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	args := append(strings.Fields(os.Getenv("WAYSTATION_EXEC")), self, "-test.run=^$")
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), killEnv+"="+dir)
	return cmd
}

// check opens the queue after a kill and reads on with a cursor of its own
// that has seen everything so far.
func (k *killState) check(t *testing.T, dir string) {
	t.Helper()
	l, err := Open(killOptions(dir, k.variant)) // the lock went with the process
	if err != nil {
		t.Fatal(err)
	}
	defer mustClose(t, l)
	sink, all := mustCursor(t, l, "sink"), mustCursor(t, l, "all")
	for lane, s := range sink.Stats() {
		if s.Next > max(k.sent[lane], firstSeq) {
			t.Fatalf("lane %d: cursor on disk at %d, released at most %d", lane, s.Next, k.sent[lane])
		}
	}
	balanced(t, sink)
	for lane := range 2 {
		var ch Chunk
		for {
			if err := all.Read(lane, Limit{Records: 1000, Bytes: 1 << 20}, &ch); err != nil {
				t.Fatal(err)
			}
			if ch.Loss != nil {
				t.Fatalf("loss %+v", *ch.Loss)
			}
			if len(ch.Records) == 0 {
				break
			}
			if k.read[lane] != 0 && ch.First != k.read[lane] {
				t.Fatalf("lane %d: read %d after %d", lane, ch.First, k.read[lane])
			}
			k.read[lane] = ch.Next()
			for _, rec := range ch.Records {
				k.take(t, lane, rec)
			}
			all.Release(lane, ch.Next(), Released{Sent: uint64(len(ch.Records))})
		}
	}
	mustSync(t, all)
	for w, runs := range k.acked {
		for _, r := range runs {
			for n := r[0]; n < r[1]; n++ {
				if !k.records[[2]uint64{uint64(w), n}] {
					t.Fatalf("record %d of writer %d was acknowledged and is lost", n, w)
				}
			}
		}
		k.acked[w] = nil
	}
	clear(k.records)
}

// take notes one record that was read.
func (k *killState) take(t *testing.T, lane int, rec []byte) {
	t.Helper()
	w, n := binary.BigEndian.Uint64(rec), binary.BigEndian.Uint64(rec[8:])
	if w >= killWriters || int(w%2) != lane || string(rec) != string(killRecord(w, n)) {
		t.Fatalf("lane %d: altered record %x", lane, rec)
	}
	if n <= k.last[w] {
		t.Fatalf("writer %d: number %d after %d", w, n, k.last[w])
	}
	k.last[w] = n
	k.records[[2]uint64{w, n}] = true
	k.seen++
}

// TestKill kills a writing process again and again; WAYSTATION_KILLS sets how
// often, over all variants. Nothing acknowledged is lost, repeated or
// reordered, seqs have no gap, and the cursor on disk is never ahead of what
// was released.
func TestKill(t *testing.T) {
	kills := max(times(t, "WAYSTATION_KILLS", 50)/len(variants()), 1)
	for _, v := range variants() {
		t.Run(v.name, func(t *testing.T) {
			dir := filepath.Join(fastDir(t), "q")
			k := &killState{records: map[[2]uint64]bool{}, variant: v.name}
			for i := range kills {
				k.run(t, dir, 20+i*37%400)
				k.check(t, dir)
			}
			t.Logf("%d kills, %d records read, every acknowledged one among them", kills, k.seen)
			if k.seen < uint64(kills)*50 {
				t.Fatalf("only %d records in %d runs", k.seen, kills)
			}
		})
	}
}
