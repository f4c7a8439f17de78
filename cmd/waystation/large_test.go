package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waystation-iot/waystation/adapters/kafka"
	"github.com/waystation-iot/waystation/adapters/kafka/kafkatest"
	"github.com/waystation-iot/waystation/buffer"
	"github.com/waystation-iot/waystation/gateway"
)

const (
	smallRecords = 100_000
	bulkRecords  = 10_000 // of them, in the last lane besides the large one, and after it
	largeBytes   = 20_000_000
)

// camera delivers many small records, alarms among them, and one large one.
type camera struct{ image []byte }

func (c *camera) Run(ctx context.Context, in *gateway.Intake) error {
	in.Up()
	var recs []gateway.Record
	for i := range smallRecords {
		r := gateway.Record{Device: fmt.Sprintf("d%d", i%7), Name: "can", Payload: strconv.AppendInt(nil, int64(i), 10)}
		if i%10 == 0 {
			r.Lane = gateway.LaneAlarm.Choice()
		} else if i%10 == 1 {
			r.Lane = gateway.LaneBulk.Choice()
		}
		if i == 0 { // an alarm by its source, but in the last lane by its size
			r.Payload, r.ContentType = c.image, "image/jpeg"
		}
		if recs = append(recs, r); len(recs) == 1000 {
			done := make(chan error, 1)
			in.Deliver(recs, func(err error) { done <- err })
			if err := <-done; err != nil {
				return err
			}
			recs = recs[:0]
		}
	}
	<-ctx.Done()
	return nil
}

// An image of 20 MB among 100,000 records, while its store is not there: what
// is in the other lanes arrives all the same. When the store is there the image
// goes, each lane has kept its order, and there is one reference and one object.
func TestLargeRecordAmongManySmall(t *testing.T) {
	dir, depot := t.TempDir(), filepath.Join(t.TempDir(), "depot")
	cluster, err := kafkatest.Start(1, t.TempDir(), kfake.SeedTopics(2, "fleet"))
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	conf := kafka.NewConfig()
	conf.Brokers, conf.Topic = cluster.Addrs(), "fleet"
	conf.Large.Rate = 32 << 20
	conf.Large.Store.Type, conf.Large.Store.Path = "directory", depot
	sink, err := conf.Sink(gateway.Env{GatewayID: "truck-7", Name: "depot", State: filepath.Join(dir, "state")})
	if err != nil {
		t.Fatal(err)
	}
	src := &camera{image: make([]byte, largeBytes)}
	_, _ = rand.NewChaCha8([32]byte{7}).Read(src.image)
	queue, err := buffer.Open(buffer.Options{Dir: filepath.Join(dir, "q"), Lanes: buffer.NamedLanes(gateway.LaneNames()...), MaxBytes: 512 << 20})
	if err != nil {
		t.Fatal(err)
	}
	dead, err := buffer.OpenShelf(buffer.ShelfOptions{Dir: filepath.Join(dir, "q"), MaxBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	g, err := gateway.New(gateway.Options{ID: "truck-7", Queue: queue, Dead: dead, Large: 1 << 20,
		Sources: []gateway.SourceSpec{{Name: "cab", Type: "test", Lane: gateway.LaneTelemetry, Source: src}},
		Sinks:   []gateway.SinkSpec{{Name: "depot", Type: "kafka", Sink: sink}}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()
	awaitSent(t, g, smallRecords-bulkRecords-1)
	if s := g.Status().Sinks[0]; s.Link.State != gateway.Up || s.Sent != smallRecords-bulkRecords-1 || len(s.Facts) == 0 {
		t.Errorf("while the image waits: %+v", s)
	}
	if err := os.Mkdir(depot, 0o755); err != nil {
		t.Fatal(err)
	}
	awaitSent(t, g, smallRecords)
	if n := g.Status().DeadLetters.Kept; n != 0 {
		t.Errorf("%d dead letters", n)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	all, err := cluster.ReadAll(t.Context(), "fleet")
	if err != nil {
		t.Fatal(err)
	}
	checkLarge(t, all, src.image)
}

// awaitSent waits until the sink has sent so many records.
func awaitSent(t *testing.T, g *gateway.Gateway, n uint64) {
	t.Helper()
	end := time.After(2 * time.Minute)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for g.Status().Sinks[0].Sent < n {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("sent %d of %d: %+v", g.Status().Sinks[0].Sent, n, g.Status().Sinks[0])
		}
	}
}

// checkLarge looks at what arrived: each record once, those of a key and lane in
// order, and all of the other lanes before the reference.
func checkLarge(t *testing.T, all []*kgo.Record, image []byte) {
	t.Helper()
	seen := map[string]bool{}
	newest := map[string]uint64{}
	var ref *kgo.Record
	for _, r := range all {
		h := map[string]string{}
		for _, x := range r.Headers {
			h[x.Key] = string(x.Value)
		}
		id := h["lane"] + "/" + h["seq"]
		if seen[id] {
			t.Errorf("%s arrived twice", id)
		}
		seen[id] = true
		seq, _ := strconv.ParseUint(h["seq"], 10, 64)
		if key := h["lane"] + "/" + string(r.Key); seq <= newest[key] {
			t.Errorf("%s: seq %d after %d", key, seq, newest[key])
		} else {
			newest[key] = seq
		}
		if h["claim"] != "" {
			if ref != nil || h["lane"] != "bulk" || h["content-type"] != kafka.ClaimContentType {
				t.Errorf("a reference in lane %s of type %s", h["lane"], h["content-type"])
			}
			ref = r
		}
	}
	if len(all) != smallRecords || ref == nil {
		t.Fatalf("%d records, reference %v", len(all), ref != nil)
	}
	for _, r := range all {
		lane := ""
		for _, x := range r.Headers {
			if x.Key == "lane" {
				lane = string(x.Value)
			}
		}
		if lane != "bulk" && r.Partition == ref.Partition && r.Offset > ref.Offset {
			t.Fatalf("a record of lane %s came after the reference: it was held up", lane)
		}
	}
	var claim struct {
		Key, SHA256 string
		Bytes       int
	}
	if err := json.Unmarshal(ref.Value, &claim); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(depotOf(ref), claim.Key))
	sum := sha256.Sum256(b)
	want := sha256.Sum256(image)
	if err != nil || sum != want || claim.SHA256 != hex.EncodeToString(want[:]) || claim.Bytes != len(image) {
		t.Errorf("the object has %d bytes, %v; the reference says %d", len(b), err, claim.Bytes)
	}
}

// depotOf is the directory that a reference points into.
func depotOf(r *kgo.Record) string {
	var claim struct{ URL, Key string }
	_ = json.Unmarshal(r.Value, &claim) // checked by the caller
	return claim.URL[len("file://") : len(claim.URL)-len(claim.Key)-1]
}
