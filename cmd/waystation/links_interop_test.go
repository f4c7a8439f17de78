//go:build interop

package main

import (
	"testing"
	"time"

	"github.com/waystation-iot/waystation/cmd/waystation/peers/link"
)

// wireGoal is the most bytes on the wire for a record of 200 bytes of telemetry
// in full batches with zstd, both ways together.
const wireGoal = 30

// TestLinksInterop sends a backlog to a real Kafka over each bad link, all at
// once: everything arrives once and in order.
func TestLinksInterop(t *testing.T) {
	t.Parallel()
	built(t, "waystation")
	profiles := link.Profiles()
	each := map[string]int{"satellite": 1000, "64kbit": 400, "9.6kbit": 50, "flapping": 2000}
	runs := newLinkRuns(t, profiles)
	// The group ends before the peers do: their clean-up is the parent's.
	t.Run("profiles", func(t *testing.T) {
		for i, r := range runs {
			r.each = each[profiles[i].Name]
			t.Run(profiles[i].Name, func(t *testing.T) {
				t.Parallel()
				got := r.send(t, 3*time.Minute)
				t.Logf("%d records in %s, %d bytes up and %d down: %.1f B/record; %s", got.records, got.took.Round(100*time.Millisecond),
					got.up, got.down, got.perRecord(), got.verdict)
				if !got.verdict.good() || got.verdict.again != 0 {
					t.Errorf("%s", got.verdict)
				}
				// A small backlog pays for the connections too; flapping pays for what is sent again.
				if got.records >= 4000 && profiles[i].Down == 0 && got.perRecord() > wireGoal {
					t.Errorf("%.1f bytes on the wire for a record, want at most %d", got.perRecord(), wireGoal)
				}
			})
		}
	})
}
