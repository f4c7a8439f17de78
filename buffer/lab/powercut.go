package main

import (
	"bufio"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// loadEnv tells a child that it is the load of a power cut.
const loadEnv = "WAYSTATION_LAB_LOAD"

// outcome sums up the states of one design.
type outcome struct {
	states, lostStates, refused                   int
	lost, altered, ahead, repeated, writes, syncs int
	example                                       string
	took                                          time.Duration
}

// powercut records a process that appends and drains on a recording file
// system, builds states that a power cut can leave, and reads them.
func powercut(o *options) error {
	list, err := o.chosen("waystation", "waystation-prefill", "bb-key", "tidwall", "sqlite")
	if err != nil {
		return err
	}
	fmt.Printf("\n| design | writes | syncs | states | states that lost acknowledged records | records lost | altered | cursors ahead | seqs given twice | not opened | time |\n|%s\n", strings.Repeat("---|", 11))
	var bad []string
	for _, d := range list {
		out, err := o.cutDesign(d)
		if err != nil {
			return fmt.Errorf("%s: %w", d.name, err)
		}
		fmt.Printf("| %s | %d | %d | %d | %d | %d | %d | %d | %d | %d | %v |\n", d.name, out.writes, out.syncs, out.states, out.lostStates,
			out.lost, out.altered, out.ahead, out.repeated, out.refused, out.took.Round(time.Second))
		if out.example != "" {
			bad = append(bad, d.name+": "+out.example)
		}
	}
	for _, b := range bad {
		fmt.Printf("\n%s\n", b)
	}
	for _, b := range bad {
		if strings.HasPrefix(b, "waystation") {
			return errors.New("our own queue failed")
		}
	}
	return nil
}

// cutDesign builds -states states of one design from several records.
func (o *options) cutDesign(d design) (out outcome, err error) {
	const perRecord = 250
	from := time.Now()
	r := rand.New(rand.NewPCG(o.seed, 7))
	for run := 0; out.states < o.states; run++ {
		ops, err := o.record(d, o.seed+uint64(run))
		if err != nil {
			return out, err
		}
		p := newPlatter(o.journal)
		at := 0
		for i := range min(perRecord, o.states-out.states) {
			for to := (i + 1) * len(ops) / perRecord; at < to; at++ {
				out.count(ops[at])
				p.play(ops[at])
			}
			dir := filepath.Join(o.scratch, "state")
			if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o700), p.cut(dir, i%cutModes, r)); err != nil {
				return out, err
			}
			found := trouble{}
			if strings.HasPrefix(d.name, "waystation") {
				found = p.judgeOurs(d.name, filepath.Join(dir, "q"))
			} else {
				found = p.judge(d, filepath.Join(dir, "q"))
			}
			out.add(found, fmt.Sprintf("record %d, after %d of %d operations, mode %d", run, at, len(ops), i%cutModes))
		}
	}
	out.took = time.Since(from)
	return out, os.RemoveAll(o.scratch)
}

// trouble is what is wrong with one state.
type trouble struct {
	lost, altered, ahead, repeated int
	err                            error
}

// judge reads the state of a design that is not ours.
func (d *platter) judge(x design, dir string) (t trouble) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return trouble{err: err}
	}
	v := judge(x, dir, d.released["sink"][0], d.acked[0])
	return trouble{lost: v.lost, altered: v.altered, repeated: v.repeated, err: v.err}
}

func (o *outcome) count(x op) {
	switch x.kind {
	case opWrite:
		o.writes++
	case opSync, opSyncDir:
		o.syncs++
	}
}

func (o *outcome) add(t trouble, where string) {
	o.states++
	o.lost += t.lost
	o.altered += t.altered
	o.ahead += t.ahead
	o.repeated += t.repeated
	if t.lost > 0 {
		o.lostStates++
	}
	if t.err != nil {
		o.refused++
	}
	if o.example == "" && t != (trouble{}) {
		o.example = fmt.Sprintf("%s: %d lost, %d altered, %d cursors ahead, %d given twice, error %v", where, t.lost, t.altered, t.ahead, t.repeated, t.err)
	}
}

// record runs the load of a design on a recording file system.
func (o *options) record(d design, seed uint64) (ops []op, err error) {
	base, mnt := filepath.Join(o.scratch, "base"), filepath.Join(o.scratch, "mnt")
	if err := errors.Join(os.RemoveAll(base), os.MkdirAll(base, 0o700), os.MkdirAll(mnt, 0o700)); err != nil {
		return nil, err
	}
	rec := &recorder{ids: map[string]int{}}
	unmount, err := rec.mount(base, mnt)
	if err != nil {
		return nil, fmt.Errorf("mount the recording file system: %w: it needs /dev/fuse and root", err)
	}
	defer func() { err = errors.Join(err, unmount()) }()
	if err := runLoad(rec, d, mnt, seed); err != nil {
		return nil, err
	}
	rec.mu.Lock()
	defer rec.mu.Unlock()
	for _, x := range rec.ops {
		if o.broken == "file" && x.kind == opSync || o.broken == "dir" && x.kind == opSyncDir {
			continue
		}
		ops = append(ops, x)
	}
	return ops, nil
}

// runLoad starts the load in a process of its own and notes what it says, up
// to its end.
func runLoad(rec *recorder, d design, mnt string, seed uint64) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, childCommand, "-only", d.name, "-dir", filepath.Join(mnt, "q"), "-seed", strconv.FormatUint(seed, 10))
	cmd.Env = append(os.Environ(), loadEnv+"=1")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := false
	for lines := bufio.NewScanner(out); lines.Scan(); {
		f := strings.Fields(lines.Text())
		if len(f) < 4 {
			ended = true
			_ = cmd.Process.Kill() // no clean end: only what was acknowledged counts
			break
		}
		lane, _ := strconv.Atoi(f[2])
		n, _ := strconv.ParseUint(f[3], 10, 64)
		kind := map[string]opKind{"handed": opHanded, "acked": opAcked, "released": opReleased}[f[0]]
		rec.say(op{kind: kind, cursor: f[1], lane: lane, n: n})
		if _, err := in.Write([]byte("\n")); err != nil {
			break
		}
	}
	err = cmd.Wait()
	if ended && cmd.ProcessState.Sys().(syscall.WaitStatus).Signaled() {
		return nil
	}
	return fmt.Errorf("load ended early: %w", err)
}

// reporter is how a load tells what it does. Each line is answered before the
// load goes on, so that the record has it in its place.
type reporter struct{ in *bufio.Reader }

func (r *reporter) say(kind, cursor string, lane int, n uint64) error {
	fmt.Println(kind, cursor, lane, n)
	_, err := r.in.ReadString('\n')
	return err
}

// load is the process whose power is cut.
func load(o *options) error {
	list, err := o.chosen()
	if err != nil {
		return err
	}
	tell := &reporter{in: bufio.NewReader(os.Stdin)}
	r := rand.New(rand.NewPCG(o.seed, 3))
	if strings.HasPrefix(list[0].name, "waystation") {
		err = loadOurs(list[0].name, o.dir, tell, r)
	} else {
		err = loadOther(list[0], o.dir, tell, r)
	}
	if err != nil {
		return err
	}
	fmt.Println("end")
	_, _ = tell.in.ReadString('\n') // until it is killed
	return nil
}

// loadOther appends and drains at random.
func loadOther(d design, dir string, tell *reporter, r *rand.Rand) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	q, err := d.open(dir)
	if err != nil {
		return err
	}
	next, low := uint64(0), uint64(0)
	for range 250 {
		batch := make([][]byte, 1+r.IntN(60))
		for i := range batch {
			batch[i] = provable(next + uint64(i))
		}
		next += uint64(len(batch))
		if err := errors.Join(tell.say("handed", "-", 0, next), q.append(batch), tell.say("acked", "-", 0, next)); err != nil {
			return err
		}
		if r.IntN(3) > 0 {
			continue
		}
		most := 1 + r.IntN(400)
		if err := tell.say("released", "sink", 0, min(low+uint64(most), next)); err != nil {
			return err
		}
		k, err := q.drain(most, func([]byte) {})
		if err != nil {
			return err
		}
		low += uint64(k)
	}
	return nil
}
