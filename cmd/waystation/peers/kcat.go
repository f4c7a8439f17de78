package peers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
)

// Message is a record as kcat read it.
type Message struct {
	Partition int
	Offset    int64
	Time      int64  // timestamp of the record, milliseconds since 1970 UTC
	Key       string // "" for a null key too
	Headers   map[string]string
	Value     []byte // nil for a null value
}

// kcatFormat puts what has a fixed form and the lengths on a first line, then
// key and value by their lengths, then the headers up to the end of the line.
// So key and value may hold any bytes.
const kcatFormat = `%p %o %T %K %S\n%k%s%h\n`

// Kcat reads a topic, all partitions from the beginning to the end at the time,
// with kcat (librdkafka), which checks every checksum and leaves out what was
// not committed. The order holds within a partition only. A topic that does not
// exist is an error. extra goes at the end of kcat's command line and can
// override: ("-p", "2"), ("-o", "100"), ("-X", "isolation.level=read_uncommitted").
//
// kcat writes headers as one line name=value,name=value, so Headers is right
// only for names without '=' and ',' and values without ',', newline and NUL;
// of headers with the same name the last is kept.
func Kcat(ctx context.Context, addr, topic string, extra ...string) ([]Message, error) {
	path, err := program("kcat")
	if err != nil {
		return nil, fmt.Errorf("read topic %s: %w", topic, err)
	}
	args := []string{
		"-C", "-e", "-q", "-b", addr, "-t", topic, "-o", "beginning", "-f", kcatFormat,
		"-X", "isolation.level=read_committed", "-X", "check.crcs=true",
	}
	cmd := exec.CommandContext(ctx, path, append(args, extra...)...)
	runtime.LockOSThread() // kcat gets the signal when this thread ends
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("read topic %s of %s with kcat: %w: %s", topic, addr,
			errors.Join(err, ctx.Err()), strings.TrimSpace(stderr.String()))
	}
	messages, err := parseKcat(stdout.Bytes())
	if err != nil {
		return nil, fmt.Errorf("read topic %s of %s with kcat: %w", topic, addr, err)
	}
	return messages, nil
}

// parseKcat reads output in kcatFormat.
func parseKcat(out []byte) ([]Message, error) {
	var messages []Message
	for rest := out; len(rest) > 0; { // every turn takes at least one line
		line, tail, found := bytes.Cut(rest, []byte("\n"))
		fields := strings.Fields(string(line))
		if !found || len(fields) != 5 {
			return nil, fmt.Errorf("parse kcat output at byte %d: no head line: %.80q", len(out)-len(rest), line)
		}
		var n [5]int64
		for i, field := range fields {
			v, err := strconv.ParseInt(field, 10, 64)
			if err != nil {
				return nil, fmt.Errorf("parse kcat output at byte %d: %w", len(out)-len(rest), err)
			}
			n[i] = v
		}
		m := Message{Partition: int(n[0]), Offset: n[1], Time: n[2]}
		keyLen, valueLen := max(n[3], 0), max(n[4], 0) // -1 is null
		if room := int64(len(tail)); keyLen >= room || valueLen >= room-keyLen {
			return nil, fmt.Errorf("parse kcat output: partition %d offset %d is cut short", m.Partition, m.Offset)
		}
		m.Key = string(tail[:keyLen])
		if n[4] >= 0 {
			m.Value = bytes.Clone(tail[keyLen : keyLen+valueLen])
			if m.Value == nil {
				m.Value = []byte{}
			}
		}
		headers, next, found := bytes.Cut(tail[keyLen+valueLen:], []byte("\n"))
		if !found {
			return nil, fmt.Errorf("parse kcat output: partition %d offset %d is cut short", m.Partition, m.Offset)
		}
		m.Headers = parseHeaders(string(headers))
		messages = append(messages, m)
		rest = next
	}
	return messages, nil
}

func parseHeaders(text string) map[string]string {
	headers := map[string]string{}
	if text == "" {
		return headers
	}
	for _, pair := range strings.Split(text, ",") {
		name, value, _ := strings.Cut(pair, "=")
		headers[name] = value
	}
	return headers
}
