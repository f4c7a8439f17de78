package observe

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

func TestReplayPaths(t *testing.T) {
	var asked gateway.ReplayRequest
	v := View{Status: well, Replays: func() []gateway.Replay { return []gateway.Replay{{ID: "7", State: gateway.ReplayRunning}} },
		StartReplay: func(q gateway.ReplayRequest) (gateway.Replay, error) {
			switch asked = q; q.Sink {
			case "nobody":
				return gateway.Replay{}, fmt.Errorf("%w: there is no sink", gateway.ErrReplayRequest)
			case "broken":
				return gateway.Replay{}, errors.New("disk is gone")
			}
			return gateway.Replay{ID: "8", ReplayRequest: q, State: gateway.ReplayWaiting}, nil
		},
		EndReplay: func(id string) error {
			if id != "7" {
				return fmt.Errorf("%w: %q", gateway.ErrNoReplay, id)
			}
			return nil
		}}
	const json, good = "application/json; charset=utf-8", `{"from":"2026-11-22T10:00:00Z","to":"2026-11-22T11:00:00+00:00","device":"a/*","rate":50}`
	for _, c := range []struct {
		method, path, kind, body string
		code                     int
		says                     string
	}{
		{"GET", "/api/v1/replays", "", "", 200, `"id": "7"`},
		{"GET", "/api/v1/replays/7", "", "", 200, `"state": "running"`},
		{"GET", "/api/v1/replays/9", "", "", 404, `no replay has this id: "9"`},
		{"DELETE", "/api/v1/replays/7", "", "", 204, ""},
		{"DELETE", "/api/v1/replays/9", "", "", 404, `no replay has this id: "9"`},
		{"POST", "/api/v1/replays", json, good, 201, `"id": "8"`},
		{"POST", "/api/v1/replays", "", good, 415, "application/json"},
		{"POST", "/api/v1/replays", "text/plain", good, 415, "application/json"},
		{"POST", "/api/v1/replays", "application/x-www-form-urlencoded", "from=1", 415, "application/json"},
		{"POST", "/api/v1/replays", json, good + good, 400, "more than one value"},
		{"POST", "/api/v1/replays", json, `{"from":"yesterday"}`, 400, "RFC 3339"},
		{"POST", "/api/v1/replays", json, `{"form":"2026-11-22T10:00:00Z"}`, 400, `unknown field "form"`},
		{"POST", "/api/v1/replays", json, ``, 400, "the request is not"},
		{"POST", "/api/v1/replays", json, `{"device":"` + strings.Repeat("x", maxReplayBody) + `"}`, 400, "too large"},
		{"POST", "/api/v1/replays", json, `{"sink":"nobody"}`, 400, "there is no sink"},
		{"POST", "/api/v1/replays", json, `{"sink":"broken"}`, 500, "disk is gone"},
		{"PUT", "/api/v1/replays", json, good, 405, "not allowed"},
	} {
		w := httptest.NewRecorder()
		r := httptest.NewRequest(c.method, c.path, strings.NewReader(c.body))
		r.Header.Set("Content-Type", c.kind)
		Handler(v).ServeHTTP(w, r)
		if w.Code != c.code || !strings.Contains(strings.ToLower(w.Body.String()), strings.ToLower(c.says)) {
			t.Errorf("%s %s %s %.80s: %d %s, want %d saying %q", c.method, c.path, c.kind, c.body, w.Code, w.Body, c.code, c.says)
		}
		if c.code == 201 && (w.Header().Get("Location") != "/api/v1/replays/8" || asked.Device != "a/*" || asked.Rate != 50 ||
			!asked.To.Equal(time.Date(2026, 11, 22, 11, 0, 0, 0, time.UTC))) {
			t.Errorf("asked for %+v", asked)
		}
	}
	if code, _ := ask(t, well(), "/api/v1/replays"); code != http.StatusNotFound {
		t.Errorf("a view without replays answers %d", code)
	}
}
