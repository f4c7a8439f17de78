package observe

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

// Letters are the dead letters that a server shows; *gateway.Letters is one.
type Letters interface {
	List(q gateway.LetterFilter, after uint64, n int) (out []gateway.DeadLetter, next uint64, err error)
	Get(id uint64) (gateway.DeadLetter, error)
	Retry(q gateway.LetterFilter, to string) (gateway.LetterResult, error)
	Drop(q gateway.LetterFilter) (gateway.LetterResult, error)
}

// Bounds of one request.
const (
	maxDeadLetters = 1000      // of one list
	maxLetterBody  = 256 << 10 // bytes
	letterPage     = 256       // read at once for an export
)

// LetterRetry is the body of a request to send dead letters again.
type LetterRetry struct {
	gateway.LetterFilter
	To string `json:"to,omitempty"` // sink; "" = the one that refused each
}

// addLetters adds the paths of dead letters.
func (v View) addLetters(mux *http.ServeMux) {
	if v.Letters == nil {
		return
	}
	mux.HandleFunc("GET /api/v1/dead-letters", v.deadLetters)
	mux.HandleFunc("DELETE /api/v1/dead-letters", v.dropLetters)
	mux.HandleFunc("GET /api/v1/dead-letters/export", v.exportLetters)
	mux.HandleFunc("POST /api/v1/dead-letters/retry", v.retryLetters)
	mux.HandleFunc("GET /api/v1/dead-letters/{id}", v.oneLetter)
}

// letterError answers with the sentence and the code of an error.
func letterError(w http.ResponseWriter, err error) {
	code := http.StatusInternalServerError
	switch {
	case errors.Is(err, gateway.ErrLetterRequest):
		code = http.StatusBadRequest
	case errors.Is(err, gateway.ErrNoLetter):
		code = http.StatusNotFound
	}
	http.Error(w, err.Error(), code)
}

// parseFilter reads a selection, and what else is allowed, from a query. An
// unknown word is refused: a misspelt one would select too much.
func parseFilter(query url.Values, others ...string) (q gateway.LetterFilter, err error) {
	for key, values := range query {
		if key != "id" && len(values) > 1 {
			return q, fmt.Errorf("%s is given %d times: give it once", key, len(values))
		}
		text := values[0]
		switch key {
		case "id":
			for _, text = range values {
				for one := range strings.SplitSeq(text, ",") {
					id, err := strconv.ParseUint(one, 10, 64)
					if err != nil || id == 0 {
						return q, fmt.Errorf("id=%q is not the id of a dead letter", one)
					}
					q.IDs = append(q.IDs, id)
				}
			}
		case "sink":
			q.Sink = text
		case "source":
			q.Source = text
		case "device":
			q.Device = text
		case "reason":
			q.Reason = text
		case "since":
			q.Since, err = parseTime(key, text)
		case "until":
			q.Until, err = parseTime(key, text)
		case "all", "dry_run":
			into := &q.All
			if key == "dry_run" {
				into = &q.DryRun
			}
			if *into, err = strconv.ParseBool(text); err != nil {
				err = fmt.Errorf("%s=%q: write true or false", key, text)
			}
		default:
			if !slices.Contains(others, key) {
				return q, fmt.Errorf("%q is not known here; known are id, sink, source, device, since, until, reason, all, dry_run%s", key, listed(others))
			}
		}
		if err != nil {
			return q, err
		}
	}
	return q, nil
}

func listed(words []string) (s string) {
	for _, w := range words {
		s += ", " + w
	}
	return s
}

func parseTime(key, text string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return t, fmt.Errorf("%s=%q is not a time such as 2026-11-22T14:00:00Z", key, text)
	}
	return t, nil
}

// deadLetters lists letters. Link names the next page, if there is one.
func (v View) deadLetters(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	q, err0 := parseFilter(query, "after", "limit")
	after, err1 := number(r, "after", 0)
	limit, err2 := number(r, "limit", 100)
	if err := errors.Join(err0, err1, err2); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	letters, next, err := v.Letters.List(q, after, int(max(1, min(limit, maxDeadLetters))))
	if err != nil {
		letterError(w, err)
		return
	}
	if next > 0 {
		query.Set("after", strconv.FormatUint(next, 10))
		w.Header().Set("Link", "<"+r.URL.Path+"?"+query.Encode()+`>; rel="next"`)
	}
	out := make([]LetterJSON, 0, len(letters))
	for i := range letters {
		out = append(out, NewLetterJSON(&letters[i], false))
	}
	writeJSON(w, out)
}

func (v View) oneLetter(w http.ResponseWriter, r *http.Request) {
	id, err := strconv.ParseUint(r.PathValue("id"), 10, 64)
	if err != nil || id == 0 {
		http.Error(w, fmt.Sprintf("%q is not the id of a dead letter", r.PathValue("id")), http.StatusBadRequest)
		return
	}
	l, err := v.Letters.Get(id)
	if err != nil {
		letterError(w, err)
		return
	}
	writeJSON(w, NewLetterJSON(&l, true))
}

// exportLetters writes one letter per line, page by page. It has as much time
// as the far side keeps reading.
func (v View) exportLetters(w http.ResponseWriter, r *http.Request) {
	q, err := parseFilter(r.URL.Query())
	if err == nil {
		err = q.Check(false)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	control := http.NewResponseController(w)
	buf := bufio.NewWriterSize(w, 64<<10)
	if err := EachLetter(v.Letters, q, func(l *gateway.DeadLetter) error {
		_ = control.SetWriteDeadline(time.Now().Add(30 * time.Second)) // a recorder has none
		return WriteLetter(buf, l)
	}); err != nil {
		panic(http.ErrAbortHandler) // half an export must not look like a whole one
	}
	_ = buf.Flush() // the client went away
}

// EachLetter calls fn with every letter that the filter selects, oldest first,
// and has few of them in memory at once.
func EachLetter(ls Letters, q gateway.LetterFilter, fn func(*gateway.DeadLetter) error) error {
	for after := uint64(0); ; {
		page, next, err := ls.List(q, after, letterPage)
		if err != nil {
			return err
		}
		for i := range page {
			if err := fn(&page[i]); err != nil {
				return err
			}
		}
		if after = next; next == 0 {
			return nil
		}
	}
}

// WriteLetter writes one line of an export.
func WriteLetter(w io.Writer, l *gateway.DeadLetter) error {
	line, err := json.Marshal(NewLetterJSON(l, true))
	if err != nil {
		return err
	}
	_, err = w.Write(append(line, '\n'))
	return err
}

func (v View) dropLetters(w http.ResponseWriter, r *http.Request) {
	q, err := parseFilter(r.URL.Query())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	patient(w)
	res, err := v.Letters.Drop(q)
	if err != nil {
		letterError(w, err)
		return
	}
	writeJSON(w, res)
}

func (v View) retryLetters(w http.ResponseWriter, r *http.Request) {
	var q LetterRetry
	r.Body = http.MaxBytesReader(w, r.Body, maxLetterBody)
	if !readJSON(w, r, &q, "{ids, sink, source, device, since, until, reason, all, dry_run, to} with since and until as RFC 3339 times") {
		return
	}
	patient(w)
	res, err := v.Letters.Retry(q.LetterFilter, q.To)
	if err != nil {
		letterError(w, err)
		return
	}
	writeJSON(w, res)
}

// patient gives an answer the time that many commits on a slow card take.
func patient(w http.ResponseWriter) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(10 * time.Minute)) // a recorder has none
}

// readJSON reads the one JSON value of a request, strictly, and answers what is
// wrong with it. No form of a web page can send JSON.
func readJSON(w http.ResponseWriter, r *http.Request, into any, form string) bool {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		http.Error(w, "send the request as JSON, with Content-Type: application/json", http.StatusUnsupportedMediaType)
		return false
	}
	dec := json.NewDecoder(r.Body) // bounded by the caller
	dec.DisallowUnknownFields()
	err := dec.Decode(into)
	if err == nil && dec.Decode(&struct{}{}) != io.EOF {
		err = errors.New("there is more than one value")
	}
	if err != nil {
		http.Error(w, fmt.Sprintf("the request is not %s: %v", form, err), http.StatusBadRequest)
		return false
	}
	return true
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
