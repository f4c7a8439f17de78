package kafka

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

// tokenServer issues tokens "token-1", "token-2" …
type tokenServer struct {
	*httptest.Server
	asked  atomic.Int64
	answer atomic.Pointer[func(w http.ResponseWriter, q *http.Request)] // instead
}

func newTokenServer(t *testing.T, expires int) *tokenServer {
	t.Helper()
	s := &tokenServer{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		n := s.asked.Add(1)
		if f := s.answer.Load(); f != nil {
			(*f)(w, q)
			return
		}
		id, secret, _ := q.BasicAuth()
		if id != "gw" || secret != "geheim" || q.PostFormValue("scope") != "kafka more" || q.PostFormValue("audience") != "central" || q.PostFormValue("grant_type") != "client_credentials" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"access_token": "token-" + string(rune('0'+n)), "token_type": "Bearer", "expires_in": expires})
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *tokenServer) fail(f func(w http.ResponseWriter, q *http.Request)) { s.answer.Store(&f) }

// oauthConfig are the options of a sink that gets its tokens from s.
func oauthConfig(s *tokenServer) *Config {
	c := NewConfig()
	c.Brokers, c.Topic = []string{"127.0.0.1:1"}, "data"
	c.SASL = SASL{Mechanism: wordOAuth, OAuth: OAuth{TokenURL: s.URL + "/token?tenant=geheim-tenant", ClientID: "gw", ClientSecret: "geheim",
		Scopes: []string{"kafka", "more"}, Audience: "central", Extensions: map[string]string{"logicalCluster": "lkc-1"}}}
	return c
}

func TestTokens(t *testing.T) {
	s := newTokenServer(t, 100)
	c := oauthConfig(s)
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	k := newTokens(c, gateway.Env{})
	get := func() string {
		t.Helper()
		got, err := k.Token()
		if err != nil {
			t.Fatal(err)
		}
		if got.Extensions["logicalCluster"] != "lkc-1" {
			t.Error(got.Extensions)
		}
		return got.Token
	}
	if first, second := get(), get(); first != "token-1" || second != first || s.asked.Load() != 1 {
		t.Fatal("not kept", s.asked.Load())
	}
	if left := time.Until(k.renew); left > 80*time.Second || left < 70*time.Second {
		t.Fatalf("renewed in %s of 100 s", left)
	}
	k.renew = time.Now().Add(-time.Second)
	if get() != "token-2" {
		t.Fatal("not renewed before its end")
	}
	// The server is down: what we have goes on until its end, and the server is
	// not asked for each connection.
	s.fail(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	k.renew = time.Now().Add(-time.Second)
	if first, second := get(), get(); first != "token-2" || second != first || s.asked.Load() != 3 {
		t.Fatal("asked", s.asked.Load())
	}
	if all := k.facts(time.Now()); len(all) != 1 || !all[0].Warn || !strings.Contains(all[0].Value, "answered 503") {
		t.Fatal(all)
	}
	k.ends = time.Now()
	if _, err := k.Token(); err == nil {
		t.Fatal("a token that has ended was used")
	}
}

// TestTokenErrorsHoldNoSecret lets a careless server repeat what it is told.
func TestTokenErrorsHoldNoSecret(t *testing.T) {
	for name, x := range map[string]struct {
		answer func(w http.ResponseWriter, q *http.Request)
		want   string
	}{
		"repeats": {func(w http.ResponseWriter, q *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = w.Write([]byte(`{"error":"invalid_client","error_description":"geheim is wrong","error_uri":"http://x/geheim"}`))
		}, "answered 401 invalid_client (check sasl.oauth.client_id"},
		"own error": {func(w http.ResponseWriter, q *http.Request) {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = w.Write([]byte(`{"error":"geheim"}`))
		}, "answered 400"},
		"scope": {func(w http.ResponseWriter, q *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusBadRequest)
			_, _ = w.Write([]byte(`{"error":"invalid_scope"}`))
		}, "check sasl.oauth.scopes"},
		"no token": {func(w http.ResponseWriter, q *http.Request) { _, _ = w.Write([]byte(`{"token":"geheim"}`)) }, "holds no token"},
		"no JSON":  {func(w http.ResponseWriter, q *http.Request) { _, _ = w.Write([]byte("<html>geheim")) }, "holds no token"},
		"redirects": {func(w http.ResponseWriter, q *http.Request) {
			http.Redirect(w, q, "http://127.0.0.1:1/geheim", http.StatusTemporaryRedirect)
		}, "answered 307"},
		"hangs up": {func(w http.ResponseWriter, q *http.Request) {
			c, _, _ := http.NewResponseController(w).Hijack()
			_ = c.Close()
		}, "EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newTokenServer(t, 100)
			s.fail(x.answer)
			k := newTokens(oauthConfig(s), gateway.Env{})
			_, err := k.Token()
			if err == nil || !strings.Contains(err.Error(), x.want) {
				t.Fatalf("%v, want %q", err, x.want)
			}
			for e := err; e != nil; e = errors.Unwrap(e) {
				if strings.Contains(e.Error(), "geheim") {
					t.Errorf("%T holds a secret: %v", e, e)
				}
			}
		})
	}
}

// TestTokenSecretIsRenewed changes the file of the client's secret.
func TestTokenSecretIsRenewed(t *testing.T) {
	s := newTokenServer(t, 100)
	c := oauthConfig(s)
	dir := t.TempDir()
	c.SASL.OAuth.ClientSecret = "file:secret"
	path := filepath.Join(dir, "secret")
	if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	k := newTokens(c, gateway.Env{Dir: dir})
	if _, err := k.Token(); err == nil || !strings.Contains(err.Error(), "answered 401") {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("geheim\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Token(); err != nil {
		t.Fatal(err)
	}
}

func TestOAuthOptions(t *testing.T) {
	good := OAuth{TokenURL: "https://login.test/token", ClientID: "gw", ClientSecret: "s"}
	for name, x := range map[string]struct {
		change func(s *SASL)
		want   string
	}{
		"none":       {func(s *SASL) { s.OAuth = OAuth{} }, "sasl.oauth.token_url: is required"},
		"no secret":  {func(s *SASL) { s.OAuth.ClientSecret = "" }, "sasl.oauth.client_secret: is required"},
		"no id":      {func(s *SASL) { s.OAuth.ClientID = "" }, "sasl.oauth.client_id: is required"},
		"http":       {func(s *SASL) { s.OAuth.TokenURL = "http://login.test/token" }, "must be https"},
		"userinfo":   {func(s *SASL) { s.OAuth.TokenURL = "https://gw:geheim@login.test/token" }, "must not hold a password"},
		"no address": {func(s *SASL) { s.OAuth.TokenURL = "login" }, "is not an https address"},
		"user":       {func(s *SASL) { s.User = "gw" }, "user and password are not for oauthbearer"},
		"no oauth":   {func(s *SASL) { *s = SASL{OAuth: good} }, "sasl.mechanism: is required with oauth"},
		"plain":      {func(s *SASL) { s.Mechanism, s.User, s.Password = "plain", "u", "p" }, "sasl.oauth: is for mechanism oauthbearer only"},
		"auth":       {func(s *SASL) { s.OAuth.Extensions = map[string]string{"auth": "x"} }, `"auth" is not an extension`},
		"key":        {func(s *SASL) { s.OAuth.Extensions = map[string]string{"a-b": "x"} }, `"a-b" is not an extension`},
		"value":      {func(s *SASL) { s.OAuth.Extensions = map[string]string{"a": "x\x01auth=y"} }, `"a" is not an extension`},
		"half TLS":   {func(s *SASL) { s.OAuth.TLS.Cert = "x" }, "sasl.oauth.tls.cert: cert and key"},
	} {
		c := NewConfig()
		c.Brokers, c.Topic, c.SASL = []string{"k:1"}, "t", SASL{Mechanism: wordOAuth, OAuth: good}
		if err := c.Validate(); err != nil {
			t.Fatal(err)
		}
		x.change(&c.SASL)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), x.want) || strings.Contains(err.Error(), "geheim") {
			t.Errorf("%s: %v, want %q", name, err, x.want)
		}
	}
}
