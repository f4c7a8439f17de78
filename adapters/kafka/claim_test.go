package kafka

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

// spooled returns the names of the files in the spool.
func (l *largeRig) spooled() []string {
	l.t.Helper()
	entries, err := os.ReadDir(filepath.Join(l.state, "large"))
	if err != nil {
		l.t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// onlyReference returns the one record of the topic that is a reference.
func (l *largeRig) onlyReference() claimText {
	l.t.Helper()
	var found []claimText
	for _, rec := range l.read("data") {
		if head(rec, "content-type") != ClaimContentType {
			continue
		}
		var c claimText
		if err := json.Unmarshal(rec.Value, &c); err != nil {
			l.t.Fatal(err)
		}
		if head(rec, "claim") != c.URL {
			l.t.Errorf("header claim is %q, the reference says %q", head(rec, "claim"), c.URL)
		}
		found = append(found, c)
	}
	if len(found) != 1 {
		l.t.Fatalf("%d references in the topic, want 1", len(found))
	}
	return found[0]
}

// whole checks that the object and its one reference are what the payload was.
func (l *largeRig) whole(st *fakeS3, payload []byte) {
	l.t.Helper()
	key, o := st.only()
	ref := l.onlyReference()
	if !bytes.Equal(o.body, payload) || o.hash != hexHash(payload) || o.typ != "image/jpeg" {
		l.t.Errorf("the object has %d bytes of %s with hash %s", len(o.body), o.typ, o.hash)
	}
	want := claimText{1, "s3://" + fakeBucket + "/" + key, st.srv.URL, fakeBucket, key, int64(len(payload)), hexHash(payload), "image/jpeg"}
	if ref != want {
		l.t.Errorf("reference %+v, want %+v", ref, want)
	}
	if s := l.spooled(); len(s) != 0 {
		l.t.Errorf("left in the spool: %v", s)
	}
}

// What does not fit a message goes to the store before its reference goes to
// Kafka; what fits is not touched.
func TestLargeValueGoesByReference(t *testing.T) {
	for name, size := range map[string]int{"one piece": 300_000, "parts": 5<<20 + 17} {
		t.Run(name, func(t *testing.T) {
			st := newFakeS3(t)
			l := newLargeRig(t, st, nil)
			b := l.large(10, size, 4)
			var later *gateway.LaterError
			if err := l.sink.Send(l.ctx(), b); !errors.As(err, &later) || later.After < time.Second {
				t.Fatalf("the first Send: %v", err)
			}
			if n := len(l.read("data")); n != 0 {
				t.Fatalf("%d records were sent before the value was stored", n)
			}
			if err := l.again(b); err != nil {
				t.Fatal(err)
			}
			l.exactlyOnce(10, "data")
			l.whole(st, b.Items[4].Record.Payload)
			key, _ := st.only()
			if want := "gw1/g1/telemetry/5-" + hexHash(b.Items[4].Record.Payload)[:12]; key != want {
				t.Errorf("object %s, want %s", key, want)
			}
		})
	}
}

// Several large values of one batch all go to the store, and what is above the
// limit goes although it would fit; the value may be one that is encoded.
func TestLargeValuesOfOneBatch(t *testing.T) {
	st := newFakeS3(t)
	l := newLargeRig(t, st, func(c *Config) { c.Large.Above = 10_000 })
	b := l.large(50, 10_001, 0, 7, 8, 49)
	b.Items[9].Record.Payload = make([]byte, 10_000)
	b.Items[20].Record.Payload = nil
	b.Items[20].Record.Values = []gateway.Value{gateway.StringValue("log", strings.Repeat("x", 11_000))}
	if err := l.again(b); err != nil {
		t.Fatal(err)
	}
	l.exactlyOnce(50, "data")
	st.mu.Lock()
	defer st.mu.Unlock()
	if len(st.objects) != 5 {
		t.Errorf("%d objects, want 5", len(st.objects))
	}
}

// once answers the first n requests of a kind with fn.
func once(kind string, n int, fn func(w http.ResponseWriter, r *http.Request)) func(string, http.ResponseWriter, *http.Request) bool {
	left := make(chan struct{}, n)
	for range n {
		left <- struct{}{}
	}
	return func(what string, w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasPrefix(what, kind) {
			return false
		}
		select {
		case <-left:
			fn(w, r)
			return true
		default:
			return false
		}
	}
}

func answer(status int, code string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) { fail(w, status, code) }
}

// cutLine ends the connection in the middle of the body.
func cutLine(_ http.ResponseWriter, r *http.Request) {
	_, _ = r.Body.Read(make([]byte, 1000))
	panic(http.ErrAbortHandler)
}

// Whatever the store and the link do, the object is whole in the end and its
// reference is in the topic once.
func TestStoreFaults(t *testing.T) {
	faults := map[string]func(string, http.ResponseWriter, *http.Request) bool{
		"cut in a part":      once("part 2", 3, cutLine),
		"cut at the end":     once("complete", 2, cutLine),
		"500":                once("part", 4, answer(500, "InternalError")),
		"slow down":          once("begin", 3, answer(503, "SlowDown")),
		"upload forgotten":   once("part 3", 2, answer(404, "NoSuchUpload")),
		"error in a success": once("complete", 2, func(w http.ResponseWriter, _ *http.Request) { fail(w, 200, "InternalError") }),
		"captive portal": once("", 6, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(403)
			_, _ = w.Write([]byte("<html>log in</html>"))
		}),
		"portal that likes everything": once("", 1, func(http.ResponseWriter, *http.Request) {}),
		"wrong etag": once("part 2", 1, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("ETag", `"0123"`)
		}),
		"no etag":       once("part 1", 2, func(http.ResponseWriter, *http.Request) {}),
		"nothing kept":  once("complete", 1, func(http.ResponseWriter, *http.Request) {}),
		"changed":       once("part 1", 1, answer(400, "XAmzContentSHA256Mismatch")),
		"not there yet": once("head", 3, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) }),
	}
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			st := newFakeS3(t)
			l := newLargeRig(t, st, nil)
			st.plan(fault)
			b := l.large(3, 3<<20+5, 1)
			if err := l.again(b); err != nil {
				t.Fatal(err)
			}
			l.exactlyOnce(3, "data")
			l.whole(st, b.Items[1].Record.Payload)
		})
	}
}

// A gateway whose clock is wrong signs with the time of the store.
func TestStoreDoesNotBelieveTheClock(t *testing.T) {
	st := newFakeS3(t)
	l := newLargeRig(t, st, nil)
	now := time.Now().UTC().Add(48 * time.Hour)
	st.plan(func(_ string, w http.ResponseWriter, r *http.Request) bool {
		at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
		w.Header().Set("Date", now.Format(http.TimeFormat))
		if err == nil && now.Sub(at).Abs() < 15*time.Minute {
			return false
		}
		fail(w, 403, "RequestTimeTooSkewed")
		return true
	})
	b := l.large(1, 200_000, 0)
	if err := l.again(b); err != nil {
		t.Fatal(err)
	}
	l.whole(st, b.Items[0].Record.Payload)
}

// A refusal for good is shown with what to do, and waits or makes a dead letter
// of that record alone.
func TestStoreRefuses(t *testing.T) {
	t.Run("wait", func(t *testing.T) {
		st := newFakeS3(t)
		l := newLargeRig(t, st, nil)
		st.plan(once("", 1<<20, answer(403, "AccessDenied")))
		b := l.large(3, 200_000, 1)
		hint := func() bool {
			next := *b
			err := l.sink.Send(l.ctx(), &next)
			return err != nil && strings.Contains(err.Error(), "AccessDenied") && strings.Contains(err.Error(), "allow s3:PutObject")
		}
		l.until("the hint is shown", hint)
		if f := l.sink.Facts(); len(f) == 0 || !f[len(f)-1].Warn {
			t.Errorf("facts %+v", f)
		}
		st.plan(nil)
		if err := l.again(b); err != nil {
			t.Fatal(err)
		}
		l.whole(st, b.Items[1].Record.Payload)
	})
	t.Run("dead letter", func(t *testing.T) {
		st := newFakeS3(t)
		l := newLargeRig(t, st, func(c *Config) { c.Large.Refused = wordDeadLetter })
		st.plan(once("", 1<<20, answer(404, "NoSuchBucket")))
		err := l.again(l.large(3, 200_000, 1))
		var refused *gateway.RefusedError
		if !errors.As(err, &refused) || len(refused.Refused) != 1 || refused.Refused[0].Index != 1 || !strings.Contains(refused.Refused[0].Reason, "NoSuchBucket") {
			t.Fatalf("%v", err)
		}
		l.exactlyOnce(3, "data", 2)
		if s := l.spooled(); len(s) != 0 {
			t.Errorf("left in the spool: %v", s)
		}
	})
}

// What was sent is not sent again while the store only does not say whether it
// has it: it may not, is too busy, finds our clock wrong, or something in
// between answers. None but the first is a refusal.
func TestSentOnce(t *testing.T) {
	for name, head := range map[string]func(http.ResponseWriter){
		"may not":     func(w http.ResponseWriter) { w.Header().Set("X-Amz-Request-Id", "1"); w.WriteHeader(403) },
		"too busy":    func(w http.ResponseWriter) { w.WriteHeader(503) },
		"in between":  func(w http.ResponseWriter) { w.WriteHeader(403) },
		"no answer":   func(http.ResponseWriter) { panic(http.ErrAbortHandler) },
		"wrong clock": func(w http.ResponseWriter) { w.Header().Set("X-Amz-Request-Id", "1"); w.WriteHeader(403) },
	} {
		for size, sent := range map[int]string{200_000: "put", 2<<20 + 1: "part"} {
			t.Run(name+" "+sent, func(t *testing.T) {
				t.Parallel()
				st := newFakeS3(t)
				l := newLargeRig(t, st, func(c *Config) {
					if name != "may not" {
						c.Large.Refused = wordDeadLetter
					}
				})
				var left atomic.Int64
				left.Store(6)
				st.plan(func(what string, w http.ResponseWriter, r *http.Request) bool {
					if what != "head" || st.count("put")+st.count("complete") == 0 {
						return false
					}
					if name == "wrong clock" {
						now := time.Now().Add(48 * time.Hour).UTC()
						w.Header().Set("Date", now.Format(http.TimeFormat))
						if strings.HasPrefix(r.Header.Get("X-Amz-Date"), now.Format("20060102T")) {
							return false
						}
					}
					if left.Add(-1) < 0 {
						return false
					}
					head(w)
					return true
				})
				b := l.large(3, size, 1)
				next := *b
				_ = l.sink.Send(l.ctx(), &next) // a *gateway.LaterError
				l.until("some tries", func() bool { return left.Load() <= 3 || name == "wrong clock" && left.Load() <= 5 })
				l.restart()
				if err := l.again(b); err != nil {
					t.Fatal(err)
				}
				l.exactlyOnce(3, "data")
				l.whole(st, b.Items[1].Record.Payload)
				if n, want := st.count(sent), (size+1<<20-1)>>20; n != want {
					t.Errorf("%d requests with data, want %d", n, want)
				}
			})
		}
	}
}

// Without a store a record that is too large is refused, as ever.
func TestNoStore(t *testing.T) {
	l := newRig(t, 1, func(c *Config) { c.MaxMessage = 100_000 })
	l.connect()
	b := l.batch(3, 1)
	b.Items[1].Record.Payload = make([]byte, 200_000)
	if got := l.deliver(b); len(got) != 1 || got[0].Index != 1 {
		t.Fatalf("%v", got)
	}
	if l.sink.Wake() != nil {
		t.Error("a sink without a store wakes nobody")
	}
}
