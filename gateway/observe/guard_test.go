package observe

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// What a browser sends for a page of another site changes nothing, and a name
// that was made to point at loopback is not answered.
func TestForeignPages(t *testing.T) {
	h := guard(Handler(View{Status: well, Letters: fakeLetters{}, Replays: nil}), &Listener{})
	for _, c := range []struct {
		method, host string
		header       [][2]string
		code         int
	}{
		{"DELETE", "127.0.0.1:8100", nil, 200}, // a program
		{"DELETE", "localhost:8100", nil, 200},
		{"DELETE", "[::1]:8100", nil, 200},
		{"DELETE", "127.0.0.1:8100", [][2]string{{"Origin", "http://127.0.0.1:8100"}, {"Sec-Fetch-Site", "same-origin"}}, 200},
		{"DELETE", "127.0.0.1:8100", [][2]string{{"Origin", "https://evil.example"}}, 403},
		{"DELETE", "127.0.0.1:8100", [][2]string{{"Origin", "null"}}, 403},
		{"DELETE", "127.0.0.1:8100", [][2]string{{"Sec-Fetch-Site", "cross-site"}}, 403},
		{"DELETE", "127.0.0.1:8100", [][2]string{{"Sec-Fetch-Site", "same-site"}}, 403},
		{"POST", "127.0.0.1:8100", [][2]string{{"Origin", "https://evil.example"}, {"Content-Type", "application/json"}}, 403},
		{"POST", "127.0.0.1:8100", [][2]string{{"Content-Type", "text/plain"}}, 415},
		{"DELETE", "evil.example:8100", [][2]string{{"Origin", "http://evil.example:8100"}, {"Sec-Fetch-Site", "same-origin"}}, 403},
		{"GET", "evil.example:8100", nil, 403},
		{"GET", "localhost.evil.example", nil, 403},
		{"GET", "127.0.0.1", nil, 200},
	} {
		path := "/api/v1/dead-letters?all=true"
		if c.method == "POST" {
			path = "/api/v1/dead-letters/retry"
		}
		r := httptest.NewRequest(c.method, path, strings.NewReader(`{"all":true}`))
		r.Host = c.host
		for _, kv := range c.header {
			r.Header.Set(kv[0], kv[1])
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != c.code {
			t.Errorf("%s to %s with %v: %d %s, want %d", c.method, c.host, c.header, w.Code, w.Body, c.code)
		}
	}
}

// With a token, nothing but /healthz answers without it; with authorities of
// clients, nothing but that answers without a certificate.
func TestTokenAndCertificate(t *testing.T) {
	const token = "0123456789abcdef"
	v := View{Status: well, Letters: fakeLetters{}}
	ask := func(l *Listener, path, auth string, state *tls.ConnectionState) int {
		r := httptest.NewRequest("GET", path, nil)
		r.Host, r.TLS = "ship-042.example:8100", state
		if auth != "" {
			r.Header.Set("Authorization", auth)
		}
		w := httptest.NewRecorder()
		guard(Handler(v), l).ServeHTTP(w, r)
		return w.Code
	}
	withToken := &Listener{Token: token, TLS: &tls.Config{MinVersion: tls.VersionTLS12}}
	withCerts := &Listener{TLS: &tls.Config{MinVersion: tls.VersionTLS12, ClientCAs: x509.NewCertPool()}}
	both := &Listener{Token: token, TLS: withCerts.TLS}
	known := &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{{}}}}
	for _, path := range []string{"/readyz", "/metrics", "/api/v1/status", "/api/v1/dead-letters", "/api/v1/dead-letters/export"} {
		for _, c := range []struct {
			l     *Listener
			auth  string
			state *tls.ConnectionState
			code  int
		}{
			{withToken, "", &tls.ConnectionState{}, http.StatusUnauthorized},
			{withToken, "Bearer " + token[1:], nil, http.StatusUnauthorized},
			{withToken, "Basic " + token, nil, http.StatusUnauthorized},
			{withToken, token, nil, http.StatusUnauthorized},
			{withToken, "Bearer " + token, nil, http.StatusOK},
			{withToken, "bearer  " + token, nil, http.StatusOK},
			{withCerts, "", &tls.ConnectionState{}, http.StatusUnauthorized},
			{withCerts, "", nil, http.StatusUnauthorized},
			{withCerts, "", known, http.StatusOK},
			{both, "", known, http.StatusUnauthorized},
			{both, "Bearer " + token, &tls.ConnectionState{}, http.StatusUnauthorized},
			{both, "Bearer " + token, known, http.StatusOK},
		} {
			if code := ask(c.l, path, c.auth, c.state); code != c.code {
				t.Errorf("%s with %q: %d, want %d", path, c.auth, code, c.code)
			}
		}
		if code := ask(both, "/healthz", "", nil); code != http.StatusOK {
			t.Errorf("/healthz: %d", code)
		}
	}
}
