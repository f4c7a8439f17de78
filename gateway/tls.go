package gateway

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
)

// TLS are the options of a secured connection, shared by the adapters. There
// is no option to skip the verification of the far side.
type TLS struct {
	CA         string `yaml:"ca" doc:"File with the certificates (PEM) of the authorities to trust; the system's when empty."`
	Cert       string `yaml:"cert" doc:"File with our certificate (PEM) for mutual TLS."`
	Key        string `yaml:"key" doc:"File with the private key (PEM) of cert."`
	ServerName string `yaml:"server_name" doc:"Name the far side's certificate must carry, when it is not the host of the address."`
}

// Validate returns every fault.
func (t *TLS) Validate() error {
	if (t.Cert == "") != (t.Key == "") {
		return &FieldError{Key: "tls.cert", Msg: "cert and key must be given together"}
	}
	return nil
}

// Config reads the files, relative ones below dir.
func (t *TLS) Config(dir string) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName}
	if t.CA != "" {
		pem, err := os.ReadFile(InDir(dir, t.CA))
		if err != nil {
			return nil, fmt.Errorf("read tls.ca: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read tls.ca %s: %w", t.CA, errors.New("no PEM certificate in it"))
		}
	}
	if t.Cert != "" {
		pair, err := tls.LoadX509KeyPair(InDir(dir, t.Cert), InDir(dir, t.Key))
		if err != nil {
			return nil, fmt.Errorf("read tls.cert and tls.key: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}
