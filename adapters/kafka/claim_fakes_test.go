package kafka

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

const (
	fakeAccess = "AKIDEXAMPLE"
	fakeSecret = "wJalrXUtnFEMI"
	fakeBucket = "camera-images"
)

// fakeS3 is a store of objects with faults. It checks every signature with a
// reckoning of its own.
type fakeS3 struct {
	t   testing.TB
	srv *httptest.Server

	mu       sync.Mutex // guards what follows
	objects  map[string]fakeObject
	uploads  map[string]map[int][]byte
	began    map[string]http.Header // by upload id
	requests []string               // "PUT part 1", "HEAD" ...
	fault    func(what string, w http.ResponseWriter, r *http.Request) bool
}

type fakeObject struct {
	body []byte
	hash string // that was sent with it
	typ  string
}

func newFakeS3(t testing.TB) *fakeS3 {
	f := &fakeS3{t: t, objects: map[string]fakeObject{}, uploads: map[string]map[int][]byte{}, began: map[string]http.Header{}}
	f.srv = httptest.NewServer(f)
	t.Cleanup(f.srv.Close)
	return f
}

// plan sets the faults: a function that answers itself returns true.
func (f *fakeS3) plan(fault func(what string, w http.ResponseWriter, r *http.Request) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault = fault
}

func (f *fakeS3) count(what string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, r := range f.requests {
		if strings.HasPrefix(r, what) {
			n++
		}
	}
	return n
}

// only returns the one object that is there.
func (f *fakeS3) only() (key string, o fakeObject) {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.objects) != 1 {
		f.t.Fatalf("%d objects in the store, want 1", len(f.objects))
	}
	for key, o = range f.objects {
	}
	return key, o
}

func whatIs(r *http.Request) string {
	q := r.URL.Query()
	switch {
	case q.Has("uploads"):
		return "begin"
	case q.Has("partNumber"):
		return "part " + q.Get("partNumber")
	case q.Has("uploadId"):
		return "complete"
	}
	return strings.ToLower(r.Method)
}

func fail(w http.ResponseWriter, status int, code string) {
	w.WriteHeader(status)
	fmt.Fprintf(w, `<?xml version="1.0" encoding="UTF-8"?><Error><Code>%s</Code><Message>planned</Message></Error>`, code)
}

func (f *fakeS3) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	what := whatIs(r)
	f.mu.Lock()
	f.requests = append(f.requests, what)
	fault := f.fault
	f.mu.Unlock()
	if fault != nil && fault(what, w, r) {
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	if sum := sha256.Sum256(body); hex.EncodeToString(sum[:]) != r.Header.Get("X-Amz-Content-Sha256") {
		fail(w, 400, "XAmzContentSHA256Mismatch")
		return
	}
	if !signedBy(r, fakeSecret) {
		fail(w, 403, "SignatureDoesNotMatch")
		return
	}
	key, ok := strings.CutPrefix(r.URL.Path, "/"+fakeBucket+"/")
	if !ok {
		fail(w, 404, "NoSuchBucket")
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.serve(w, r, key, body)
}

// serve does what is asked. f.mu is held.
func (f *fakeS3) serve(w http.ResponseWriter, r *http.Request, key string, body []byte) {
	id := r.URL.Query().Get("uploadId")
	switch what := whatIs(r); {
	case what == "head":
		o, ok := f.objects[key]
		if !ok {
			w.WriteHeader(404)
			return
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(o.body)))
		w.Header().Set(metaHash, o.hash)
	case what == "put":
		f.objects[key] = fakeObject{body, r.Header.Get(metaHash), r.Header.Get("Content-Type")}
		w.Header().Set("ETag", `"x"`)
	case what == "begin":
		id := fmt.Sprintf("upload+%d/%d", len(f.began), rand.Uint32())
		f.uploads[id], f.began[id] = map[int][]byte{}, r.Header
		fmt.Fprintf(w, "<InitiateMultipartUploadResult><UploadId>%s</UploadId></InitiateMultipartUploadResult>", id)
	case f.uploads[id] == nil:
		fail(w, 404, "NoSuchUpload")
	case what == "complete":
		f.complete(w, key, id, body)
	default:
		n, _ := strconv.Atoi(r.URL.Query().Get("partNumber"))
		f.uploads[id][n] = body
		w.Header().Set("ETag", etagOf(body))
	}
}

func etagOf(b []byte) string { sum := sha256.Sum256(b); return `"` + hex.EncodeToString(sum[:8]) + `"` }

func (f *fakeS3) complete(w http.ResponseWriter, key, id string, body []byte) {
	var want struct {
		Part []struct {
			PartNumber int
			ETag       string
		}
	}
	if err := xml.Unmarshal(body, &want); err != nil {
		fail(w, 400, "MalformedXML")
		return
	}
	var all []byte
	for i, p := range want.Part {
		b := f.uploads[id][p.PartNumber]
		if p.PartNumber != i+1 || b == nil || etagOf(b) != p.ETag {
			fail(w, 400, "InvalidPart")
			return
		}
		all = append(all, b...)
	}
	f.objects[key] = fakeObject{all, f.began[id].Get(metaHash), f.began[id].Get("Content-Type")}
	delete(f.uploads, id)
	fmt.Fprint(w, "<CompleteMultipartUploadResult/>")
}

// signedBy reckons the signature of a request after "Authenticating Requests
// (AWS Signature Version 4)", Amazon S3 API reference.
func signedBy(r *http.Request, secret string) bool {
	auth, ok := strings.CutPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 ")
	fields := map[string]string{}
	for _, part := range strings.Split(auth, ",") {
		k, v, _ := strings.Cut(strings.TrimSpace(part), "=")
		fields[k] = v
	}
	scope := strings.Split(fields["Credential"], "/")
	if !ok || len(scope) != 5 {
		return false
	}
	var canon bytes.Buffer
	query := strings.Split(r.URL.RawQuery, "&")
	slices.Sort(query)
	fmt.Fprintf(&canon, "%s\n%s\n%s\n", r.Method, r.URL.EscapedPath(), strings.Join(query, "&"))
	for _, h := range strings.Split(fields["SignedHeaders"], ";") {
		v := r.Header.Get(h)
		switch h {
		case "host":
			v = r.Host
		case "content-length":
			v = strconv.FormatInt(r.ContentLength, 10)
		}
		fmt.Fprintf(&canon, "%s:%s\n", h, strings.TrimSpace(v))
	}
	fmt.Fprintf(&canon, "\n%s\n%s", fields["SignedHeaders"], r.Header.Get("X-Amz-Content-Sha256"))
	sum := sha256.Sum256(canon.Bytes())
	text := "AWS4-HMAC-SHA256\n" + r.Header.Get("X-Amz-Date") + "\n" + strings.Join(scope[1:], "/") + "\n" + hex.EncodeToString(sum[:])
	key := []byte("AWS4" + secret)
	for _, s := range append(scope[1:], text) {
		h := hmac.New(sha256.New, key)
		h.Write([]byte(s))
		key = h.Sum(nil)
	}
	return scope[0] == fakeAccess && hex.EncodeToString(key) == fields["Signature"]
}

// largeRig is a sink with a claim check.
type largeRig struct {
	*rig
	state string
	conf  *Config
}

// newLargeRig makes a sink that sends values to the store st, or to where
// change says.
func newLargeRig(t testing.TB, st *fakeS3, change func(*Config)) *largeRig {
	l := &largeRig{state: t.TempDir()}
	l.rig = newRig(t, 1, func(c *Config) {
		c.MaxMessage = 100_000
		if st != nil {
			c.Large.Store.Type, c.Large.Store.Endpoint, c.Large.Store.Bucket = wordS3, st.srv.URL, fakeBucket
			c.Large.Store.AccessKey, c.Large.Store.SecretKey = fakeAccess, fakeSecret
		}
		if change != nil {
			change(c)
		}
		l.conf = c
	})
	l.restart()
	return l
}

// restart makes the sink anew, as a start of the process does.
func (l *largeRig) restart() {
	l.t.Helper()
	_ = l.sink.Close()
	s, err := l.conf.Sink(gateway.Env{GatewayID: "gw1", Name: "shore", State: l.state})
	if err != nil {
		l.t.Fatal(err)
	}
	l.sink = s.(*Sink)
	l.sink.dial, l.sink.pause = l.line.Dial, time.Millisecond
	l.sink.claims.first, l.sink.claims.most = time.Millisecond, 5*time.Millisecond
	if st, ok := l.sink.claims.store.(*s3Store); ok {
		st.part = 1 << 20
	}
	s2 := l.sink
	l.t.Cleanup(func() { _ = s2.Close() })
	l.connect()
}

// large makes a batch of small records with large ones at the given places.
func (l *largeRig) large(n, size int, at ...int) *gateway.Batch {
	b := l.batch(n, 3)
	b.Gateway = ""
	for _, i := range at {
		p := make([]byte, size)
		rnd := rand.NewChaCha8([32]byte{byte(i)})
		_, _ = rnd.Read(p)
		b.Items[i].Record.Payload, b.Items[i].Record.ContentType = p, "image/jpeg"
	}
	return b
}

// again sends b as the forwarder does after a *gateway.LaterError: as another
// *Batch, when the sink wakes it.
func (l *largeRig) again(b *gateway.Batch) error {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.ctx(), 20*time.Second)
	defer cancel()
	for {
		next := *b
		err := l.sink.Send(ctx, &next)
		var later *gateway.LaterError
		if !errors.As(err, &later) {
			return err
		}
		select {
		case <-l.sink.Wake():
		case <-ctx.Done():
			l.t.Fatalf("the batch still waits: %v", err)
		}
	}
}

// until waits until ok holds.
func (l *largeRig) until(what string, ok func() bool) {
	l.t.Helper()
	for range 5000 {
		if ok() {
			return
		}
		l.rig.pause(2 * time.Millisecond)
	}
	l.t.Fatalf("still not: %s", what)
}
