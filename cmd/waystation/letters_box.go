package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/waystation-iot/waystation/buffer"
	"github.com/waystation-iot/waystation/gateway"
	"github.com/waystation-iot/waystation/gateway/observe"
)

// letterBox is where dead letters are: at a running gateway, or in the
// directory of one that is stopped.
type letterBox interface {
	list(ctx context.Context, q gateway.LetterFilter, after uint64, n int) (out []observe.LetterJSON, next uint64, err error)
	get(ctx context.Context, id uint64) (observe.LetterJSON, error)
	export(ctx context.Context, q gateway.LetterFilter, fn func(*observe.LetterJSON) error) error
	change(ctx context.Context, verb string, q gateway.LetterFilter, to string) (gateway.LetterResult, error)
}

// open returns where the letters are. done must be called.
func (o *letterOptions) open() (from letterBox, done func() error, err error) {
	if o.dir == "" {
		return remoteLetters{o.client}, func() error { return nil }, nil
	}
	unlock, err := lockQueue(o.dir)
	if err != nil {
		return nil, nil, err
	}
	if _, err := os.Stat(filepath.Join(o.dir, "dead-letters.db")); err != nil && !errors.Is(err, os.ErrNotExist) {
		unlock()
		return nil, nil, err
	}
	s, err := buffer.OpenShelf(buffer.ShelfOptions{Dir: o.dir, MaxBytes: math.MaxInt64, Keys: o.keys})
	if err != nil {
		unlock()
		return nil, nil, err
	}
	return localLetters{gateway.NewLetters(s, gateway.SystemClock(), nil)}, func() error { defer unlock(); return s.Close() }, nil
}

// localLetters are those in a directory.
type localLetters struct{ *gateway.Letters }

func (b localLetters) list(_ context.Context, q gateway.LetterFilter, after uint64, n int) (out []observe.LetterJSON, next uint64, err error) {
	page, next, err := b.List(q, after, n)
	for i := range page {
		out = append(out, observe.NewLetterJSON(&page[i], false))
	}
	return out, next, err
}

func (b localLetters) get(_ context.Context, id uint64) (observe.LetterJSON, error) {
	l, err := b.Get(id)
	return observe.NewLetterJSON(&l, true), err
}

func (b localLetters) export(ctx context.Context, q gateway.LetterFilter, fn func(*observe.LetterJSON) error) error {
	return observe.EachLetter(b, q, func(l *gateway.DeadLetter) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		j := observe.NewLetterJSON(l, true)
		return fn(&j)
	})
}

func (b localLetters) change(_ context.Context, verb string, q gateway.LetterFilter, to string) (gateway.LetterResult, error) {
	if verb == "drop" {
		return b.Drop(q)
	}
	return b.Retry(q, to)
}

// remoteLetters are those of a running gateway.
type remoteLetters struct{ *client }

const lettersPath = "/api/v1/dead-letters"

// query writes a selection as the API reads it.
func query(q *gateway.LetterFilter) url.Values {
	v := url.Values{}
	for _, id := range q.IDs {
		v.Add("id", strconv.FormatUint(id, 10))
	}
	for key, text := range map[string]string{"sink": q.Sink, "source": q.Source, "device": q.Device, "reason": q.Reason} {
		if text != "" {
			v.Set(key, text)
		}
	}
	for key, t := range map[string]time.Time{"since": q.Since, "until": q.Until} {
		if !t.IsZero() {
			v.Set(key, t.Format(time.RFC3339Nano))
		}
	}
	for key, b := range map[string]bool{"all": q.All, "dry_run": q.DryRun} {
		if b {
			v.Set(key, "true")
		}
	}
	return v
}

func (b remoteLetters) list(ctx context.Context, q gateway.LetterFilter, after uint64, n int) (out []observe.LetterJSON, next uint64, err error) {
	v := query(&q)
	v.Set("after", strconv.FormatUint(after, 10))
	v.Set("limit", strconv.Itoa(n))
	res, err := b.request(ctx, http.MethodGet, lettersPath+"?"+v.Encode(), nil)
	if err != nil {
		return nil, 0, err
	}
	defer func() { _ = res.Body.Close() }()
	if err := json.NewDecoder(io.LimitReader(res.Body, 64<<20)).Decode(&out); err != nil {
		return nil, 0, fmt.Errorf("get %s%s: not the answer of a gateway: %w", b.base, lettersPath, err)
	}
	link, _, _ := strings.Cut(strings.TrimPrefix(res.Header.Get("Link"), "<"), ">")
	if u, err := url.Parse(link); err == nil {
		next, _ = strconv.ParseUint(u.Query().Get("after"), 10, 64)
	}
	return out, next, nil
}

func (b remoteLetters) get(ctx context.Context, id uint64) (l observe.LetterJSON, err error) {
	return l, b.client.get(ctx, fmt.Sprintf("%s/%d", lettersPath, id), &l)
}

// export reads lines as they come: there is no limit but the patience of both.
func (b remoteLetters) export(ctx context.Context, q gateway.LetterFilter, fn func(*observe.LetterJSON) error) error {
	q.All = false // all is what no selection means there
	b.http.Timeout = 0
	res, err := b.request(ctx, http.MethodGet, lettersPath+"/export?"+query(&q).Encode(), nil)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	lines := bufio.NewReaderSize(res.Body, 64<<10)
	for {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) && len(line) == 0 {
			return nil
		}
		if err != nil {
			return fmt.Errorf("export ended early: %w", err)
		}
		var l observe.LetterJSON
		dec := json.NewDecoder(bytes.NewReader(line))
		dec.UseNumber()
		if err := dec.Decode(&l); err != nil {
			return fmt.Errorf("export: not a line of a gateway: %w", err)
		}
		if err := fn(&l); err != nil {
			return err
		}
	}
}

func (b remoteLetters) change(ctx context.Context, verb string, q gateway.LetterFilter, to string) (r gateway.LetterResult, err error) {
	b.http.Timeout = 10 * time.Minute // many commits on a slow card
	if verb == "drop" {
		return r, b.do(ctx, http.MethodDelete, lettersPath+"?"+query(&q).Encode(), nil, &r)
	}
	return r, b.do(ctx, http.MethodPost, lettersPath+"/retry", observe.LetterRetry{LetterFilter: q, To: to}, &r)
}
