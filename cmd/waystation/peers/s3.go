package peers

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// VersityVersion is the release of the Versity S3 Gateway the tests run. The
// same number stands in .ci/interop-deps; a test holds the two together.
const VersityVersion = "v1.8.0"

// Keys and region of the one account that an S3 has.
const (
	S3Access = "TESTACCESSKEY"
	S3Secret = "a-secret+of/the=tests" // with what has to be escaped
	S3Region = "eu-central-1"
)

// S3 is a real S3 server, versitygw, with its objects as files. It checks
// signatures, and the hash of what is sent.
type S3 struct {
	URL string
	*Process
}

// StartS3 starts a server with its objects and log in dir, and returns once it
// takes connections. With a certificate it speaks https, nil = http.
func StartS3(dir string, cert *Issued) (*S3, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("start S3 in %s: %w", dir, err)
	}
	path := filepath.Join(Cache(), "versitygw-"+VersityVersion)
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("start S3: find %s: %w", path, ErrNotInstalled)
	}
	ports, err := holdPorts(dir, 1)
	if err != nil {
		return nil, fmt.Errorf("start S3 in %s: %w", dir, err)
	}
	data, meta := filepath.Join(dir, "objects"), filepath.Join(dir, "metadata")
	for _, d := range []string{data, meta} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("start S3: %w", err)
		}
	}
	addr := ports[0].addr()
	args := []string{"--port", addr, "--region", S3Region}
	s := &S3{URL: "http://" + addr}
	if cert != nil {
		s.URL = "https://" + addr
		args = append(args, "--cert", cert.Cert, "--key", cert.Key)
	}
	args = append(args, "posix", "--sidecar", meta, data) // not every temporary folder has extended attributes
	s.Process = &Process{
		name:    "versitygw on " + addr,
		logPath: filepath.Join(dir, "versitygw.log"),
		command: func() *exec.Cmd {
			cmd := exec.Command(path, args...)
			cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY_ID="+S3Access, "ROOT_SECRET_ACCESS_KEY="+S3Secret)
			return cmd
		},
		ready: func(ctx context.Context) error {
			conn, err := (&net.Dialer{Timeout: 2 * time.Second}).DialContext(ctx, "tcp", addr)
			if err != nil {
				return err
			}
			return conn.Close()
		},
		ports: ports,
	}
	if err := s.Start(); err != nil {
		return nil, err
	}
	return s, nil
}
