//go:build interop

package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/waystation-iot/waystation/adapters/kafka"
	"github.com/waystation-iot/waystation/cmd/waystation/peers"
	"github.com/waystation-iot/waystation/gateway"
)

// TestLargeRecordsInterop sends images through mosquitto, the gateway, an S3
// server and Apache Kafka that are none of ours; kcat reads the references and
// Amazon's own client what they name.
func TestLargeRecordsInterop(t *testing.T) {
	dir := t.TempDir()
	broker, err := peers.StartMosquitto(mkdir(t, dir, "mosquitto"), peers.MaxInflight(100))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = broker.Kill() })
	centre, err := peers.StartKafka(mkdir(t, dir, "kafka"), peers.AutoCreateTopics(false))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = centre.Kill() })
	t.Run("outage and kill", func(t *testing.T) {
		largeInParts(t, &largeBench{t: t, mqtt: broker.Addr, kafka: centre, topic: "parts"})
	})
	t.Run("store killed and upload forgotten", func(t *testing.T) {
		largeForgotten(t, &largeBench{t: t, mqtt: broker.Addr, kafka: centre, topic: "again"})
	})
	t.Run("https and refusals", func(t *testing.T) {
		largeRefused(t, &largeBench{t: t, mqtt: broker.Addr, kafka: centre, topic: "whole"})
	})
}

// largeInParts: an image of 20 MB and 2,000 small messages while the store is
// down; the store comes, the gateway is killed in the middle of the upload, and
// goes on with it.
func largeInParts(t *testing.T, l *largeBench) {
	l.start(nil)
	l.python("make")
	if err := l.store.Stop(); err != nil {
		t.Fatal(err)
	}
	image := noise(largeBytes)
	g := startGateway(t, l.configure(peers.S3Secret))
	up := func(s *gateway.Status) bool { return s.Sources[0].State == gateway.Up }
	g.await("source up", 30*time.Second, up)
	l.publish(0, 1000, image)
	l.publish(1000, 1000, nil)
	s := g.await("all but the image", time.Minute, func(s *gateway.Status) bool { return s.Sinks[0].Sent >= 2000 && upload(s).Warn })
	if s.Sinks[0].State != gateway.Up || s.Sinks[0].Waiting != 1 {
		t.Errorf("without the store: %+v", s.Sinks[0])
	}
	l.judgeSmall(l.read(), 2000, 0)

	if err := l.store.Start(); err != nil {
		t.Fatal(err)
	}
	g.await("an upload", time.Minute, func(s *gateway.Status) bool { return percent(s) > 0 })
	l.publish(2000, 200, nil)
	g.await("small ones beside the upload", 30*time.Second, func(s *gateway.Status) bool { return s.Sinks[0].Sent >= 2200 })
	g.await("a part, and some of the next", time.Minute, func(s *gateway.Status) bool { return percent(s) > 35 })
	g.kill()
	g = startGateway(t, l.config)
	s = g.await("the upload goes on", 30*time.Second, func(s *gateway.Status) bool { return percent(s) > 0 })
	if percent(&s) < 25 {
		t.Errorf("after the kill the upload is at %d %%: it was begun anew", percent(&s))
	}
	s = g.await("all sent", time.Minute, func(s *gateway.Status) bool { return s.Sinks[0].Waiting == 0 && s.Sinks[0].State == gateway.Up })
	if !s.Books.Balanced || s.DeadLetters.Kept > 0 {
		t.Errorf("%+v", s)
	}
	l.judge(g, image, 2200)
}

// largeForgotten: the store is killed in the middle of an upload, and later
// deletes it as unfinished, as a bucket's lifecycle rule does.
func largeForgotten(t *testing.T, l *largeBench) {
	l.start(nil)
	l.python("make")
	image := noise(12_000_000)
	g := startGateway(t, l.configure(peers.S3Secret))
	g.await("source up", 30*time.Second, func(s *gateway.Status) bool { return s.Sources[0].State == gateway.Up })
	l.publish(0, 70, image)
	g.await("an upload", time.Minute, func(s *gateway.Status) bool { return percent(s) > 10 })
	if err := l.store.Kill(); err != nil {
		t.Fatal(err)
	}
	g.await("a warning", 30*time.Second, func(s *gateway.Status) bool { return upload(s).Warn && s.Sinks[0].State == gateway.Up })
	if err := l.store.Start(); err != nil {
		t.Fatal(err)
	}
	g.await("a part, and some of the next", time.Minute, func(s *gateway.Status) bool { return percent(s) > 55 })
	g.stop()
	if n := l.found("abort").Unfinished; n != 1 {
		t.Errorf("%d uploads were under way", n)
	}
	g = startGateway(t, l.config)
	g.await("all sent", time.Minute, func(s *gateway.Status) bool { return s.Sinks[0].Waiting == 0 && s.Sinks[0].State == gateway.Up })
	l.judge(g, image, 70)
	if !strings.Contains(g.output(), "begin the upload anew: NoSuchUpload") {
		t.Errorf("log:\n%s", g.output())
	}
}

// largeRefused: what a real store answers to a wrong key and a missing bucket
// tells what to do; then an image that fits one request goes there by https
// with a certificate of an authority of our own.
func largeRefused(t *testing.T, l *largeBench) {
	authority, err := peers.NewAuthority(t.TempDir(), "plant")
	if err != nil {
		t.Fatal(err)
	}
	cert, err := authority.Issue(t.TempDir(), peers.Identity{Name: "store", Hosts: []string{"127.0.0.1"}, For: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	l.ca = authority.CA
	l.start(&cert)
	image := noise(2_000_000)
	says := func(g *proc, want string) {
		t.Helper()
		g.await("fact "+want, 30*time.Second, func(s *gateway.Status) bool { return strings.Contains(upload(s).Value, want) })
	}
	g := startGateway(t, l.configure("wrong"))
	g.await("source up", 30*time.Second, func(s *gateway.Status) bool { return s.Sources[0].State == gateway.Up })
	l.publish(0, 50, image)
	says(g, "SignatureDoesNotMatch")
	says(g, "check large.store.access_key")
	g.stop()
	g = startGateway(t, l.configure(peers.S3Secret))
	says(g, "NoSuchBucket")
	says(g, "make the bucket")
	g.stop()
	l.python("make")
	g = startGateway(t, l.config)
	g.await("all sent", time.Minute, func(s *gateway.Status) bool { return s.Sinks[0].Waiting == 0 && s.Sinks[0].State == gateway.Up })
	l.judge(g, image, 50)
}

// largeBench is one gateway with its store and its topic.
type largeBench struct {
	t      *testing.T
	mqtt   string
	kafka  *peers.Kafka
	topic  string // in MQTT "<topic>/#", in Kafka "test.<topic>"
	ca     string // of the store
	store  *peers.S3
	config string
	dir    string
}

// start starts the store and makes the topic.
func (l *largeBench) start(cert *peers.Issued) {
	l.t.Helper()
	l.dir = l.t.TempDir()
	var err error
	if l.store, err = peers.StartS3(mkdir(l.t, l.dir, "s3"), cert); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { _ = l.store.Kill() })
	if err := l.kafka.CreateTopic("test."+l.topic, 3, nil); err != nil {
		l.t.Fatal(err)
	}
}

// configure writes the configuration of the gateway.
func (l *largeBench) configure(secret string) string {
	l.t.Helper()
	l.config = filepath.Join(l.dir, "waystation.yaml")
	text := fmt.Sprintf(`gateway: {id: truck-7}
buffer: {dir: ./queue, max_bytes: 1GiB}
http: {listen: "127.0.0.1:0"}
sources:
  - {name: %[1]s, type: mqtt, url: "tcp://%[2]s", topics: ["%[1]s/#"], max_payload: 24MiB, max_inflight_bytes: 64MiB}
sinks:
  - name: depot
    type: kafka
    brokers: ["%[3]s"]
    topic: "test.{source}"
    large:
      bytes_per_second: 3MiB
      store:
        type: s3
        endpoint: %[4]s
        region: %[5]s
        bucket: truck-images
        access_key: %[6]s
        secret_key: %[7]s
        tls: {ca: "%[8]s"}
`, l.topic, l.mqtt, l.kafka.Addr, l.store.URL, peers.S3Region, peers.S3Access, secret, l.ca)
	if err := os.WriteFile(l.config, []byte(text), 0o600); err != nil {
		l.t.Fatal(err)
	}
	return l.config
}

// publish sends n small messages of seven devices, numbered from first, and in
// the middle of them an image if there is one.
func (l *largeBench) publish(first, n int, image []byte) {
	l.t.Helper()
	p, err := newPublisher(l.mqtt, "truck-"+l.topic, 100)
	if err != nil {
		l.t.Fatal(err)
	}
	for i := first; i < first+n; i++ {
		if err = p.publish(fmt.Sprintf("%s/can/%d", l.topic, i%7), strconv.AppendInt(nil, int64(i), 10)); err != nil {
			l.t.Fatal(err)
		}
		if image == nil || i != first+n/2 {
			continue
		}
		if err = p.publish(l.topic+"/camera", image); err != nil {
			l.t.Fatal(err)
		}
	}
	if err := p.finish(); err != nil {
		l.t.Fatal(err)
	}
}

// upload is the fact about the large values.
func upload(s *gateway.Status) gateway.Fact {
	for _, f := range s.Sinks[0].Facts {
		if f.Name == "large values" {
			return f
		}
	}
	return gateway.Fact{}
}

// percent is how far the upload is, 0 when none is under way.
func percent(s *gateway.Status) int {
	m := regexp.MustCompile(`(\d+) % of the next is sent`).FindStringSubmatch(upload(s).Value)
	if m == nil {
		return 0
	}
	n, _ := strconv.Atoi(m[1])
	return n
}

// noise is what no compression makes smaller.
func noise(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(n)}).Read(b)
	return b
}

func (l *largeBench) read() []peers.Message {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	all, err := peers.Kcat(ctx, l.kafka.Addr, "test."+l.topic)
	if err != nil {
		l.t.Fatal(err)
	}
	return all
}

// judgeSmall wants every small message once, each device in order, and so many
// references besides, which it returns.
func (l *largeBench) judgeSmall(all []peers.Message, small, references int) (refs []peers.Message) {
	l.t.Helper()
	seen := map[int]bool{}
	newest := map[string]int{}
	for _, m := range all {
		if m.Headers["claim"] != "" || m.Headers["content-type"] == kafka.ClaimContentType {
			refs = append(refs, m)
			continue
		}
		n, err := strconv.Atoi(string(m.Value))
		if last, ok := newest[m.Key]; err != nil || m.Key != fmt.Sprintf("%s/can/%d", l.topic, n%7) || ok && n <= last || seen[n] {
			l.t.Fatalf("%.20q of %s at %d/%d: twice, out of order or never sent", m.Value, m.Key, m.Partition, m.Offset)
		}
		seen[n], newest[m.Key] = true, n
	}
	if len(seen) != small || len(refs) != references {
		l.t.Fatalf("%d small messages and %d references, want %d and %d", len(seen), len(refs), small, references)
	}
	return refs
}

// judge compares what is in Kafka and in the store with what was sent.
func (l *largeBench) judge(g *proc, image []byte, small int) {
	l.t.Helper()
	if code := g.stop(); code != exitGood {
		l.t.Errorf("exit code %d\n%s", code, g.output())
	}
	ref := l.judgeSmall(l.read(), small, 1)[0]
	var claim struct {
		Claim                              int
		URL, Endpoint, Bucket, Key, SHA256 string
		Bytes                              int
		Type                               string `json:"content_type"`
	}
	if err := json.Unmarshal(ref.Value, &claim); err != nil {
		l.t.Fatalf("%v: %s", err, ref.Value)
	}
	sum := sha256.Sum256(image)
	hash := hex.EncodeToString(sum[:])
	if claim.Claim != 1 || claim.Bytes != len(image) || claim.SHA256 != hash || claim.Bucket != "truck-images" || claim.Endpoint != l.store.URL ||
		claim.URL != "s3://truck-images/"+claim.Key || ref.Headers["claim"] != claim.URL || ref.Key != l.topic+"/camera" || ref.Headers["lane"] != "bulk" {
		l.t.Errorf("reference %s of %s, headers %v", ref.Value, ref.Key, ref.Headers)
	}
	found := l.found("read")
	if len(found.Objects) != 1 || found.Unfinished != 0 {
		l.t.Fatalf("in the store: %+v", found)
	}
	if o := found.Objects[0]; o.Key != claim.Key || o.Bytes != len(image) || o.SHA256 != hash || o.Type != claim.Type || o.Metadata["sha256"] != hash {
		l.t.Errorf("the object is %+v, the reference %s, sent were %d bytes with hash %s", o, ref.Value, len(image), hash)
	}
	l.t.Logf("%d bytes as %s, %d small messages", len(image), claim.URL, small)
}

// stored is what Amazon's client sees in the store.
type stored struct {
	Objects []struct {
		Key, SHA256 string
		Bytes       int
		Type        string `json:"content_type"`
		Metadata    map[string]string
	}
	Unfinished int // uploads in parts
}

func (l *largeBench) found(verb string) (out stored) {
	l.t.Helper()
	if err := json.Unmarshal(l.python(verb), &out); err != nil {
		l.t.Fatal(err)
	}
	return out
}

// python has Amazon's client look at the store.
func (l *largeBench) python(verb string) []byte {
	l.t.Helper()
	path, err := peers.Python()
	if err != nil {
		l.t.Fatal(err)
	}
	in, err := json.Marshal(map[string]string{"endpoint": l.store.URL, "region": peers.S3Region, "bucket": "truck-images",
		"access": peers.S3Access, "secret": peers.S3Secret, "ca": l.ca})
	if err != nil {
		l.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "testdata/s3.py", verb)
	cmd.Stdin = bytes.NewReader(in)
	var errOut bytes.Buffer
	cmd.Stderr = &errOut
	out, err := cmd.Output()
	if err != nil {
		l.t.Fatalf("%s: %v\n%s", verb, err, errOut.String())
	}
	return out
}
