package peers

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Mosquitto is a real mosquitto broker. It lets every client in, keeps an
// unlimited queue for absent persistent sessions, and saves its state once a
// second and on Stop; so Kill may lose the last second, as mosquitto does.
type Mosquitto struct {
	Addr string // host:port
	*Process
}

// MosquittoOption changes the broker's configuration.
type MosquittoOption func(settings map[string]string)

// MosquittoSet sets any key of mosquitto.conf, for instance ("max_keepalive", "30").
func MosquittoSet(key, value string) MosquittoOption {
	return func(settings map[string]string) { settings[key] = value }
}

// PasswordFile makes the broker ask for a user of this file, as written by
// mosquitto_passwd, and refuse all others.
func PasswordFile(path string) MosquittoOption {
	return func(settings map[string]string) {
		settings["allow_anonymous"] = "false"
		settings["password_file"] = path
	}
}

// MaxInflight sets how many QoS 1 and 2 messages may be under way to one client
// without acknowledgement; mosquitto's own default is 20, 0 is unlimited.
func MaxInflight(n int) MosquittoOption {
	return MosquittoSet("max_inflight_messages", fmt.Sprint(n))
}

// StartMosquitto starts a broker with its configuration, log and data in dir,
// and returns once it answers an MQTT CONNECT. Called again on the folder of an
// ended broker it takes the same port and the saved sessions; options are not
// kept from one call to the next.
func StartMosquitto(dir string, opts ...MosquittoOption) (*Mosquitto, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("start mosquitto in %s: %w", dir, err)
	}
	path, err := program("mosquitto")
	if err != nil {
		return nil, fmt.Errorf("start mosquitto: %w", err)
	}
	ports, err := holdPorts(dir, 1)
	if err != nil {
		return nil, fmt.Errorf("start mosquitto in %s: %w", dir, err)
	}
	config := filepath.Join(dir, "mosquitto.conf")
	if err := os.WriteFile(config, mosquittoConfig(dir, ports[0], opts), 0o644); err != nil {
		return nil, fmt.Errorf("start mosquitto: write configuration: %w", err)
	}
	m := &Mosquitto{Addr: ports[0].addr()}
	m.Process = &Process{
		name:    "mosquitto on " + m.Addr,
		logPath: filepath.Join(dir, "mosquitto.log"),
		command: func() *exec.Cmd { return exec.Command(path, "-c", config) },
		ready:   func(ctx context.Context) error { return answersMQTT(ctx, m.Addr) },
		ports:   ports,
	}
	if err := m.Start(); err != nil {
		return nil, err
	}
	return m, nil
}

func mosquittoConfig(dir string, p port, opts []MosquittoOption) []byte {
	settings := map[string]string{
		"allow_anonymous":       "true",
		"user":                  "root", // started by root it would become user mosquitto, who cannot write dir; no effect for others
		"persistence":           "true",
		"persistence_location":  dir + "/", // the file name is appended as it stands
		"autosave_interval":     "1",
		"max_queued_messages":   "0", // unlimited; its own default drops after 1000
		"max_inflight_messages": "20",
		"log_dest":              "stderr",
		"log_timestamp_format":  "%Y-%m-%dT%H:%M:%S",
	}
	for _, opt := range opts {
		opt(settings)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "listener %d 127.0.0.1\n", p.number)
	for _, key := range slices.Sorted(maps.Keys(settings)) {
		fmt.Fprintf(&b, "%s %s\n", key, settings[key])
	}
	return []byte(b.String())
}

// answersMQTT sends a CONNECT of MQTT 3.1.1 with an empty client id and a clean
// session. Any CONNACK is an answer, also one that asks for a password.
func answersMQTT(ctx context.Context, addr string) error {
	dialer := net.Dialer{Timeout: 2 * time.Second}
	conn, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return fmt.Errorf("dial: %w", err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return fmt.Errorf("set deadline: %w", err)
	}
	connect := []byte{0x10, 12, 0, 4, 'M', 'Q', 'T', 'T', 4, 0x02, 0, 10, 0, 0}
	if _, err := conn.Write(connect); err != nil {
		return fmt.Errorf("send CONNECT to %s: %w", addr, err)
	}
	var connack [4]byte
	if _, err := io.ReadFull(conn, connack[:]); err != nil {
		return fmt.Errorf("read CONNACK from %s: %w", addr, err)
	}
	if connack[0] != 0x20 {
		return fmt.Errorf("read CONNACK from %s: got packet type %#x", addr, connack[0])
	}
	return nil
}
