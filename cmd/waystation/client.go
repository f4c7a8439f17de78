package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/waystation-iot/waystation/adapters"
	"github.com/waystation-iot/waystation/gateway"
	"github.com/waystation-iot/waystation/gateway/config"
)

// client asks a running gateway.
type client struct {
	base  string
	token string
	http  http.Client
}

// remote is where a gateway is and how it is asked, as flags say it.
type remote struct {
	url, token, config string
	tls                gateway.TLS
}

const defaultURL = "http://127.0.0.1:8100"

// remoteFlags adds --url and what belongs to it to fs and returns what makes
// the client after Parse.
func remoteFlags(fs *flag.FlagSet) func() (*client, error) {
	r := &remote{}
	fs.StringVar(&r.url, "url", "", "`address` of the gateway (http.listen of its configuration); "+defaultURL+" when neither it nor --config is given")
	fs.StringVar(&r.config, "config", "", "take address, token and certificate of the gateway from its configuration `FILE`")
	fs.StringVar(&r.token, "token-file", "", "`FILE` with the token of http.token, where one is asked for")
	fs.StringVar(&r.tls.CA, "ca", "", "`FILE` with the certificates to trust instead of the system's")
	fs.StringVar(&r.tls.Cert, "client-cert", "", "`FILE` with our certificate, where the gateway has http.tls.client_ca")
	fs.StringVar(&r.tls.Key, "client-key", "", "`FILE` with its private key")
	return r.client
}

// client makes the client.
func (r *remote) client() (*client, error) {
	if err := r.tls.Validate(); err != nil {
		return nil, errors.New("give --client-cert and --client-key together")
	}
	secure, err := r.tls.Config(".")
	if err != nil {
		return nil, err
	}
	c := &client{base: strings.TrimRight(cmp.Or(r.url, defaultURL), "/")}
	if r.config != "" {
		if err := r.fromConfig(c, secure); err != nil {
			return nil, err
		}
	}
	if !strings.Contains(c.base, "://") {
		c.base = "http://" + c.base
	}
	if r.token != "" {
		if c.token, err = gateway.Secret("file:" + r.token).Reveal("."); err != nil {
			return nil, err
		}
	}
	if c.token != "" && strings.HasPrefix(c.base, "http://") && !isLoopback(c.base) {
		return nil, fmt.Errorf("%s: a token is not sent in plain text: use https://", c.base)
	}
	c.http = http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{TLSClientConfig: secure, Proxy: http.ProxyFromEnvironment},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return c, nil
}

// fromConfig takes address, token and certificate from a configuration. The
// certificate of the gateway must be the very one of its file then, whatever
// name it carries: the file is as good a proof as an authority's word.
func (r *remote) fromConfig(c *client, secure *tls.Config) error {
	cfg, err := config.Load(r.config, adapters.All())
	if err != nil {
		return err
	}
	h := &cfg.HTTP
	if r.url == "" {
		if h.Listen == "" {
			return fmt.Errorf("%s: http.listen is off: the gateway cannot be asked", r.config)
		}
		host, port, err := net.SplitHostPort(h.Listen)
		if err != nil {
			return err
		}
		if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
			host = "127.0.0.1"
		}
		c.base = "http://" + net.JoinHostPort(host, port)
		if h.TLS.Cert != "" {
			c.base = "https://" + net.JoinHostPort(host, port)
		}
	}
	if c.token, err = h.Token.Reveal(cfg.Dir); err != nil {
		return err
	}
	own, err := h.TLS.Config(cfg.Dir)
	if err != nil || own == nil || r.tls.CA != "" {
		return err
	}
	leaf := own.Certificates[0].Certificate[0]
	secure.InsecureSkipVerify = true // VerifyConnection is stricter
	secure.VerifyConnection = func(s tls.ConnectionState) error {
		if len(s.PeerCertificates) == 0 || !bytes.Equal(s.PeerCertificates[0].Raw, leaf) {
			return errors.New("the certificate of the gateway is not that of http.tls.cert of the configuration: is it another gateway, or was it not restarted?")
		}
		return nil
	}
	return nil
}

// isLoopback reports whether a URL is of this machine.
func isLoopback(url string) bool {
	host := strings.TrimPrefix(url, "http://")
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// request sends a request with a JSON body, if there is one. The body of the
// answer must be closed. Answers other than 2xx are errors.
func (c *client) request(ctx context.Context, method, path string, body any) (*http.Response, error) {
	var text io.Reader
	if body != nil {
		p, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		text = bytes.NewReader(p)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, text)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	res, err := c.http.Do(req)
	if err != nil {
		if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
			return nil, fmt.Errorf("no gateway answers at %s: is it running? (see http.listen in its configuration, and --url)", c.base)
		}
		return nil, err
	}
	if res.StatusCode >= 200 && res.StatusCode < 300 {
		return res, nil
	}
	defer func() { _ = res.Body.Close() }()
	said, _ := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	if method == http.MethodGet {
		return nil, fmt.Errorf("get %s%s: %s: %s", c.base, path, res.Status, strings.TrimSpace(string(said)))
	}
	return nil, errors.New(cmp.Or(strings.TrimSpace(string(said)), res.Status))
}

// get reads a path into x.
func (c *client) get(ctx context.Context, path string, x any) error {
	return c.do(ctx, http.MethodGet, path, nil, x)
}

// do sends a request and reads the answer into x, unless x is nil.
func (c *client) do(ctx context.Context, method, path string, body, x any) error {
	res, err := c.request(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(res.Body, 64<<20))
	if err != nil {
		return fmt.Errorf("read %s%s: %w", c.base, path, err)
	}
	if x == nil {
		return nil
	}
	if err := json.Unmarshal(answer, x); err != nil {
		return fmt.Errorf("%s %s%s: not the answer of a gateway: %w", strings.ToLower(method), c.base, path, err)
	}
	return nil
}

// createNew makes a file that is not there yet.
func createNew(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("write %s: it exists: choose another directory, or remove it", path)
	}
	return f, err
}
