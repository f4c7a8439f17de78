package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

// built compiles a command of this module once per test run, as users get it:
// without the race detector, and without tags but for those given.
func built(t testing.TB, name string, tags ...string) string {
	t.Helper()
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("waystation-test-%d", os.Getpid()))
	path := filepath.Join(dir, strings.Join(append([]string{filepath.Base(name)}, tags...), "-"))
	if _, err := os.Stat(path); err == nil {
		return path
	}
	cmd := exec.Command("go", "build", "-tags", strings.Join(tags, ","), "-o", path, "github.com/waystation-iot/waystation/cmd/"+name)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", name, err, out)
	}
	return path
}

func TestMain(m *testing.M) {
	code := m.Run()
	_ = os.RemoveAll(filepath.Join(os.TempDir(), fmt.Sprintf("waystation-test-%d", os.Getpid())))
	os.Exit(code)
}

// proc is a gateway running as a process of its own.
type proc struct {
	t      testing.TB
	config string
	cmd    *exec.Cmd
	url    string

	mu  sync.Mutex // guards log
	log strings.Builder
}

// startGateway runs the daemon on a configuration file whose http.listen is
// 127.0.0.1:0, and returns once it says where it listens.
func startGateway(t testing.TB, config string) *proc {
	t.Helper()
	p := &proc{t: t, config: config}
	args := []string{"run", "-c", config}
	if f := os.Getenv("BENCH_CPUPROFILE"); f != "" {
		args = append(args, "-cpuprofile", f)
	}
	p.cmd = exec.Command(built(t, "waystation"), args...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	errOut, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	url := make(chan string, 1)
	go p.collect(errOut, url)
	select {
	case p.url = <-url:
	case <-time.After(20 * time.Second):
	}
	if p.url == "" {
		p.kill()
		t.Fatalf("gateway did not start:\n%s", p.output())
	}
	t.Cleanup(p.kill)
	return p
}

// collect keeps the log and finds the address in it.
func (p *proc) collect(r io.Reader, url chan<- string) {
	find := regexp.MustCompile(`url=(https?://[^/]+)/`)
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		p.mu.Lock()
		p.log.WriteString(lines.Text() + "\n")
		p.mu.Unlock()
		if m := find.FindStringSubmatch(lines.Text()); m != nil {
			select {
			case url <- m[1]:
			default:
			}
		}
	}
	close(url)
}

func (p *proc) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

// kill ends the process as a power cut would, as far as a process goes.
func (p *proc) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

// stop ends it in order and returns its exit code.
func (p *proc) stop() int {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	_ = p.cmd.Wait()
	return p.cmd.ProcessState.ExitCode()
}

// status reads the status; ok is false while the gateway does not answer.
func (p *proc) status() (s gateway.Status, ok bool) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	c := client{base: p.url}
	return s, c.get(ctx, "/api/v1/status", &s) == nil
}

// await polls the status until good holds, for at most limit.
func (p *proc) await(what string, limit time.Duration, good func(*gateway.Status) bool) gateway.Status {
	p.t.Helper()
	var s gateway.Status
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(limit); time.Now().Before(end); <-tick.C {
		var ok bool
		if s, ok = p.status(); ok && good(&s) {
			return s
		}
	}
	text, _ := json.MarshalIndent(s, "", " ")
	p.t.Fatalf("%s: not within %s; last status %s\nlog:\n%s", what, limit, text, p.output())
	return s
}

// cpu returns user and system time of the process so far.
func (p *proc) cpu() time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		p.t.Fatal(err)
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	user, _ := strconv.Atoi(f[11])
	sys, _ := strconv.Atoi(f[12])
	return time.Duration(user+sys) * 10 * time.Millisecond // USER_HZ is 100 on Linux
}

// rss returns the resident memory of the process in bytes.
func (p *proc) rss() int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		p.t.Fatal(err)
	}
	m := regexp.MustCompile(`VmRSS:\s+(\d+) kB`).FindSubmatch(b)
	if m == nil {
		p.t.Fatal("no VmRSS")
	}
	kb, _ := strconv.ParseInt(string(m[1]), 10, 64)
	return kb << 10
}

// metric reads one unlabelled metric.
func (p *proc) metric(name string) float64 {
	res, err := http.Get(p.url + "/metrics")
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^` + name + ` (\S+)$`).FindSubmatch(body)
	if m == nil {
		p.t.Fatalf("no metric %s", name)
	}
	f, err := strconv.ParseFloat(string(m[1]), 64)
	if err != nil {
		p.t.Fatal(err)
	}
	return f
}

// writeConfig writes a configuration for one broker and one Kafka and returns its path.
func writeConfig(t testing.TB, dir, mqttAddr, kafkaAddr string) string {
	t.Helper()
	text := fmt.Sprintf(`gateway: {id: test-gateway}
buffer: {dir: ./queue, max_bytes: 2GiB}
http: {listen: "127.0.0.1:0"}
sources:
  - {name: plant, type: mqtt, url: "tcp://%s", topics: ["#"]}
sinks:
  - {name: centre, type: kafka, brokers: ["%s"], topic: "test.{source}"}
`, mqttAddr, kafkaAddr)
	path := filepath.Join(dir, "waystation.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// replaceIn changes a configuration file.
func replaceIn(t testing.TB, path, from, to string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), from) {
		t.Fatalf("%s does not contain %s", path, from)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(string(text), from, to, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
}
