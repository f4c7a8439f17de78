package config

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"strconv"

	"github.com/waystation-iot/waystation/gateway"
)

// HTTP says where the status page and the API listen, and whom they answer.
type HTTP struct {
	Listen string         `yaml:"listen" doc:"Address and port of status page, API and metrics. Other than a loopback address it needs tls, and a token or tls.client_ca. Empty: off."`
	Token  gateway.Secret `yaml:"token" example:"file:http.token" doc:"Token that callers must show (Authorization: Bearer TOKEN), at least 16 characters, as file:PATH, env:NAME or credential:NAME. /healthz is open without it. Empty: none is asked for."`
	TLS    HTTPTLS        `yaml:"tls" doc:"Encryption of status page, API and metrics."`
}

// HTTPTLS says with what the API is encrypted.
type HTTPTLS struct {
	Cert     string `yaml:"cert" doc:"File with our certificate (PEM), and those of its authorities."`
	Key      string `yaml:"key" doc:"File with its private key (PEM)."`
	ClientCA string `yaml:"client_ca" doc:"File with the certificates (PEM) of the authorities whose clients are answered (mutual TLS). /healthz is open to others too. Empty: clients need no certificate."`
}

// minToken is the least number of characters of a token: shorter ones can be guessed.
const minToken = 16

// Config reads the files, relative ones below dir; nil when there is no TLS. A
// client without a certificate gets a connection, for /healthz.
func (t *HTTPTLS) Config(dir string) (*tls.Config, error) {
	if t.Cert == "" {
		return nil, nil
	}
	pair, err := tls.LoadX509KeyPair(gateway.InDir(dir, t.Cert), gateway.InDir(dir, t.Key))
	if err != nil {
		return nil, fmt.Errorf("read http.tls.cert and http.tls.key: %w", err)
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}, NextProtos: []string{"http/1.1"}}
	if t.ClientCA == "" {
		return c, nil
	}
	pem, err := os.ReadFile(gateway.InDir(dir, t.ClientCA))
	if err != nil {
		return nil, fmt.Errorf("read http.tls.client_ca: %w", err)
	}
	c.ClientCAs, c.ClientAuth = x509.NewCertPool(), tls.VerifyClientCertIfGiven
	if !c.ClientCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("read http.tls.client_ca %s: no PEM certificate in it", t.ClientCA)
	}
	return c, nil
}

// loopback reports whether an address and port is of this machine alone.
func loopback(addr string) bool {
	host, _, _ := net.SplitHostPort(addr)
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// checkHTTP checks the section http. It reads the files of tls.
func (f *filler) checkHTTP(root *node) {
	h := &f.cfg.HTTP
	bad := func(key, hint, format string, args ...any) {
		f.check(root, "", &gateway.FieldError{Key: "http." + key, Msg: fmt.Sprintf(format, args...), Hint: hint})
	}
	if h.Listen == "" {
		return
	}
	_, port, err := net.SplitHostPort(h.Listen)
	if n, perr := strconv.ParseUint(port, 10, 16); err != nil || perr != nil || n > 65535 {
		bad("listen", "empty text switches it off", "must be address and port such as 127.0.0.1:8100")
		return
	}
	if (h.TLS.Cert == "") != (h.TLS.Key == "") {
		bad("tls.cert", "", "cert and key must be given together")
		return
	}
	if h.TLS.ClientCA != "" && h.TLS.Cert == "" {
		bad("tls.client_ca", "give tls.cert and tls.key", "needs a certificate of our own: without TLS no client shows one")
		return
	}
	if _, err := h.TLS.Config(f.rep.dir); err != nil {
		bad("tls.cert", "", "%s", err)
	}
	if h.Token != "" && !f.faulty("http.token") {
		text, err := h.Token.Reveal(f.rep.dir)
		if err == nil && len(text) < minToken {
			bad("token", "make one with: head -c 32 /dev/urandom | base64 > http.token; chmod 600 http.token", "has %d characters: at least %d", len(text), minToken)
		}
	}
	if loopback(h.Listen) {
		return
	}
	instead := "or listen on 127.0.0.1:" + port + " and reach it through ssh -L"
	switch {
	case h.Token == "" && h.TLS.ClientCA == "":
		bad("listen", "set http.token, or http.tls.client_ca, and http.tls.cert and key; "+instead,
			"%q is reachable from other machines, which needs a token or mTLS, and TLS", clip(h.Listen, 60))
	case h.TLS.Cert == "":
		bad("listen", "set http.tls.cert and http.tls.key; "+instead,
			"%q is reachable from other machines, which needs TLS: a token in plain text can be read on the way", clip(h.Listen, 60))
	}
}
