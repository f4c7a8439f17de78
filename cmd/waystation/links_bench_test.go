//go:build bench

package main

import (
	"testing"
	"time"

	"github.com/waystation-iot/waystation/cmd/waystation/peers/link"
)

// BenchmarkLinks sends a backlog of telemetry over each bad link and over a
// perfect one, and states the bytes on the wire and the time.
func BenchmarkLinks(b *testing.B) {
	each := map[string]int{"perfect": 10_000, "satellite": 5000, "64kbit": 2000, "9.6kbit": 300, "flapping": 10_000}
	for _, profile := range append([]link.Profile{{Name: "perfect"}}, link.Profiles()...) {
		b.Run(profile.Name, func(b *testing.B) {
			r := newLinkRuns(b, []link.Profile{profile})[0]
			r.each = each[profile.Name]
			got := r.send(b, 15*time.Minute)
			if !got.verdict.good() {
				b.Error(got.verdict)
			}
			n := float64(got.records)
			b.ReportMetric(n, "records")
			b.ReportMetric(float64(got.up)/n, "up-wire-B/record")
			b.ReportMetric(float64(got.down)/n, "down-wire-B/record")
			b.ReportMetric(got.perRecord(), "wire-B/record")
			b.ReportMetric(n/got.took.Seconds(), "rec/s")
			b.ReportMetric(0, "ns/op")
		})
	}
}
