package buffer

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// TestSecondProcess: a directory in use is refused with the pid of its user,
// and is free at once when that is killed.
func TestSecondProcess(t *testing.T) {
	dir := filepath.Join(fastDir(t), "q")
	cmd := writerCommand(t, dir)
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := pipe.Read(make([]byte, 1)); err != nil { // it has written something
		t.Fatal(err)
	}
	_, err = Open(killOptions(dir, ""))
	if !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), fmt.Sprintf("pid %d", cmd.Process.Pid)) {
		t.Errorf("open: %v, want in use by %d", err, cmd.Process.Pid)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	l, err := Open(killOptions(dir, ""))
	if err != nil {
		t.Fatalf("open after the other was killed: %v", err)
	}
	if _, err := Open(killOptions(dir, "")); !errors.Is(err, ErrInUse) {
		t.Errorf("open twice in a process: %v", err)
	}
	mustClose(t, l)
}

// TestForeignDirectory: a directory of another user is named with its owner.
func TestForeignDirectory(t *testing.T) {
	dir := filepath.Join(fastDir(t), "q")
	if err := os.Mkdir(dir, 0o555); err != nil {
		t.Fatal(err)
	}
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with its file system identity
		if os.Geteuid() == 0 {
			if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
				result <- err
				return
			}
			// This thread's file access becomes that of nobody, as the kernel sees it.
			if _, _, errno := syscall.RawSyscall(syscall.SYS_SETFSUID, 65534, 0, 0); errno != 0 {
				result <- errno
				return
			}
		}
		_, err := Open(small(dir))
		result <- err
	}()
	err := <-result
	if !errors.Is(err, os.ErrPermission) || !strings.Contains(err.Error(), fmt.Sprintf("belongs to uid %d", os.Getuid())) || !strings.Contains(err.Error(), "chown") {
		t.Fatalf("open: %v", err)
	}
}

func TestOptions(t *testing.T) {
	dir := fastDir(t)
	for want, o := range map[string]Options{
		"no directory":          {Lanes: NamedLanes("a"), MaxBytes: MinBytes},
		"0 lanes":               {Dir: dir, MaxBytes: MinBytes},
		"is too small":          {Dir: dir, Lanes: NamedLanes("a"), MaxBytes: MinBytes - 1},
		"too small for 8 lanes": {Dir: dir, Lanes: NamedLanes(strings.Split("abcdefgh", "")...), MaxBytes: MinBytes},
		"unknown compression":   {Dir: dir, Lanes: NamedLanes("a"), MaxBytes: MinBytes, Compression: "lz"},
	} {
		if _, err := Open(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	l := mustOpen(t, small(dir))
	if _, err := l.Cursor("a/b"); err == nil {
		t.Error("a cursor with a slash in its name")
	}
	for _, lane := range []int{-1, 2} {
		b := &Batch{}
		b.Add(nil)
		if err := appendWait(l, lane, b); err == nil {
			t.Errorf("append to lane %d", lane)
		}
	}
	b := &Batch{}
	b.Add(make([]byte, MaxRecordBytes+1))
	if err := appendWait(l, 0, b); !errors.Is(err, ErrRecordTooLarge) {
		t.Errorf("append: %v", err)
	}
	b.Reset()
	b.Add(make([]byte, MaxRecordBytes))
	if err := appendWait(l, 0, b); err != nil {
		t.Errorf("append of the largest record: %v", err)
	}
	var ch Chunk
	if err := mustCursor(t, l, "x").Read(0, Limit{Records: 1, Bytes: 1}, &ch); err != nil || len(ch.Records) != 1 || len(ch.Records[0]) != MaxRecordBytes {
		t.Errorf("read of the largest record: %v", err)
	}
}
