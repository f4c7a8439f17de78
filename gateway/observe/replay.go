package observe

import (
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/waystation-iot/waystation/gateway"
)

// maxReplayBody bounds the body of a request for a replay, bytes.
const maxReplayBody = 16 << 10

// addReplays adds the paths of replays, unless the gateway has none.
func (v View) addReplays(mux *http.ServeMux) {
	if v.Replays == nil || v.StartReplay == nil || v.EndReplay == nil {
		return
	}
	mux.HandleFunc("GET /api/v1/replays", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, v.Replays()) })
	mux.HandleFunc("POST /api/v1/replays", v.startReplay)
	mux.HandleFunc("GET /api/v1/replays/{id}", v.oneReplay)
	mux.HandleFunc("DELETE /api/v1/replays/{id}", func(w http.ResponseWriter, r *http.Request) {
		if err := v.EndReplay(r.PathValue("id")); err != nil {
			replayError(w, err)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
}

// replayError answers with the sentence and the code of an error.
func replayError(w http.ResponseWriter, err error) {
	code := http.StatusInternalServerError
	switch {
	case errors.Is(err, gateway.ErrReplayRequest):
		code = http.StatusBadRequest
	case errors.Is(err, gateway.ErrNoReplay):
		code = http.StatusNotFound
	}
	http.Error(w, err.Error(), code)
}

func (v View) oneReplay(w http.ResponseWriter, r *http.Request) {
	id, all := r.PathValue("id"), v.Replays()
	i := slices.IndexFunc(all, func(x gateway.Replay) bool { return x.ID == id })
	if i < 0 {
		replayError(w, fmt.Errorf("%w: %q", gateway.ErrNoReplay, id))
		return
	}
	writeJSON(w, all[i])
}

// startReplay takes JSON only, which no form of a web page can send.
func (v View) startReplay(w http.ResponseWriter, r *http.Request) {
	var q gateway.ReplayRequest
	r.Body = http.MaxBytesReader(w, r.Body, maxReplayBody)
	if !readJSON(w, r, &q, "{from, to, sink, source, device, rate} with from and to as RFC 3339 times") {
		return
	}
	made, err := v.StartReplay(q)
	if err != nil {
		replayError(w, err)
		return
	}
	w.Header().Set("Location", "/api/v1/replays/"+made.ID)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	writeJSON(w, made)
}
