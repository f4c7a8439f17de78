package observe

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/waystation-iot/waystation/gateway"
)

// View is what a server shows of a gateway.
type View struct {
	Status      func() gateway.Status
	Letters     Letters                 // nil: there are none
	Replays     func() []gateway.Replay // nil, as the next two: there are none
	StartReplay func(gateway.ReplayRequest) (gateway.Replay, error)
	EndReplay   func(id string) error
}

// Serve listens until ctx ends. Paths:
//
//	/healthz              200 while the process answers
//	/readyz               200 when the queue takes records, else 503 and why
//	/metrics              Prometheus text format
//	/api/v1/status        gateway.Status as JSON
//	/api/v1/dead-letters  records refused for good: GET lists, DELETE drops; ?id= sink= source= device= since= until= reason= all= after= limit=
//	/api/v1/dead-letters/ID      one of them, whole
//	/api/v1/dead-letters/export  those selected, one JSON object per line
//	/api/v1/dead-letters/retry   POST {ids, sink, source, device, since, until, reason, all, to} sends them again
//	/api/v1/replays       records sent again: GET lists, POST {from, to, sink, source, device, rate} begins one
//	/api/v1/replays/ID    GET shows, DELETE cancels it or takes one that is over off the list
func Serve(ctx context.Context, l Listener, v View, log *slog.Logger) error {
	ln, err := net.Listen("tcp", l.Addr)
	if err != nil {
		return fmt.Errorf("listen on http.listen %s: %w (another gateway? choose another port, or \"\" for none)", l.Addr, err)
	}
	srv := &http.Server{Handler: guard(Handler(v), &l), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
	scheme := "http://"
	if l.TLS != nil {
		scheme, ln = "https://", tls.NewListener(ln, l.TLS)
	}
	srv.ErrorLog = slog.NewLogLogger(log.Handler(), slog.LevelDebug) // what strangers do at the door
	log.Info("status page and metrics", "url", scheme+ln.Addr().String()+"/api/v1/status")
	stop := context.AfterFunc(ctx, func() {
		quick, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = srv.Shutdown(quick)
		_ = srv.Close()
	})
	defer stop()
	if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", l.Addr, err)
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
	v.addLetters(mux)
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
