package config

import (
	"strings"
	"testing"
	"time"

	"github.com/waystation-iot/waystation/gateway"
)

// withSink is a file whose sink has more options.
func withSink(more string) string {
	return "gateway: {id: g}\nsources: [{name: a, type: mqtt, url: x, topics: [t]}]\nsinks: [{name: s, type: kafka, brokers: [\"h:1\"], topic: t, " + more + "}]\n"
}

func TestSinkOptions(t *testing.T) {
	for _, tc := range []rule{
		{"filter lane", withSink("filter: {include: [{lane: alarm}]}"), withSink("filter: {include: [{lane: alram}]}"), `sinks[0].filter.include[0].lane: must be one of alarm, telemetry, bulk, not the text "alram": did you mean "alarm"?`},
		{"filter key", withSink("filter: {exclude: [{source: a}]}"), withSink("filter: {exclude: [{sorce: a}]}"), `sinks[0].filter.exclude[0]: unknown option "sorce": did you mean "source"?`},
		{"filter pattern", withSink("filter: {exclude: [{name: a/#}]}"), withSink("filter: {exclude: [{name: a/#/b}]}"), `sinks[0].filter.exclude[0].name: "a/#/b" has # before its last level`},
		{"filter of all", withSink("filter: {include: [{lane: alarm}]}"), withSink("filter: {include: [{}]}"), `sinks[0].filter.include[0]: matches every record`},
		{"filter value", withSink("filter: {include: [{value: t, above: 1}]}"), withSink("filter: {include: [{above: 1}]}"), `sinks[0].filter.include[0]: above, below and equals need value`},
		{"filter tag", withSink("filter: {include: [{tags: {a: b}}]}"), withSink(`filter: {include: [{tags: {"": b}}]}`), `sinks[0].filter.include[0].tags: a tag needs a name`},
		{"batch records", withSink("batch: {max_records: 8192}"), withSink("batch: {max_records: 9000}"), `sinks[0].batch.max_records: 9000 is out of range: 1 to 8192`},
		{"batch bytes", withSink("batch: {max_bytes: 8KiB}"), withSink("batch: {max_bytes: 1KiB}"), `sinks[0].batch.max_bytes: 1KiB is out of range: 8KiB to 4MiB`},
		{"batch wait", withSink("batch: {max_wait: 1m}"), withSink("batch: {max_wait: 2h}"), `sinks[0].batch.max_wait: 2h0m0s is out of range`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			parse(t, tc.good)
			fs := faults(t, tc.bad)
			if len(fs) != 1 || !strings.Contains(fs.Error(), tc.want) {
				t.Errorf("want one fault with\n%s\ngot %d:\n%v", tc.want, len(fs), fs)
			}
		})
	}
	s := parse(t, withSink("filter: {include: [{quality: bad}]}, batch: {max_records: 7, max_bytes: 16KiB, max_wait: 3s}")).Sinks[0]
	if s.Filter == nil || s.Batch != (gateway.BatchLimits{Records: 7, Bytes: 16 << 10, Wait: 3 * time.Second}) {
		t.Errorf("%+v", s)
	}
	if s := parse(t, withSink("batch: {}")).Sinks[0]; s.Filter != nil || s.Batch != (gateway.BatchLimits{}) {
		t.Errorf("without options: %+v", s)
	}
}
