package gateway

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"
)

// TLSHint says what a person must do about an error of a secured connection,
// "" when err is not one that we know. now is what the clock says.
func TLSHint(err error, now time.Time) string {
	var invalid x509.CertificateInvalidError
	var name x509.HostnameError
	var unknown x509.UnknownAuthorityError
	var record tls.RecordHeaderError
	switch {
	case err == nil:
		return ""
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return expiredHint(invalid.Cert, now)
	case errors.As(err, &name):
		return fmt.Sprintf("the server's certificate is for %s: use one of these as address, or set tls.server_name to one; or have the name %s put into the certificate",
			namesOf(name.Certificate), name.Host)
	case errors.As(err, &unknown):
		return "set tls.ca to the file with the certificate of the authority that signed the server's" + issuerOf(unknown.Cert)
	case errors.As(err, &record):
		return "the server does not speak TLS on this port: use its TLS port, or set tls.enabled: false if the link is trusted"
	}
	return alertHint(err.Error())
}

// expiredHint tells an old certificate from a wrong clock.
func expiredHint(cert *x509.Certificate, now time.Time) string {
	date := now.UTC().Format(time.DateOnly)
	switch {
	case now.Unix() < oldestBelievable:
		return "the clock says " + date + ": is it set? Certificates cannot be checked before it is"
	case cert != nil && now.Before(cert.NotBefore):
		return fmt.Sprintf("the server's certificate is valid from %s on and the clock says %s: is the clock right?", cert.NotBefore.UTC().Format(time.DateOnly), date)
	case cert != nil:
		return fmt.Sprintf("the server's certificate ended on %s: renew it on the server; the clock says %s", cert.NotAfter.UTC().Format(time.DateOnly), date)
	}
	return "renew the server's certificate; the clock says " + date
}

// alertHint explains what the far side said before it closed the connection
// (RFC 8446 section 6.2). crypto/tls does not export the type.
func alertHint(text string) string {
	if !strings.Contains(text, "remote error: tls: ") {
		return ""
	}
	const ours = "the server does not accept our certificate"
	for _, a := range []struct{ alert, hint string }{
		{"certificate required", "the server wants a certificate of ours: set tls.cert and tls.key"},
		{"expired certificate", ours + ": it ended; put a new one in the place of tls.cert and tls.key"},
		{"unknown certificate authority", ours + ": it does not trust the authority that signed tls.cert"},
		{"bad certificate", ours + ", or wants one and got none: set tls.cert and tls.key to one signed by an authority that the server trusts"},
		{"unknown certificate", ours + ": have tls.cert signed by an authority that the server trusts"},
		{"unsupported certificate", ours + ": it must be allowed for client authentication (extended key usage)"},
		{"revoked certificate", ours + ": it was revoked; have a new one issued"},
		{"protocol version not supported", "the server is too old: it must speak TLS 1.2 or 1.3"},
		{"handshake failure", "the server refused the connection: it may want a certificate of ours (tls.cert, tls.key), or there is no cipher that both know"},
	} {
		if strings.Contains(text, a.alert) {
			return a.hint
		}
	}
	return ""
}

// namesOf lists what a certificate is for.
func namesOf(cert *x509.Certificate) string {
	if cert == nil {
		return "another name"
	}
	names := append([]string(nil), cert.DNSNames...)
	for _, ip := range cert.IPAddresses {
		names = append(names, ip.String())
	}
	if len(names) == 0 {
		return "no host name (subject " + cert.Subject.String() + ")"
	}
	const most = 5
	if len(names) > most {
		return strings.Join(names[:most], ", ") + " and others"
	}
	return strings.Join(names, ", ")
}

func issuerOf(cert *x509.Certificate) string {
	if cert == nil || cert.Issuer.String() == "" {
		return ""
	}
	return " (" + cert.Issuer.String() + ")"
}
