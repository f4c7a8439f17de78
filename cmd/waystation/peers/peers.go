// Package peers starts real foreign programs for the interop tests: an Apache
// Kafka broker, a mosquitto broker, and kcat as a consumer that shares no code
// with ours.
//
// Nothing here stands in for a missing program. When one is absent the error
// names .ci/interop-deps, the script that installs it, and the test fails.
//
// Every program runs as a child of the test, listens on 127.0.0.1 only, and is
// killed by the kernel when the test process dies in any way. The package runs
// on Linux only, as it relies on that.
package peers

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// KafkaVersion is the release of Apache Kafka the tests run. The same number
// stands in .ci/kafka/pom.xml; a test holds the two together.
const KafkaVersion = "4.1.1"

// ErrNotInstalled says that a foreign program or its data is absent here.
var ErrNotInstalled = errors.New("not installed: run .ci/interop-deps")

// Cache is the folder that .ci/interop-deps fills: $WAYSTATION_CACHE, or
// ~/.cache/waystation without it.
func Cache() string {
	if dir := os.Getenv("WAYSTATION_CACHE"); dir != "" {
		return dir
	}
	home, err := os.UserHomeDir()
	if err != nil {
		home = os.TempDir() // nothing will be found there, and that error tells what to do
	}
	return filepath.Join(home, ".cache", "waystation")
}

// Plaka is the path of plaka.log, some 116,000 NMEA 0183 sentences recorded
// from the instruments of a sailing boat.
func Plaka() (string, error) {
	path := filepath.Join(Cache(), "plaka.log")
	if info, err := os.Stat(path); err != nil || info.Size() == 0 {
		return "", fmt.Errorf("find recorded NMEA log %s: %w", path, ErrNotInstalled)
	}
	return path, nil
}

// kafkaClasspath reads the Java classpath of the broker and checks that every
// jar of it is still there, as another program may have emptied Maven's folder.
func kafkaClasspath() (string, error) {
	path := filepath.Join(Cache(), "kafka-"+KafkaVersion+".cp")
	text, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read Kafka classpath %s: %w", path, ErrNotInstalled)
	}
	classpath := strings.TrimSpace(string(text))
	for _, jar := range filepath.SplitList(classpath) {
		if _, err := os.Stat(jar); err != nil {
			return "", fmt.Errorf("find Kafka jar %s: %w", jar, ErrNotInstalled)
		}
	}
	if classpath == "" {
		return "", fmt.Errorf("read Kafka classpath %s: it is empty: %w", path, ErrNotInstalled)
	}
	return classpath, nil
}

// program finds an executable in PATH, and in the sbin folders that Debian
// leaves out of an ordinary user's PATH.
func program(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/usr/local/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("find program %s: %w", name, ErrNotInstalled)
}
