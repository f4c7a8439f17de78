package observe

import (
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"net"
	"net/http"
	"strings"
)

// Listener says where a server listens and whom it answers.
type Listener struct {
	Addr  string
	Token string      // a caller must show it, except to /healthz; "" = none
	TLS   *tls.Config // nil = plain HTTP, for loopback
}

// guard answers only whom it should:
//
//   - who shows the token, if there is one, and a certificate of the authorities
//     of the listener, if it has such; /healthz is open to all;
//   - on loopback without a token, who calls us by an address or as localhost:
//     a page of another site whose name was made to point here (DNS rebinding)
//     does not;
//   - a browser that changes something, only from our own origin. Requests that
//     change something and come without a preflight must be JSON besides,
//     which no form can send; DELETE is never sent without one.
func guard(next http.Handler, l *Listener) http.Handler {
	want, certs := sha256.Sum256([]byte(l.Token)), l.TLS != nil && l.TLS.ClientCAs != nil
	same := http.NewCrossOriginProtection().Handler(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/healthz":
		case certs && (r.TLS == nil || len(r.TLS.VerifiedChains) == 0):
			http.Error(w, "show a certificate of the authorities of http.tls.client_ca of the configuration (waystation status --cert FILE --key FILE)", http.StatusUnauthorized)
			return
		case l.Token != "":
			got := sha256.Sum256([]byte(bearer(r)))
			if subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
				w.Header().Set("WWW-Authenticate", `Bearer realm="waystation"`)
				http.Error(w, "show the token of http.token of the configuration: Authorization: Bearer TOKEN (waystation status --token-file FILE)", http.StatusUnauthorized)
				return
			}
		case l.TLS == nil && !local(r.Host):
			http.Error(w, "call this gateway by its address or as localhost: "+r.Host+" is a name", http.StatusForbidden)
			return
		}
		same.ServeHTTP(w, r)
	})
}

// bearer returns the token of a request, RFC 6750 section 2.1.
func bearer(r *http.Request) string {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

// local reports whether a Host header is an address or localhost.
func local(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.Trim(host, "[]")
	return strings.EqualFold(strings.TrimSuffix(host, "."), "localhost") || net.ParseIP(host) != nil
}
