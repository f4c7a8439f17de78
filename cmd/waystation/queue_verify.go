package main

import (
	"fmt"
	"io"

	"github.com/waystation-iot/waystation/buffer"
	"github.com/waystation-iot/waystation/gateway"
)

const queueVerifyUsage = `usage: waystation queue verify DIR

Reads every block of every segment: checksums, order, holes, and what the
blocks expand to. It only reads: the gateway may run. Blocks of an encrypted
queue are decrypted when their key is given; else only their checksums are read.
Exit code 1 when something is damaged or missing.

  waystation queue verify /var/lib/waystation
  waystation queue verify --key file:/etc/waystation/queue.key --json DIR
`

// queueVerify is `waystation queue verify`.
func queueVerify(args []string, out, errOut io.Writer) int {
	t := newTool("verify", queueVerifyUsage, out, errOut)
	t.withKeys()
	t.withQuiet()
	if code, ok := t.parse(args, 0); !ok {
		return code
	}
	bar := t.progress("verified")
	rep, err := buffer.Verify(t.dir, buffer.VerifyOptions{Keys: t.keys, Progress: bar.step})
	bar.end()
	if err != nil {
		return t.fail(err)
	}
	if t.asJSON {
		err = t.print(verifyView(rep))
	} else {
		writeReport(out, rep)
	}
	if err != nil || len(rep.Damage) > 0 {
		return exitFound
	}
	return exitGood
}

// verifyLane is what verify says of a lane, as JSON.
type verifyLane struct {
	Lane     string     `json:"lane"`
	First    uint64     `json:"first"`
	Next     uint64     `json:"next"`
	Segments int        `json:"segments"`
	Blocks   int64      `json:"blocks"`
	Records  int64      `json:"records"`
	Stored   int64      `json:"stored_bytes"`
	Raw      int64      `json:"expanded_bytes"`
	Sealed   int64      `json:"encrypted_blocks,omitempty"`
	Sparse   int64      `json:"thinned_blocks,omitempty"`
	Losses   []lossView `json:"losses"`
}

// verifyView makes the JSON form of a report.
func verifyView(rep *buffer.Report) any {
	v := struct {
		Good    bool         `json:"good"`
		Bytes   int64        `json:"bytes_read"`
		Blocks  int64        `json:"blocks"`
		Records int64        `json:"records"`
		Sealed  int64        `json:"encrypted_blocks"`
		Locked  int64        `json:"not_decrypted_blocks"`
		Lanes   []verifyLane `json:"lanes"`
		Damage  []damageView `json:"damage"`
		Notes   []damageView `json:"notes"`
	}{len(rep.Damage) == 0, rep.Bytes, rep.Blocks, rep.Records, rep.Sealed, rep.Locked, []verifyLane{}, damages(rep.Damage), damages(rep.Notes)}
	for _, l := range rep.Lanes {
		v.Lanes = append(v.Lanes, verifyLane{l.Lane, l.First, l.Next, l.Segments, l.Blocks, l.Records, l.Stored, l.Raw, l.Sealed, l.Sparse, losses(l.Losses)})
	}
	return v
}

// writeReport writes a report for a person.
func writeReport(out io.Writer, rep *buffer.Report) {
	writeDamage(out, damages(rep.Damage), "damaged")
	writeDamage(out, damages(rep.Notes), "note")
	for _, l := range rep.Lanes {
		held := "empty"
		if l.First < l.Next {
			held = "seqs " + seqs(l.First, l.Next-1)
		}
		_, _ = fmt.Fprintf(out, "%s: %s, %s in %s, %s\n", l.Lane, held, count(int(l.Records), "record"), count(int(l.Blocks), "block"), gateway.Size(l.Stored))
		writeLosses(out, l.Lane, losses(l.Losses))
	}
	if rep.Locked > 0 {
		_, _ = fmt.Fprintf(out, "%s of %d are encrypted and no key was given for them: only their checksums were read (see --key)\n", count(int(rep.Locked), "block"), rep.Blocks)
	}
	if n := len(rep.Damage); n > 0 {
		_, _ = fmt.Fprintf(out, "%s found\n", count(n, "fault"))
		return
	}
	_, _ = fmt.Fprintf(out, "all is well: %s read\n", gateway.Size(rep.Bytes))
}
