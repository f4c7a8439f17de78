package main

import (
	"fmt"
	"io"
	"slices"
	"time"
)

// Verdict is what a judge found in Kafka.
type Verdict struct {
	Good     bool     `json:"good"`
	Findings []string `json:"findings,omitempty"` // why it is not good

	Sent    int64 `json:"sent"`    // by devices, 0 when not known
	Acked   int64 `json:"acked"`   // acknowledged to devices, 0 when not known
	Records int64 `json:"records"` // in Kafka, repeated ones included
	Arrived int64 `json:"arrived"` // messages of devices, each counted once
	Lost    int64 `json:"lost"`    // acknowledged and not arrived

	Repeated       int64 `json:"repeated"`       // records that arrived before
	Unrecognisable int64 `json:"unrecognisable"` // of these, under a new (generation, lane, seq): at most Redelivered
	RepeatLimit    int64 `json:"repeat_limit"`   // how many may be repeated: the records of one batch
	Redelivered    int64 `json:"redelivered"`    // messages the MQTT broker had to send again (DUP)

	OutOfOrder int64 `json:"out_of_order"` // messages that came after a later one of their device
	Split      int64 `json:"split"`        // devices found in more than one partition
	Altered    int64 `json:"altered"`      // payloads that are not byte for byte what was sent
	WrongKey   int64 `json:"wrong_key"`    // records whose key is not the MQTT topic
	Unexpected int64 `json:"unexpected"`   // messages that no device sent

	BadHeaders int64 `json:"bad_headers"` // records without a good gateway, generation, lane or seq
	SeqHoles   int64 `json:"seq_holes"`   // positions of the queue that did not arrive
	SeqReused  int64 `json:"seq_reused"`  // positions that arrived with different messages
	Other      int64 `json:"other"`       // records that are no messages of devices
	Open       int64 `json:"open"`        // records of transactions never finished, invisible

	WorstDelay  time.Duration `json:"worst_delay_ns"` // from a device to a consumer of Kafka; 0 when nobody followed
	WorstDevice string        `json:"worst_device,omitempty"`
	Lanes       []LaneVerdict `json:"lanes,omitempty"`
}

// LaneVerdict is what arrived of one lane of one gateway's queue.
type LaneVerdict struct {
	Gateway    string `json:"gateway"`
	Generation string `json:"generation"`
	Lane       string `json:"lane"`
	First      uint64 `json:"first"`
	Last       uint64 `json:"last"`
	Distinct   uint64 `json:"distinct"`
	Holes      int64  `json:"holes"`
}

// conclude fills in Findings and Good.
func (v *Verdict) conclude() {
	for _, c := range []struct {
		n    int64
		text string
	}{
		{v.Lost, "%d acknowledged messages never arrived"},
		{v.OutOfOrder, "%d messages arrived out of order"},
		{v.Split, "%d devices were spread over several partitions"},
		{max(0, v.Unrecognisable-v.Redelivered), "%d repeated messages cannot be told by their headers, though the MQTT broker sent them once"},
		{max(0, v.Repeated-v.Unrecognisable-v.RepeatLimit), "%d messages more were repeated than one batch holds"},
		{v.Altered, "%d payloads were altered"},
		{v.WrongKey, "%d records have a key that is not their MQTT topic"},
		{v.Unexpected, "%d messages arrived that no device sent"},
		{v.BadHeaders, "%d records lack a good gateway, generation, lane or seq header"},
		{v.SeqHoles, "%d positions of the queue are missing in Kafka"},
		{v.SeqReused, "%d positions of the queue were used twice"},
	} {
		if c.n != 0 {
			v.Findings = append(v.Findings, fmt.Sprintf(c.text, c.n))
		}
	}
	if v.Arrived == 0 && v.Other == 0 {
		v.Findings = append(v.Findings, "nothing arrived at all")
	}
	v.Good = len(v.Findings) == 0
}

// fault adds a finding that is not about the records.
func (v *Verdict) fault(format string, args ...any) {
	v.Findings = append(v.Findings, fmt.Sprintf(format, args...))
	v.Good = false
}

// write prints the verdict for people.
func (v *Verdict) write(w io.Writer) {
	row := func(name string, n int64, notes ...string) {
		fmt.Fprintf(w, "  %-26s %11s", name, thousands(n))
		for _, s := range slices.DeleteFunc(notes, func(s string) bool { return s == "" }) {
			fmt.Fprintf(w, "  %s", s)
		}
		fmt.Fprintln(w)
	}
	if v.Sent > 0 {
		row("sent by devices", v.Sent)
		row("acknowledged to devices", v.Acked)
	}
	row("arrived in Kafka", v.Arrived, fmt.Sprintf("(%s records, %s of them not from devices)", thousands(v.Records), thousands(v.Other)))
	row("lost", v.Lost)
	row("repeated", v.Repeated, fmt.Sprintf("(allowed: one batch, %s)", thousands(v.RepeatLimit)))
	again := ""
	if v.Redelivered > 0 {
		again = fmt.Sprintf("(the MQTT broker sent %s messages twice: killed before it could hear our acknowledgement)", thousands(v.Redelivered))
	}
	row("  not told by headers", v.Unrecognisable, again)
	row("out of order", v.OutOfOrder)
	row("altered", v.Altered)
	row("holes in the seq of lanes", v.SeqHoles)
	for _, l := range v.Lanes {
		fmt.Fprintf(w, "    %s %s %s: seq %d to %d\n", l.Gateway, l.Generation, l.Lane, l.First, l.Last)
	}
	if v.WorstDelay > 0 {
		fmt.Fprintf(w, "  %-26s %10.1fs  %s\n", "worst delay", v.WorstDelay.Seconds(), v.WorstDevice)
	}
	if v.Good {
		count := "every message"
		if v.Acked > 0 {
			count = fmt.Sprintf("all %s acknowledged messages", thousands(v.Acked))
		}
		fmt.Fprintf(w, "PASS: %s arrived, byte for byte, each device in order; %s repeated.\n", count, thousands(v.Repeated))
		return
	}
	for _, f := range v.Findings {
		fmt.Fprintf(w, "FAIL: %s\n", f)
	}
}

// thousands writes n with a comma every three digits.
func thousands(n int64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
