package kafka

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

const (
	// partBytes is the size of a part: the least that S3 takes but for the last
	// one ("Amazon S3 multipart upload limits"). It is what a lost link costs.
	partBytes = 5 << 20
	// stallAfter ends a request of which nothing has moved for so long.
	stallAfter = 2 * time.Minute
	// maxAnswer bounds what is read of an answer.
	maxAnswer = 64 << 10
	metaHash  = "X-Amz-Meta-Sha256"
	emptyHash = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" // SHA-256 of nothing
)

// s3Store speaks the protocol of Amazon S3 (API version 2006-03-01). Every
// request is signed over the hash of what it carries (Signature Version 4), so
// that the store refuses a part that was changed on the way.
type s3Store struct {
	opt    *Store
	dir    string // of the configuration
	base   *url.URL
	client *http.Client
	signer *v4.Signer
	part   int64         // size of a part, bytes
	stall  time.Duration // see stallAfter
	skew   time.Duration // what our clock is behind that of the store
}

// multipart is an upload that is under way, as it is kept over restarts.
type multipart struct {
	ID    string       `json:"id"`
	Part  int64        `json:"part_bytes"`
	Parts []storedPart `json:"parts"` // from the first on
}

// storedPart is a part that the store has confirmed.
type storedPart struct {
	ETag string `json:"etag"`
}

func newS3(opt *Store, dir string) *s3Store {
	base, _ := url.Parse(opt.Endpoint) // checked by Validate
	if !opt.PathStyle {
		base.Host = opt.Bucket + "." + base.Host
	}
	return &s3Store{opt: opt, dir: dir, base: base, part: partBytes, stall: stallAfter,
		signer: v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true })}
}

func (s *s3Store) id() string { return "s3 " + s.opt.Endpoint + " " + s.opt.Bucket }

func (s *s3Store) url(key string) string { return "s3://" + s.opt.Bucket + "/" + key }

// connect makes the client. Certificates are read when they are needed: they
// may be renewed, or not be there yet.
func (s *s3Store) connect() error {
	if s.client != nil {
		return nil
	}
	var secure *tls.Config
	if s.base.Scheme == "https" {
		c, err := s.opt.TLS.Config(s.dir)
		if err != nil {
			return err
		}
		secure = c
	}
	s.client = &http.Client{
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, TLSClientConfig: secure, ForceAttemptHTTP2: false,
			DialContext:         (&net.Dialer{Timeout: 15 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
			TLSHandshakeTimeout: 15 * time.Second, ExpectContinueTimeout: 5 * time.Second,
			MaxIdleConns: 1, IdleConnTimeout: time.Minute, DisableCompression: true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return nil
}

// forget closes what is open, so that the next request begins anew.
func (s *s3Store) forget() {
	if s.client != nil {
		s.client.CloseIdleConnections()
		s.client = nil
	}
}

// put implements objectStore.
func (s *s3Store) put(ctx context.Context, u *upload) error {
	if err := s.connect(); err != nil {
		return err
	}
	err := s.store(ctx, u)
	if err != nil {
		s.forget()
		return fmt.Errorf("store %s at %s: %w", s.url(u.claim.Key), s.opt.Endpoint, err)
	}
	return nil
}

func (s *s3Store) store(ctx context.Context, u *upload) error {
	c := u.claim
	if c.Sent {
		return s.confirm(ctx, u)
	}
	if c.Upload == nil {
		err := s.check(ctx, c)
		if err == nil || ctx.Err() != nil || !tells(err) {
			return err // it is there already, from before a crash; or the store does not answer now
		}
	}
	var err error
	if c.Bytes <= s.part {
		u.moved(0)
		head := http.Header{"Content-Type": {c.Type}, metaHash: {c.SHA256}}
		_, err = s.call(ctx, &s3Request{method: http.MethodPut, key: c.Key, head: head, up: u, size: c.Bytes})
	} else {
		err = s.parts(ctx, u)
	}
	var answer *s3Error
	if errors.As(err, &answer) && answer.stale() { // the store has forgotten it, or has it otherwise than we do
		c.Upload = nil
		return errors.Join(fmt.Errorf("begin the upload anew: %s", answer.Code), u.keep())
	}
	if err != nil {
		return err
	}
	c.Sent, c.Upload = true, nil
	if err := u.keep(); err != nil {
		return err
	}
	return s.confirm(ctx, u)
}

// parts sends what the store does not have yet and puts it together.
func (s *s3Store) parts(ctx context.Context, u *upload) error {
	c := u.claim
	if c.Upload == nil {
		head := http.Header{"Content-Type": {c.Type}, metaHash: {c.SHA256}}
		answer, err := s.call(ctx, &s3Request{method: http.MethodPost, key: c.Key, query: url.Values{"uploads": {""}}, head: head})
		if err != nil {
			return err
		}
		id, err := uploadID(answer.body)
		if err != nil {
			return err
		}
		c.Upload = &multipart{ID: id, Part: s.part}
		if err := u.keep(); err != nil {
			return err
		}
	}
	m := c.Upload
	u.moved(0)
	u.moved(min(int64(len(m.Parts))*m.Part, c.Bytes))
	for at := int64(len(m.Parts)) * m.Part; at < c.Bytes; at = int64(len(m.Parts)) * m.Part {
		query := url.Values{"partNumber": {strconv.Itoa(len(m.Parts) + 1)}, "uploadId": {m.ID}}
		answer, err := s.call(ctx, &s3Request{method: http.MethodPut, key: c.Key, query: query, up: u, from: at, size: min(m.Part, c.Bytes-at)})
		if err != nil {
			return err
		}
		etag := answer.head.Get("ETag")
		if etag == "" {
			return errors.New("the answer to a part has no ETag")
		}
		m.Parts = append(m.Parts, storedPart{etag})
		if err := u.keep(); err != nil {
			return err
		}
	}
	answer, err := s.call(ctx, &s3Request{method: http.MethodPost, key: c.Key, query: url.Values{"uploadId": {m.ID}}, text: completion(m)})
	if err != nil {
		return err
	}
	return embeddedError(answer.body) // "200 OK" may carry an error (CompleteMultipartUpload)
}

// confirm makes sure that the object is there. What was sent is sent again
// only if the store says that it does not have it: the link may be dear.
func (s *s3Store) confirm(ctx context.Context, u *upload) error {
	err := s.check(ctx, u.claim)
	if err == nil {
		return nil
	}
	var answer *s3Error
	forbidden := errors.As(err, &answer) && answer.status == http.StatusForbidden
	if forbidden && answer.request != "" && !answer.passing() {
		return &storeRefusal{fmt.Errorf("check the object: %w (allow s3:GetObject: what was stored must be seen to be there)", err)}
	}
	err = fmt.Errorf("check the object: %w", err)
	if ctx.Err() != nil || forbidden || !tells(err) {
		return err
	}
	u.claim.Sent = false
	return errors.Join(err, u.keep())
}

// check asks whether the store has the object of a claim: its size, and the
// hash that was sent with it.
func (s *s3Store) check(ctx context.Context, c *claim) error {
	answer, err := s.call(ctx, &s3Request{method: http.MethodHead, key: c.Key})
	if err != nil {
		return err
	}
	if n, sum := answer.length, answer.head.Get(metaHash); n != c.Bytes || sum != c.SHA256 {
		return &otherObject{fmt.Sprintf("the store has %d bytes with hash %q, not %d with %s", n, sum, c.Bytes, c.SHA256)}
	}
	return nil
}

// s3Request is one request.
type s3Request struct {
	method, key string
	query       url.Values
	head        http.Header
	text        []byte // the body, or:
	up          *upload
	from, size  int64 // the part of its file
}

// s3Answer is the answer to it.
type s3Answer struct {
	head   http.Header
	length int64
	body   []byte
}

// call sends one request and reads the answer, an *s3Error when it is none of success.
func (s *s3Store) call(ctx context.Context, q *s3Request) (*s3Answer, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := time.AfterFunc(s.stall, func() { cancel(fmt.Errorf("nothing has moved for %s", s.stall)) })
	defer watch.Stop()
	req, err := s.request(ctx, q, func() { watch.Reset(s.stall) })
	if err != nil {
		return nil, err
	}
	resp, err := s.client.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	if resp.StatusCode/100 != 2 {
		return nil, s.failure(resp, body, req.Header.Get("X-Amz-Date"))
	}
	return &s3Answer{head: resp.Header, length: resp.ContentLength, body: body}, nil
}

// request makes a signed request. beat is called as its body is read.
func (s *s3Store) request(ctx context.Context, q *s3Request, beat func()) (*http.Request, error) {
	u := *s.base
	u.Path = "/" + q.key
	if s.opt.PathStyle {
		u.Path = "/" + s.opt.Bucket + u.Path
	}
	u.RawQuery = strings.ReplaceAll(q.query.Encode(), "+", "%20")
	var body io.Reader = http.NoBody
	size, sum := int64(len(q.text)), emptyHash
	var err error
	switch {
	case q.up != nil:
		size = q.size
		if sum, err = hashOf(ctx, io.NewSectionReader(q.up.file, q.from, q.size)); err != nil {
			return nil, err
		}
		body = &paced{ctx: ctx, r: io.NewSectionReader(q.up.file, q.from, q.size), u: q.up, beat: beat}
	case len(q.text) > 0:
		sum = hexHash(q.text)
		body = strings.NewReader(string(q.text))
	}
	req, err := http.NewRequestWithContext(ctx, q.method, u.String(), body)
	if err != nil {
		return nil, err
	}
	req.ContentLength = size
	for k, v := range q.head {
		req.Header[k] = v
	}
	req.Header.Set("X-Amz-Content-Sha256", sum)
	if q.up != nil {
		req.Header.Set("Expect", "100-continue") // a refusal comes before the body is sent
	}
	return req, s.sign(ctx, req, sum)
}

// sign adds the signature, unless no key is configured.
func (s *s3Store) sign(ctx context.Context, req *http.Request, sum string) error {
	if s.opt.AccessKey == "" {
		return nil
	}
	access, err := s.opt.AccessKey.Reveal(s.dir)
	if err != nil {
		return fmt.Errorf("access_key: %w", err)
	}
	secret, err := s.opt.SecretKey.Reveal(s.dir)
	if err != nil {
		return fmt.Errorf("secret_key: %w", err)
	}
	who := aws.Credentials{AccessKeyID: access, SecretAccessKey: secret}
	return s.signer.SignHTTP(ctx, who, req, sum, "s3", s.opt.Region, time.Now().Add(s.skew))
}

// hexHash returns the SHA-256 of b.
func hexHash(b []byte) string {
	sum := sha256Of(b)
	return hex.EncodeToString(sum[:])
}
