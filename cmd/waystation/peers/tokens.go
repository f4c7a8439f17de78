package peers

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// TokenServer is a small authorization server on loopback: it issues signed JWTs
// (RS256) for client credentials (RFC 6749 section 4.4) and shows its key (RFC 7517).
type TokenServer struct {
	URL      string // of the token endpoint
	JWKS     string // of the key
	Issued   atomic.Int64
	Down     atomic.Bool // answer 503
	audience string
	clients  map[string]string
	life     time.Duration
	key      *rsa.PrivateKey
	server   *http.Server
}

// StartTokenServer starts a server for clients (id to secret), whose tokens live
// for life and are for audience. Close ends it.
func StartTokenServer(clients map[string]string, audience string, life time.Duration) (*TokenServer, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, fmt.Errorf("start token server: %w", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("start token server: %w", err)
	}
	base := "http://" + l.Addr().String()
	s := &TokenServer{URL: base + "/token", JWKS: base + "/jwks", audience: audience, clients: clients, life: life, key: key}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /token", s.token)
	mux.HandleFunc("GET /jwks", s.keys)
	s.server = &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() {
		if err := s.server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			panic(err)
		}
	}()
	return s, nil
}

// Close ends the server.
func (s *TokenServer) Close() error { return s.server.Close() }

func (s *TokenServer) token(w http.ResponseWriter, q *http.Request) {
	id, secret, ok := q.BasicAuth()
	if !ok {
		id, secret = q.PostFormValue("client_id"), q.PostFormValue("client_secret")
	}
	w.Header().Set("Content-Type", "application/json")
	switch {
	case s.Down.Load():
		w.WriteHeader(http.StatusServiceUnavailable)
	case s.clients[id] == "" || s.clients[id] != secret:
		w.WriteHeader(http.StatusUnauthorized)
		// A careless server repeats what it was given.
		_ = json.NewEncoder(w).Encode(map[string]string{"error": "invalid_client", "error_description": "secret " + secret + " is wrong"})
	default:
		n := s.Issued.Add(1)
		now := time.Now()
		text, err := s.sign(map[string]any{"sub": id, "aud": s.audience, "iss": "peers", "scope": "kafka",
			"iat": now.Unix(), "exp": now.Add(s.life).Unix(), "jti": fmt.Sprint(n)})
		if err != nil {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"access_token": text, "token_type": "Bearer", "expires_in": int(s.life.Seconds())})
	}
}

func (s *TokenServer) sign(claims map[string]any) (string, error) {
	body, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	encode := base64.RawURLEncoding.EncodeToString
	text := encode([]byte(`{"alg":"RS256","typ":"JWT","kid":"peers"}`)) + "." + encode(body)
	sum := sha256.Sum256([]byte(text))
	signature, err := rsa.SignPKCS1v15(rand.Reader, s.key, crypto.SHA256, sum[:])
	return text + "." + encode(signature), err
}

func (s *TokenServer) keys(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	encode := base64.RawURLEncoding.EncodeToString
	_ = json.NewEncoder(w).Encode(map[string]any{"keys": []map[string]string{{"kty": "RSA", "use": "sig", "alg": "RS256", "kid": "peers",
		"n": encode(s.key.N.Bytes()), "e": encode(big.NewInt(int64(s.key.E)).Bytes())}}})
}
