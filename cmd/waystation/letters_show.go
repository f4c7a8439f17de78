package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/waystation-iot/waystation/gateway/observe"
)

// printJSON writes v as a person reads JSON.
func printJSON(out io.Writer, v any) error {
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// list shows one line per letter.
func (o *letterOptions) list(ctx context.Context, from letterBox, out io.Writer) error {
	all := []observe.LetterJSON{}
	after, shown := o.after, 0
	for {
		page, next, err := from.list(ctx, o.q, after, min(o.limit-shown, 1000))
		if err != nil {
			return err
		}
		shown += len(page)
		if o.asJSON {
			all = append(all, page...)
		}
		for i := range page {
			if o.asJSON {
				break
			}
			if _, err := fmt.Fprintln(out, letterLine(&page[i])); err != nil {
				return err
			}
		}
		if after = next; next == 0 || shown >= o.limit {
			break
		}
	}
	switch {
	case o.asJSON:
		return printJSON(out, all)
	case shown == 0:
		_, err := fmt.Fprintln(out, "none")
		return err
	case after > 0:
		_, err := fmt.Fprintf(out, "there may be more: --after %d, or a higher --limit\n", after)
		return err
	}
	return nil
}

// letterLine describes a letter in one line.
func letterLine(l *observe.LetterJSON) string {
	if l.State == "unreadable" {
		return fmt.Sprintf("%d  cannot be read  %s", l.ID, printable(l.Reason))
	}
	s := fmt.Sprintf("%d  %s  sink %s  %s/%d  %s  %d bytes: %s", l.ID, l.At.Format(time.RFC3339), l.Sink, l.Lane, l.Seq, printable(cmp.Or(l.Device, l.Name)), l.Bytes, printable(l.Reason))
	if l.RetryTo != "" {
		s += "  [to be sent again to " + l.RetryTo + "]"
	}
	if l.Retries > 0 {
		s += fmt.Sprintf("  [sent again and refused: %s]", count(l.Retries, "time"))
	}
	if l.Reported {
		s += "  [on the dead-letter topic]"
	}
	if l.ReportError != "" {
		s += "  [not on the dead-letter topic: " + printable(l.ReportError) + "]"
	}
	return s
}

// show shows one letter, whole.
func (o *letterOptions) show(ctx context.Context, from letterBox, out io.Writer) error {
	l, err := from.get(ctx, o.q.IDs[0])
	if err != nil {
		return err
	}
	if o.asJSON {
		return printJSON(out, l)
	}
	w := bufio.NewWriter(out)
	line := func(name, text string) {
		if text != "" {
			_, _ = fmt.Fprintf(w, "%-12s %s\n", name, printable(text))
		}
	}
	_, _ = fmt.Fprintln(w, letterLine(&l))
	line("gateway", cmp.Or(l.Gateway, "this one"))
	line("generation", l.Generation)
	if l.FirstAt != nil {
		line("first", l.FirstAt.Format(time.RFC3339)+": "+l.FirstReason)
	}
	line("source", l.Source)
	line("device", l.Device)
	line("name", l.Name)
	if r := l.Record; r != nil {
		line("received", r.Received.Format(time.RFC3339Nano))
		if r.Time != nil {
			line("time", r.Time.Format(time.RFC3339Nano))
		}
		line("quality", strings.TrimSpace(r.Quality+" "+r.Reason))
		line("content", r.ContentType)
		for k, v := range r.Tags {
			line("tag", k+"="+v)
		}
		for _, v := range r.Values {
			line("value", fmt.Sprintf("%s = %v %s %s %s", v.Name, v.Value, v.Unit, v.Quality, v.Reason))
		}
	}
	if l.Payload != nil {
		line("payload", fmt.Sprintf("%d bytes, beginning with %q", len(l.Payload), l.Payload[:min(len(l.Payload), 160)]))
	}
	return w.Flush()
}

// export writes letters as JSON lines, or their payloads to files.
func (o *letterOptions) export(ctx context.Context, from letterBox, out, errOut io.Writer) error {
	n := 0
	write := func(l *observe.LetterJSON) error {
		line, err := json.Marshal(l)
		if err == nil {
			_, err = out.Write(append(line, '\n'))
		}
		return err
	}
	finish := func(err error) error { return err }
	switch {
	case o.payloads != "":
		if err := os.MkdirAll(o.payloads, 0o700); err != nil {
			return err
		}
		write = o.payload
	case o.out != "-":
		f, done, err := create(o.out)
		if err != nil {
			return err
		}
		out, finish = f, done
		fallthrough
	default:
		buf := bufio.NewWriterSize(out, 64<<10)
		out = buf
		inner := finish
		finish = func(err error) error { return inner(errors.Join(err, buf.Flush())) }
	}
	err := from.export(ctx, o.q, func(l *observe.LetterJSON) error { n++; return write(l) })
	if err = finish(err); err != nil {
		return err
	}
	_, err = fmt.Fprintf(errOut, "%s exported\n", count(n, "dead letter"))
	return err
}

// payload writes the payload of a letter to a file: its id, and an ending by
// its content type. A record of values is written as JSON.
func (o *letterOptions) payload(l *observe.LetterJSON) error {
	data, ending := l.Payload, ".bin"
	switch {
	case data == nil && l.Record == nil:
		data, ending = l.Stored, ".stored" // it cannot be decoded
	case data == nil:
		var err error
		if data, err = json.Marshal(l.Record); err != nil {
			return err
		}
		ending = ".json"
	case l.Record != nil:
		switch kind, _, _ := mime.ParseMediaType(l.Record.ContentType); kind {
		case "application/json":
			ending = ".json"
		case "text/plain":
			ending = ".txt"
		}
	}
	f, err := createNew(filepath.Join(o.payloads, fmt.Sprintf("%d%s", l.ID, ending)))
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}
