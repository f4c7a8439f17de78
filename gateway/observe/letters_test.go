package observe

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

// fakeLetters has a letter of every id and page.
type fakeLetters struct{ last *gateway.LetterFilter }

func (f fakeLetters) note(q gateway.LetterFilter) {
	if f.last != nil {
		*f.last = q
	}
}

func aLetter(id, seq uint64) gateway.DeadLetter {
	rec := gateway.Record{Source: "deck", Device: "pump", Name: "a/b", Payload: []byte{0, 1}, Received: time.Unix(5, 0), Quality: gateway.Bad, Reason: "odd",
		Values: []gateway.Value{gateway.IntValue("n", math.MaxInt64), gateway.FloatValue("f", math.NaN()), gateway.BytesValue("b", "\xff"),
			gateway.UintValue("u", 7), gateway.BoolValue("t", true), gateway.StringValue("s", "x"), gateway.BadValue("none", "gone")}, Tags: []gateway.Tag{{Key: "k", Value: "v"}}}
	return gateway.DeadLetter{ID: id, Sink: "shore", Lane: gateway.LaneTelemetry, LaneName: "telemetry", Seq: seq, Reason: "too large", At: time.Unix(9, 0),
		Stored: gateway.AppendRecord(nil, &rec)}
}

func (f fakeLetters) List(q gateway.LetterFilter, after uint64, n int) ([]gateway.DeadLetter, uint64, error) {
	f.note(q)
	if after == 99 || q.Sink == "broken" {
		return nil, 0, errors.New("disk is gone")
	}
	if err := q.Check(false); err != nil {
		return nil, 0, err
	}
	if after >= 3000 {
		return nil, 0, nil
	}
	return []gateway.DeadLetter{aLetter(after+1, uint64(n))}, after + 1000, nil
}

func (f fakeLetters) Get(id uint64) (gateway.DeadLetter, error) {
	if id > 9 {
		return gateway.DeadLetter{}, fmt.Errorf("%w: %d", gateway.ErrNoLetter, id)
	}
	return aLetter(id, 1), nil
}

func (f fakeLetters) Retry(q gateway.LetterFilter, to string) (gateway.LetterResult, error) {
	f.note(q)
	if to == "nobody" {
		return gateway.LetterResult{}, fmt.Errorf("%w: there is no sink", gateway.ErrLetterRequest)
	}
	return gateway.LetterResult{Count: 3}, q.Check(true)
}

func (f fakeLetters) Drop(q gateway.LetterFilter) (gateway.LetterResult, error) {
	f.note(q)
	return gateway.LetterResult{Count: 2}, q.Check(true)
}

func TestLetterPaths(t *testing.T) {
	const js = "application/json"
	for _, c := range []struct {
		method, path, kind, body string
		code                     int
		says                     string
	}{
		{"GET", "/api/v1/dead-letters?sink=shore&limit=2", "", "", 200, `"seq": 2`},
		{"GET", "/api/v1/dead-letters?snik=shore", "", "", 400, `"snik" is not known here`},
		{"GET", "/api/v1/dead-letters?sink=a&sink=b", "", "", 400, "sink is given 2 times"},
		{"GET", "/api/v1/dead-letters?since=yesterday", "", "", 400, `since="yesterday" is not a time`},
		{"GET", "/api/v1/dead-letters?id=1,x", "", "", 400, `id="x" is not the id`},
		{"GET", "/api/v1/dead-letters?id=0", "", "", 400, `id="0" is not the id`},
		{"GET", "/api/v1/dead-letters?sink=" + strings.Repeat("x", 600), "", "", 400, "at most 512 bytes"},
		{"GET", "/api/v1/dead-letters/3", "", "", 200, `"value": "9223372036854775807"`},
		{"GET", "/api/v1/dead-letters/30", "", "", 404, "no dead letter has this id: 30"},
		{"GET", "/api/v1/dead-letters/x", "", "", 400, `"x" is not the id`},
		{"GET", "/api/v1/dead-letters/export?sink=a*", "", "", 200, `"id":1001,`},
		{"GET", "/api/v1/dead-letters/export?limit=3", "", "", 400, "not known here"},
		{"DELETE", "/api/v1/dead-letters", "", "", 400, "say which"},
		{"DELETE", "/api/v1/dead-letters?all=yes", "", "", 400, "write true or false"},
		{"DELETE", "/api/v1/dead-letters?all=true", "", "", 200, `"count": 2`},
		{"DELETE", "/api/v1/dead-letters?all=true&sink=a", "", "", 400, "not both"},
		{"DELETE", "/api/v1/dead-letters?id=1&id=2,3", "", "", 200, `"count": 2`},
		{"POST", "/api/v1/dead-letters/retry", js, `{"sink":"shore"}`, 200, `"count": 3`},
		{"POST", "/api/v1/dead-letters/retry", js, `{}`, 400, "say which"},
		{"POST", "/api/v1/dead-letters/retry", js, `{"all":true,"to":"nobody"}`, 400, "there is no sink"},
		{"POST", "/api/v1/dead-letters/retry", js, `{"snik":"shore"}`, 400, `unknown field "snik"`},
		{"POST", "/api/v1/dead-letters/retry", js, `{"all":true}{}`, 400, "more than one value"},
		{"POST", "/api/v1/dead-letters/retry", js, `{"sink":"` + strings.Repeat("x", maxLetterBody) + `"}`, 400, "too large"},
		{"POST", "/api/v1/dead-letters/retry", "text/plain", `{"all":true}`, 415, "application/json"},
		{"POST", "/api/v1/dead-letters/retry", "application/x-www-form-urlencoded", `all=true`, 415, "application/json"},
		{"GET", "/api/v1/dead-letters/retry", "", "", 400, "is not the id"},
	} {
		w := httptest.NewRecorder()
		r := httptest.NewRequest(c.method, c.path, strings.NewReader(c.body))
		r.Header.Set("Content-Type", c.kind)
		Handler(View{Status: well, Letters: fakeLetters{}}).ServeHTTP(w, r)
		if w.Code != c.code || !strings.Contains(w.Body.String(), c.says) {
			t.Errorf("%s %.80s %s %.80s: %d %.900s, want %d saying %q", c.method, c.path, c.kind, c.body, w.Code, w.Body, c.code, c.says)
		}
	}
}

// A selection arrives as it was written, and a page names the next one.
func TestLetterSelection(t *testing.T) {
	var got gateway.LetterFilter
	h := Handler(View{Status: well, Letters: fakeLetters{&got}})
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/api/v1/dead-letters?id=7,8&id=9&sink=s&source=o&device=d&reason=r&since=2026-11-22T10:00:00Z&until=2026-11-22T11:00:00%2B01:00&limit=5", nil))
	if w.Code != 200 || fmt.Sprint(got.IDs) != "[7 8 9]" || got.Sink+got.Source+got.Device+got.Reason != "sodr" || got.Since.IsZero() || !got.Until.Equal(got.Since) {
		if !strings.Contains(w.Body.String(), "must be before") {
			t.Errorf("%d %s: %+v", w.Code, w.Body, got)
		}
	}
	w = httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/api/v1/dead-letters?sink=s&limit=5", nil))
	link := w.Header().Get("Link")
	next, err := url.Parse(strings.TrimSuffix(strings.TrimPrefix(link, "<"), `>; rel="next"`))
	if err != nil || next.Query().Get("after") != "1000" || next.Query().Get("sink") != "s" || next.Query().Get("limit") != "5" {
		t.Errorf("Link: %s", link)
	}
	body := `{"ids":[4],"since":"2026-11-22T10:00:00Z","device":"d*"}`
	r := httptest.NewRequest("POST", "/api/v1/dead-letters/retry", strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	h.ServeHTTP(httptest.NewRecorder(), r)
	if fmt.Sprint(got.IDs) != "[4]" || got.Device != "d*" || got.Since.Year() != 2026 {
		t.Errorf("asked for %+v", got)
	}
}

// An export holds all there is to know of a letter, one per line, and one that
// cannot go on is cut, not ended.
func TestLetterExport(t *testing.T) {
	srv := httptest.NewServer(Handler(View{Status: well, Letters: fakeLetters{}}))
	defer srv.Close()
	res, err := http.Get(srv.URL + "/api/v1/dead-letters/export")
	if err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	if _, err := buf.ReadFrom(res.Body); err != nil || res.Header.Get("Content-Type") != "application/x-ndjson" {
		t.Fatal(err, res.Header)
	}
	lines := strings.Split(strings.TrimSpace(buf.String()), "\n")
	var l LetterJSON
	if err := json.Unmarshal([]byte(lines[0]), &l); err != nil || len(lines) != 3 {
		t.Fatalf("%d lines, %v", len(lines), err)
	}
	want := aLetter(1, letterPage)
	if !bytes.Equal(l.Stored, want.Stored) || l.Reason != want.Reason || l.Lane != "telemetry" || l.Seq != letterPage || l.Record == nil ||
		l.Record.Tags["k"] != "v" || len(l.Record.Values) != 7 || l.Record.Values[1].Value != "NaN" || l.Record.Values[2].Value != "/w==" || l.State != "kept" {
		t.Errorf("%s", lines[0])
	}
	res, err = http.Get(srv.URL + "/api/v1/dead-letters/export?sink=broken")
	if err == nil {
		_, err = buf.ReadFrom(res.Body)
	}
	if err == nil {
		t.Error("an export that failed ends like one that did not")
	}
}
