package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/goccy/go-yaml"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waystation-iot/waystation/gateway"
)

// The fake gateway is the plainest store-and-forward gateway that keeps the
// promises the demo checks, so that the demo can be tested without the real
// one. How it behaves:
//
//	good   stores and syncs before it acknowledges, forwards in order
//	lossy  acknowledges first and stores in memory only: kill -9 must cost it
//	dead   ends at once
const (
	fakeGood  = "good"
	fakeLossy = "lossy"
	fakeDead  = "dead"
)

type fakeConfig struct {
	Gateway struct{ ID string }
	Buffer  struct{ Dir string }
	HTTP    struct{ Listen string }
	Sources []struct{ URL string }
	Sinks   []struct{ Brokers []string }
}

// entry is one stored message.
type entry struct {
	Topic   string `json:"t"`
	Payload []byte `json:"p"`
}

type fake struct {
	how      string
	cfg      fakeConfig
	file     *os.File
	arrivals chan paho.Message

	mu      sync.Mutex // guards entries and sent
	entries []entry    // entry i has seq i+1
	sent    int
	more    chan struct{} // one token when there are new entries
}

// fakeGateway runs until SIGTERM and returns the exit code.
func fakeGateway(how, config string) int {
	if how == fakeDead {
		fmt.Println("fake gateway: cannot go on")
		return 1
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	f := &fake{how: how, arrivals: make(chan paho.Message, 100_000), more: make(chan struct{}, 1)}
	if err := f.run(ctx, config); err != nil {
		fmt.Println("fake gateway:", err)
		return 1
	}
	return 0
}

func (f *fake) run(ctx context.Context, config string) error {
	data, err := os.ReadFile(config)
	if err != nil {
		return err
	}
	if err := yaml.Unmarshal(data, &f.cfg); err != nil {
		return err
	}
	if err := f.open(); err != nil {
		return err
	}
	defer f.file.Close()
	var parts sync.WaitGroup
	defer parts.Wait()
	server := &http.Server{Addr: f.cfg.HTTP.Listen, Handler: http.HandlerFunc(f.status), ReadHeaderTimeout: time.Second}
	parts.Go(func() { _ = server.ListenAndServe() })
	defer server.Close()
	client := paho.NewClient(paho.NewClientOptions().AddBroker(f.cfg.Sources[0].URL).SetClientID(f.cfg.Gateway.ID).
		SetProtocolVersion(4).SetCleanSession(false).SetAutoAckDisabled(true).
		SetDefaultPublishHandler(func(_ paho.Client, m paho.Message) { f.arrivals <- m }))
	for _, call := range []func() paho.Token{client.Connect, func() paho.Token { return client.Subscribe("plant/#", 1, nil) }} {
		if token := call(); !token.WaitTimeout(5*time.Second) || token.Error() != nil {
			return fmt.Errorf("subscribe: %w", token.Error())
		}
	}
	defer client.Disconnect(100)
	parts.Go(func() { f.forward(ctx) })
	return f.intake(ctx)
}

// open reads what an earlier life stored.
func (f *fake) open() error {
	if err := os.MkdirAll(f.cfg.Buffer.Dir, 0o700); err != nil {
		return err
	}
	var err error
	f.file, err = os.OpenFile(filepath.Join(f.cfg.Buffer.Dir, "log"), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	sc := bufio.NewScanner(f.file)
	for sc.Scan() {
		var e entry
		if json.Unmarshal(sc.Bytes(), &e) == nil { // the last line may be torn
			f.entries = append(f.entries, e)
		}
	}
	cursor, err := os.ReadFile(filepath.Join(f.cfg.Buffer.Dir, "cursor"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		f.sent, err = strconv.Atoi(string(cursor))
	}
	return err
}

// intake stores what arrived, many per sync, and acknowledges it then.
func (f *fake) intake(ctx context.Context) error {
	known := map[string]bool{}
	for _, e := range f.entries {
		known[e.Topic+string(e.Payload)] = true
	}
	for {
		var batch []paho.Message
		select {
		case m := <-f.arrivals:
			batch = append(batch, m)
		case <-ctx.Done():
			return nil
		}
		for len(f.arrivals) > 0 {
			batch = append(batch, <-f.arrivals)
		}
		if err := f.store(batch, known); err != nil {
			return err
		}
		for _, m := range batch {
			m.Ack()
		}
	}
}

func (f *fake) store(batch []paho.Message, known map[string]bool) error {
	var fresh []entry
	var text []byte
	for _, m := range batch {
		if id := m.Topic() + string(m.Payload()); !known[id] {
			known[id] = true
			e := entry{m.Topic(), m.Payload()}
			line, err := json.Marshal(e)
			if err != nil {
				return err
			}
			fresh = append(fresh, e)
			text = append(append(text, line...), '\n')
		}
	}
	if f.how == fakeGood {
		if _, err := f.file.Write(text); err != nil {
			return err
		}
		if err := f.file.Sync(); err != nil {
			return err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.entries = append(f.entries, fresh...)
	select {
	case f.more <- struct{}{}:
	default:
	}
	return nil
}

// forward sends batches until ctx ends, each again until it is confirmed.
func (f *fake) forward(ctx context.Context) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(f.cfg.Sinks[0].Brokers...), kgo.DefaultProduceTopic("demo.plant"),
		kgo.RetryBackoffFn(func(int) time.Duration { return 20 * time.Millisecond }))
	if err != nil {
		fmt.Println("fake gateway:", err)
		return
	}
	defer cl.Close()
	for ctx.Err() == nil {
		f.mu.Lock()
		first, batch := f.sent, f.entries[f.sent:min(f.sent+200, len(f.entries))]
		f.mu.Unlock()
		if len(batch) == 0 {
			select {
			case <-f.more:
			case <-ctx.Done():
			}
			continue
		}
		var records []*kgo.Record
		for i, e := range batch {
			records = append(records, &kgo.Record{Key: []byte(e.Topic), Value: e.Payload, Headers: positionHeaders(first + i + 1)})
		}
		if err := cl.ProduceSync(ctx, records...).FirstErr(); err != nil {
			fmt.Println("fake gateway: produce:", err)
			continue
		}
		f.confirm(first + len(batch))
	}
}

func positionHeaders(seq int) []kgo.RecordHeader {
	return []kgo.RecordHeader{
		{Key: "gateway", Value: []byte("demo-gateway")},
		{Key: "generation", Value: []byte("00c0ffee")},
		{Key: "lane", Value: []byte("telemetry")},
		{Key: "seq", Value: []byte(strconv.Itoa(seq))},
	}
}

func (f *fake) confirm(sent int) {
	f.mu.Lock()
	f.sent = sent
	f.mu.Unlock()
	if f.how != fakeGood {
		return
	}
	path := filepath.Join(f.cfg.Buffer.Dir, "cursor")
	if err := os.WriteFile(path+".new", []byte(strconv.Itoa(sent)), 0o600); err == nil {
		err = os.Rename(path+".new", path)
		if err != nil {
			fmt.Println("fake gateway:", err)
		}
	}
}

func (f *fake) status(w http.ResponseWriter, r *http.Request) {
	if !strings.HasSuffix(r.URL.Path, "/api/v1/status") {
		http.NotFound(w, r)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	s := gateway.Status{Gateway: f.cfg.Gateway.ID, PID: os.Getpid()}
	s.Books = gateway.Books{In: int64(len(f.entries)), Queued: uint64(len(f.entries)), Balanced: true}
	s.Queue.State = "ok"
	s.Sinks = []gateway.SinkStatus{{Name: "centre", Link: gateway.Link{State: gateway.Up},
		Sent: uint64(f.sent), Waiting: uint64(len(f.entries) - f.sent)}}
	_ = json.NewEncoder(w).Encode(s) // the asker may have gone
}
