package observe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/waystation-iot/waystation/gateway"
)

// View is what a server shows of a gateway.
type View struct {
	Status      func() gateway.Status
	DeadLetters func(after uint64, n int) ([]gateway.DeadLetter, error)
	Replays     func() []gateway.Replay // nil, as the next two: there are none
	StartReplay func(gateway.ReplayRequest) (gateway.Replay, error)
	EndReplay   func(id string) error
}

// maxDeadLetters bounds one answer of /api/v1/dead-letters.
const maxDeadLetters = 1000

// Serve listens on addr until ctx ends. Paths:
//
//	/healthz              200 while the process answers
//	/readyz               200 when the queue takes records, else 503 and why
//	/metrics              Prometheus text format
//	/api/v1/status        gateway.Status as JSON
//	/api/v1/dead-letters  records refused for good, oldest first; ?after=ID&limit=N
//	/api/v1/replays       records sent again: GET lists, POST {from, to, sink, source, device, rate} begins one
//	/api/v1/replays/ID    GET shows, DELETE cancels it or takes one that is over off the list
func Serve(ctx context.Context, addr string, v View, log *slog.Logger) error {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("listen on http.listen %s: %w (another gateway? choose another port, or \"\" for none)", addr, err)
	}
	srv := &http.Server{Handler: Handler(v), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
	log.Info("status page and metrics", "url", "http://"+ln.Addr().String()+"/api/v1/status")
	stop := context.AfterFunc(ctx, func() {
		quick, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = srv.Shutdown(quick)
		_ = srv.Close()
	})
	defer stop()
	if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", addr, err)
	}
	return nil
}

// Handler returns the paths of Serve.
func Handler(v View) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		s := v.Status()
		if !s.Ready {
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = fmt.Fprintf(w, "queue is %s: %s\n", s.Queue.State, s.Queue.Error)
			return
		}
		_, _ = fmt.Fprintln(w, "ready")
	})
	mux.HandleFunc("GET /api/v1/status", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, v.Status()) })
	mux.HandleFunc("GET /api/v1/dead-letters", v.deadLetters)
	v.addReplays(mux)
	mux.Handle("GET /metrics", promhttp.HandlerFor(newRegistry(v.Status), promhttp.HandlerOpts{}))
	return mux
}

func writeJSON(w http.ResponseWriter, x any) {
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(x) // the client went away
}

// letterJSON is a dead letter as the API shows it.
type letterJSON struct {
	ID         uint64    `json:"id"`
	Sink       string    `json:"sink"`
	Gateway    string    `json:"gateway,omitempty"` // whose queue gave the seq; "" = this gateway's
	Generation string    `json:"generation"`
	Lane       string    `json:"lane"`
	Seq        uint64    `json:"seq"`
	At         time.Time `json:"at"`
	Reason     string    `json:"reason"`
	Source     string    `json:"source,omitempty"`
	Device     string    `json:"device,omitempty"`
	Name       string    `json:"name,omitempty"`
	Bytes      int       `json:"bytes"`
	Payload    []byte    `json:"payload,omitempty"` // base64
}

func (v View) deadLetters(w http.ResponseWriter, r *http.Request) {
	after, err1 := number(r, "after", 0)
	limit, err2 := number(r, "limit", 100)
	if err := errors.Join(err1, err2); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	letters, err := v.DeadLetters(after, int(min(limit, maxDeadLetters)))
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	out := make([]letterJSON, 0, len(letters))
	var dec gateway.RecordDecoder
	for _, l := range letters {
		j := letterJSON{ID: l.ID, Sink: l.Sink, Gateway: l.Gateway, Generation: l.Generation, Lane: l.LaneName, Seq: l.Seq, At: l.At,
			Reason: l.Reason, Bytes: len(l.Stored)}
		var rec gateway.Record
		if dec.Decode(&rec, l.Stored) == nil {
			j.Source, j.Device, j.Name, j.Payload = rec.Source, rec.Device, rec.Name, rec.Payload
		}
		out = append(out, j)
	}
	writeJSON(w, out)
}

func number(r *http.Request, key string, def uint64) (uint64, error) {
	s := r.URL.Query().Get(key)
	if s == "" {
		return def, nil
	}
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil {
		return 0, fmt.Errorf("%s=%q is not a number", key, s)
	}
	return n, nil
}
