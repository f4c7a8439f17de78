package kafka

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"strings"
)

// maxRegistryAnswer bounds what is read of an answer.
const maxRegistryAnswer = 1 << 20

// SchemaRequest is the body of a request that registers a schema, or looks one
// up, in Confluent's API.
func SchemaRequest(encoding, schema string) ([]byte, error) {
	body := struct {
		Schema string `json:"schema"`
		Type   string `json:"schemaType,omitempty"` // Avro is what a registry takes it for
	}{Schema: schema}
	switch encoding {
	case wordProtobuf:
		body.Type = "PROTOBUF"
	case wordJSON:
		body.Type = "JSON"
	}
	return json.Marshal(body)
}

// client makes a client. Files are read anew each time, so that renewed
// certificates are taken up.
func (g *registry) client() (*http.Client, error) {
	cfg, err := g.cfg.TLS.Config(g.env.Dir)
	if err != nil {
		return nil, fmt.Errorf("schema_registry: %w", err)
	}
	return &http.Client{Transport: &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSClientConfig: cfg, ForceAttemptHTTP2: true,
	}}, nil
}

// authorize puts the log-in into a request.
func (g *registry) authorize(r *http.Request) error {
	if g.cfg.Token != "" {
		token, err := g.cfg.Token.Reveal(g.env.Dir)
		if err != nil {
			return fmt.Errorf("read schema_registry.token: %w", err)
		}
		r.Header.Set("Authorization", "Bearer "+token)
	}
	if g.cfg.User != "" {
		password, err := g.cfg.Password.Reveal(g.env.Dir)
		if err != nil {
			return fmt.Errorf("read schema_registry.password: %w", err)
		}
		r.SetBasicAuth(g.cfg.User, password)
	}
	return nil
}

// ask gets the id from the first address that answers.
func (g *registry) ask(ctx context.Context, subject string) (uint32, error) {
	if g.http == nil {
		client, err := g.client()
		if err != nil {
			return 0, err
		}
		g.http = client
	}
	body, err := SchemaRequest(g.kind, g.schema)
	if err != nil {
		return 0, err
	}
	var silent []error
	for _, base := range g.cfg.URLs {
		id, err := g.askOne(ctx, question{strings.TrimRight(base, "/"), subject, body})
		var no *refusedSchema
		if err == nil || errors.As(err, &no) {
			return id, err
		}
		silent = append(silent, err)
	}
	return 0, fmt.Errorf("%w (records wait in the queue until it answers)", errors.Join(silent...))
}

// question is what is asked of one address.
type question struct {
	base, subject string
	body          []byte
}

// askOne asks one address.
func (g *registry) askOne(ctx context.Context, q question) (uint32, error) {
	verb, path := "register", "/subjects/"+url.PathEscape(q.subject)+"/versions"
	if g.cfg.Register == wordLookup {
		verb, path = "look up", "/subjects/"+url.PathEscape(q.subject)
	}
	what := fmt.Sprintf("%s schema of %s at %s", verb, q.subject, q.base)
	ctx, cancel := context.WithTimeout(ctx, g.cfg.Timeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, q.base+path, bytes.NewReader(q.body))
	if err != nil {
		return 0, fmt.Errorf("%s: %w", what, err)
	}
	r.Header.Set("Content-Type", "application/vnd.schemaregistry.v1+json")
	r.Header.Set("Accept", "application/vnd.schemaregistry.v1+json, application/json")
	if err := g.authorize(r); err != nil {
		return 0, fmt.Errorf("%s: %w", what, err)
	}
	answer, err := g.http.Do(r)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", what, bare(err))
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxRegistryAnswer))
	if err != nil {
		return 0, fmt.Errorf("%s: read the answer: %w", what, err)
	}
	return g.read(what, q, answer.StatusCode, text)
}

// bare takes the address off an error: it is said already.
func bare(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// read takes an answer. A server that is not itself, and one that is busy,
// counts as silent.
func (g *registry) read(what string, q question, status int, text []byte) (uint32, error) {
	var doc struct {
		ID      int64  `json:"id"`
		Code    int    `json:"error_code"`
		Message string `json:"message"`
	}
	parsed := json.Unmarshal(text, &doc) == nil
	switch {
	case status >= 200 && status < 300:
		if !parsed || doc.ID < 1 || doc.ID > math.MaxInt32 {
			return 0, fmt.Errorf("%s: the answer %.80q is not that of a schema registry", what, text)
		}
		return uint32(doc.ID), nil
	case status >= 500, status == http.StatusRequestTimeout, status == http.StatusTooManyRequests, status < 400:
		return 0, fmt.Errorf("%s: %d %s", what, status, cmp.Or(doc.Message, http.StatusText(status)))
	}
	return 0, &refusedSchema{what: what, status: status, code: doc.Code, text: cmp.Or(doc.Message, http.StatusText(status)),
		hint: g.hint(q.base, q.subject, status, doc.Code)}
}
