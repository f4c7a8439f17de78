package peers

import (
	"bytes"
	"context"
	_ "embed" // for kafkajsScript
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// KafkaJSVersion is the release of kafkajs that .ci/interop-deps installs.
const KafkaJSVersion = "2.2.4"

//go:embed kafkajs.cjs
var kafkajsScript string

// quietAfter is how long a reader waits for one more record before it takes the
// topics for read.
const quietAfter = 8 * time.Second

// KafkaConsole reads all topics that match the regular expression from the
// beginning with the Java client (kafka-console-consumer, read_committed), until
// nothing more comes. dir takes its log settings. Keys, headers and values must
// hold no tab and no newline, header values no comma.
func KafkaConsole(ctx context.Context, dir, addr, topics string) ([]Message, error) {
	java, err := program("java")
	if err != nil {
		return nil, fmt.Errorf("read topics %s: %w", topics, err)
	}
	classpath, err := kafkaClasspath()
	if err != nil {
		return nil, fmt.Errorf("read topics %s: %w", topics, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "log4j2.properties"), []byte(strings.Replace(kafkaLogging,
		"appender.out.type = Console", "appender.out.type = Console\nappender.out.target = SYSTEM_ERR", 1)), 0o644); err != nil {
		return nil, fmt.Errorf("write log settings: %w", err)
	}
	cmd := kafkaCommand(dir, java, "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", classpath,
		"org.apache.kafka.tools.consumer.ConsoleConsumer", "--bootstrap-server", addr, "--include", topics,
		"--from-beginning", "--isolation-level", "read_committed", "--timeout-ms", fmt.Sprint(quietAfter.Milliseconds()),
		"--property", "print.partition=true", "--property", "print.offset=true", "--property", "print.headers=true",
		"--property", "print.key=true", "--property", "print.timestamp=false")
	out, err := output(ctx, cmd)
	if err != nil {
		return nil, fmt.Errorf("read topics %s of %s with the Java client: %w", topics, addr, err)
	}
	messages, err := parseConsole(out)
	if err != nil {
		return nil, fmt.Errorf("read topics %s of %s with the Java client: %w", topics, addr, err)
	}
	return messages, nil
}

// parseConsole reads lines "Partition:0 TAB Offset:7 TAB a:b,c:d TAB key TAB value".
func parseConsole(out []byte) ([]Message, error) {
	var messages []Message
	for line := range bytes.Lines(out) {
		f := strings.SplitN(strings.TrimRight(string(line), "\n"), "\t", 5)
		if len(f) != 5 {
			return nil, fmt.Errorf("parse console output: %.200q", line)
		}
		partition, err := strconv.Atoi(strings.TrimPrefix(f[0], "Partition:"))
		if err != nil {
			return nil, fmt.Errorf("parse console output: %w", err)
		}
		offset, err := strconv.ParseInt(strings.TrimPrefix(f[1], "Offset:"), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("parse console output: %w", err)
		}
		m := Message{Partition: partition, Offset: offset, Headers: map[string]string{}, Key: f[3], Value: []byte(f[4])}
		for h := range strings.SplitSeq(f[2], ",") {
			name, value, _ := strings.Cut(h, ":")
			m.Headers[name] = value
		}
		messages = append(messages, m)
	}
	return messages, nil
}

// KafkaJS reads all topics that match the regular expression from the beginning
// with kafkajs (read_committed), until it has want records and nothing more
// comes. It unpacks slowly: some twenty topics at a time are enough.
func KafkaJS(ctx context.Context, dir, addr, topics string, want int) ([]Message, error) {
	node, err := program("node")
	if err != nil {
		return nil, fmt.Errorf("read topics %s: %w", topics, err)
	}
	modules := filepath.Join(Cache(), "kafkajs", "node_modules")
	version, err := os.ReadFile(filepath.Join(modules, "kafkajs.version"))
	if err != nil || strings.TrimSpace(string(version)) != "kafkajs@"+KafkaJSVersion {
		return nil, fmt.Errorf("find kafkajs %s in %s: %w", KafkaJSVersion, modules, ErrNotInstalled)
	}
	script := filepath.Join(dir, "kafkajs.cjs")
	if err := os.WriteFile(script, []byte(kafkajsScript), 0o644); err != nil {
		return nil, fmt.Errorf("write script: %w", err)
	}
	cmd := exec.Command(node, script, addr, topics, fmt.Sprint(want))
	cmd.Env = append(os.Environ(), "NODE_PATH="+modules, "KAFKAJS_NO_PARTITIONER_WARNING=1")
	out, err := output(ctx, cmd)
	if err != nil {
		return nil, fmt.Errorf("read topics %s of %s with kafkajs: %w", topics, addr, err)
	}
	var messages []Message
	for line := range bytes.Lines(out) {
		var m struct {
			Partition  int
			Offset     int64 `json:",string"`
			Key, Value string
			Headers    map[string]string
		}
		if err := json.Unmarshal(line, &m); err != nil {
			return nil, fmt.Errorf("parse output of kafkajs: %w", err)
		}
		messages = append(messages, Message{Partition: m.Partition, Offset: m.Offset, Key: m.Key, Headers: m.Headers, Value: []byte(m.Value)})
	}
	return messages, nil
}

// output runs a reader until it ends or ctx does, and returns what it wrote.
func output(ctx context.Context, cmd *exec.Cmd) ([]byte, error) {
	runtime.LockOSThread() // the reader gets the signal when this thread ends
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	defer stop()
	if err := cmd.Wait(); err != nil {
		text := stderr.String()
		return nil, fmt.Errorf("%w: %s", errors.Join(err, ctx.Err()), text[max(0, len(text)-2000):])
	}
	return stdout.Bytes(), nil
}
