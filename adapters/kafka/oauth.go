package kafka

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/IBM/sarama"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/waystation-iot/waystation/gateway"
)

const (
	// tokenShare is the part of its life after which a token is renewed. It is
	// less than the 85 % of a session's life after which sarama logs in again
	// (KIP-368), so that this is always done with a new token.
	tokenShare = 0.8
	// leastLeft is what a token has left, at least, when it is renewed: a broker
	// ends the connection of a client that logs in again within a second, as
	// sarama does with what little a session is worth that ends with its token.
	leastLeft = 3 * time.Second
	// endSlack is how long before its end a token is not used any more: its end
	// is in whole seconds, rounded down (RFC 7519 section 2).
	endSlack = 2 * time.Second
	// tokenLife is that of a token whose server does not tell (RFC 6749 section 5.1).
	tokenLife = 5 * time.Minute
	// tokenPause is how long a server that failed is left alone while the token
	// that we have is good.
	tokenPause = 5 * time.Second
)

// tokens are the access tokens of OAUTHBEARER (RFC 7628), had with the
// credentials of the client (RFC 6749 section 4.4, KIP-768). One is kept in
// memory until it is to be renewed. It implements sarama.AccessTokenProvider.
type tokens struct {
	conf  *OAuth
	creds *gateway.Credentials // of the token server: TLS and client_secret
	limit time.Duration        // for one request

	mu      sync.Mutex // guards what follows, and lets one request be made at a time
	token   string
	renew   time.Time // when to ask for another
	ends    time.Time
	next    time.Time // not before, after a failure
	trouble error     // of the last request
	date    time.Time // what the server's clock said in its last answer
	asked   time.Time // and ours then
	// The client is kept over requests: it remembers how the server wants to be
	// told the secret.
	client  *clientcredentials.Config
	version int // of creds, in client
}

func newTokens(c *Config, env gateway.Env) *tokens {
	o := &c.SASL.OAuth
	return &tokens{conf: o, limit: c.DialTimeout + c.RequestTimeout,
		creds: gateway.NewCredentials(env.Dir, &o.TLS, gateway.NamedSecret{Option: "sasl.oauth.client_secret", Secret: o.ClientSecret})}
}

// Token implements sarama.AccessTokenProvider. sarama asks at each log-in.
func (t *tokens) Token() (*sarama.AccessToken, error) {
	ctx, cancel := context.WithTimeout(context.Background(), t.limit)
	defer cancel()
	text, err := t.get(ctx)
	if err != nil {
		return nil, err
	}
	return &sarama.AccessToken{Token: text, Extensions: t.conf.Extensions}, nil
}

// get returns a token that is good, a new one when it is time.
func (t *tokens) get(ctx context.Context) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	good := t.token != "" && now.Before(t.ends)
	if good && (now.Before(t.renew) || now.Before(t.next)) {
		return t.token, nil
	}
	ctx, cancel := context.WithTimeout(ctx, t.limit)
	defer cancel()
	t.trouble = t.fetch(ctx)
	if t.trouble == nil {
		return t.token, nil
	}
	if t.next = now.Add(tokenPause); good {
		return t.token, nil
	}
	return "", t.trouble
}

// fetch asks the server for a token. mu is held.
func (t *tokens) fetch(ctx context.Context) error {
	if err := t.creds.Load(); err != nil {
		return fmt.Errorf("get a token: %w", err)
	}
	if v := t.creds.Version(); t.client == nil || v != t.version {
		t.version = v
		t.client = &clientcredentials.Config{ClientID: t.conf.ClientID, ClientSecret: t.creds.Secret(0), TokenURL: t.conf.TokenURL, Scopes: t.conf.Scopes}
		if t.conf.Audience != "" {
			t.client.EndpointParams = url.Values{"audience": {t.conf.Audience}}
		}
	}
	transport := &http.Transport{TLSClientConfig: t.creds.TLS(), Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true}
	client := &http.Client{Transport: &dated{transport, t}, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse // the secret goes nowhere else
	}}
	began := time.Now()
	got, err := t.client.Token(context.WithValue(ctx, oauth2.HTTPClient, client))
	if err != nil {
		return t.safe(err)
	}
	life := got.Expiry.Sub(began)
	if got.Expiry.IsZero() {
		life = tokenLife
	}
	t.token, t.ends = got.AccessToken, began.Add(max(life-endSlack, life/2))
	t.renew = began.Add(min(time.Duration(float64(life)*tokenShare), max(life-leastLeft, life/4)))
	return nil
}

// dated notes what the server's clock says.
type dated struct {
	http.RoundTripper
	t *tokens
}

// RoundTrip implements http.RoundTripper. mu of the tokens is held.
func (d *dated) RoundTrip(q *http.Request) (*http.Response, error) {
	began := time.Now()
	answer, err := d.RoundTripper.RoundTrip(q)
	if err != nil {
		return nil, err
	}
	if date, err := http.ParseTime(answer.Header.Get("Date")); err == nil {
		d.t.date, d.t.asked = date, began.Add(time.Since(began)/2)
	}
	return answer, nil
}

// tokenError says why there is no token. It holds nothing of the request and
// nothing of the answer's body, which may repeat secrets.
type tokenError struct {
	text string
	hint string
	err  error // of the network; nil when the server answered
}

func (e *tokenError) Error() string {
	if e.hint == "" {
		return e.text
	}
	return e.text + " (" + e.hint + ")"
}
func (e *tokenError) Unwrap() error { return e.err }

// safe makes an error that may be logged.
func (t *tokens) safe(err error) error {
	e := &tokenError{text: "get a token from " + t.server() + ": "}
	var answer *oauth2.RetrieveError
	var request *url.Error
	switch {
	case errors.As(err, &answer):
		e.text += "the server answered " + strconv.Itoa(answer.Response.StatusCode)
		known := []string{"invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "unsupported_grant_type", "invalid_scope"}
		if slices.Contains(known, answer.ErrorCode) { // RFC 6749 section 5.2
			e.text += " " + answer.ErrorCode
		}
		switch {
		case answer.ErrorCode == "invalid_scope":
			e.hint = "check sasl.oauth.scopes"
		case answer.Response.StatusCode < 500:
			e.hint = "check sasl.oauth.client_id, client_secret and token_url"
		}
	case errors.As(err, &request):
		e.err = request.Err // not the URL: it may hold secrets
		e.text += request.Err.Error()
		e.hint = gateway.TLSHint(request.Err, time.Now())
	default:
		e.text += "the answer holds no token"
		e.hint = "is sasl.oauth.token_url the token endpoint (RFC 6749 section 3.2)?"
	}
	return e
}

// server is the host of the token server.
func (t *tokens) server() string {
	if u, err := url.Parse(t.conf.TokenURL); err == nil {
		return u.Host
	}
	return "the token server"
}

// facts tells what is wrong with the tokens.
func (t *tokens) facts(now time.Time) (all []gateway.Fact) {
	for _, f := range t.creds.Facts(now) {
		f.Name = "token server: " + f.Name
		all = append(all, f)
	}
	if !t.mu.TryLock() {
		return all // a request is under way
	}
	defer t.mu.Unlock()
	if t.trouble != nil {
		all = append(all, gateway.Fact{Name: "token", Value: t.trouble.Error(), Warn: true})
	}
	return all
}

// given reports whether any option is set.
func (o *OAuth) given() bool { return o.TokenURL != "" || o.ClientID != "" || o.ClientSecret != "" }

// check finds what is wrong with the options.
func (o *OAuth) check(f *faults) {
	u, err := url.Parse(o.TokenURL)
	switch {
	case o.TokenURL == "":
		f.add("sasl.oauth.token_url", "is required", "for instance token_url: https://login.example/realms/fleet/protocol/openid-connect/token")
	case err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http"):
		f.add("sasl.oauth.token_url", "is not an https address", "for instance https://login.example/oauth2/token")
	case u.User != nil:
		f.add("sasl.oauth.token_url", "must not hold a password", "use client_id and client_secret")
	case u.Scheme == "http" && !loopback(u.Hostname()):
		f.add("sasl.oauth.token_url", "must be https: the secret and the tokens would travel in the clear", "http is allowed for a loopback address only")
	}
	if o.ClientID == "" {
		f.add("sasl.oauth.client_id", "is required", "")
	}
	if o.ClientSecret == "" {
		f.add("sasl.oauth.client_secret", "is required", "for instance client_secret: file:oauth-secret")
	}
	if (o.TLS.Cert == "") != (o.TLS.Key == "") {
		f.add("sasl.oauth.tls.cert", "cert and key are needed together", "")
	}
	for k, v := range o.Extensions {
		if !extension(k, v) {
			f.add("sasl.oauth.extensions", fmt.Sprintf("%q is not an extension: a name has letters only and is not auth, a value no control characters", k), "for instance {logicalCluster: lkc-1234}")
		}
	}
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// extension checks a key-value pair of RFC 7628 section 3.1.
func extension(k, v string) bool {
	for _, r := range k {
		if (r|0x20) < 'a' || (r|0x20) > 'z' {
			return false
		}
	}
	for _, r := range v {
		if (r < ' ' && r != '\t' && r != '\r' && r != '\n') || r > '~' {
			return false
		}
	}
	return k != "" && k != "auth"
}
