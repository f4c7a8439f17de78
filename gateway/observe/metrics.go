package observe

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/waystation-iot/waystation/gateway"
)

// collector makes the metrics of a gateway from its status at each scrape.
type collector struct {
	status func() gateway.Status
	desc   map[string]*prometheus.Desc
}

// newRegistry returns a registry with the gateway's metrics and those of the
// Go runtime and the process.
func newRegistry(status func() gateway.Status) *prometheus.Registry {
	reg := prometheus.NewRegistry()
	reg.MustRegister(newCollector(status), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return reg
}

// The metrics: name, help, labels.
func metricTable() [][]string {
	return [][]string{
		{"source_up", "1 while the source is connected and reading.", "source", "type"},
		{"source_records_received_total", "Records handed in by the source since the start.", "source"},
		{"source_records_queued_total", "Records of the source in a synced commit since the start.", "source"},
		{"source_records_refused_total", "Records the queue could not take; not acknowledged to the device.", "source"},
		{"source_records_bad_quality_total", "Records queued with quality bad, such as payloads that cannot be decoded.", "source"},
		{"source_bytes_total", "Stored size of the records handed in, before compression.", "source"},
		{"queue_ok", "1 while the queue takes records."},
		{"queue_bytes", "Size of the queue's files."},
		{"queue_max_bytes", "Byte budget of the queue."},
		{"queue_commits_total", "Synced commits since the start."},
		{"queue_quarantined_segments", "Segments set aside since the start because they could not be read."},
		{"queue_lane_first_seq", "Oldest sequence number still stored.", "lane"},
		{"queue_lane_next_seq", "Sequence number of the next record.", "lane"},
		{"queue_lane_segments", "Segments of the lane.", "lane"},
		{"sink_up", "1 while the sink is connected.", "sink", "type"},
		{"sink_records_sent_total", "Records confirmed by the far side, over the life of the queue.", "sink"},
		{"sink_records_dead_lettered_total", "Records refused for good, over the life of the queue.", "sink"},
		{"sink_records_lost_total", "Records evicted or unreadable before they were sent, over the life of the queue.", "sink"},
		{"sink_records_waiting", "Records stored and not yet confirmed.", "sink"},
		{"books_balanced", "1 while queued = sent + dead-lettered + lost + waiting holds for every sink."},
		{"clock_trusted", "1 while the clock of this machine is believed."},
	}
}

func newCollector(status func() gateway.Status) *collector {
	c := &collector{status: status, desc: map[string]*prometheus.Desc{}}
	for _, m := range metricTable() {
		c.desc[m[0]] = prometheus.NewDesc("waystation_"+m[0], m[1], m[2:], nil)
	}
	return c
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.desc {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	s := c.status()
	put := func(name string, kind prometheus.ValueType, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(c.desc[name], kind, v, labels...)
	}
	const gauge, counter = prometheus.GaugeValue, prometheus.CounterValue
	for i := range s.Sources {
		src := &s.Sources[i]
		put("source_up", gauge, truth(src.State == gateway.Up), src.Name, src.Type)
		put("source_records_received_total", counter, float64(src.Received), src.Name)
		put("source_records_queued_total", counter, float64(src.Queued), src.Name)
		put("source_records_refused_total", counter, float64(src.Refused), src.Name)
		put("source_records_bad_quality_total", counter, float64(src.BadQuality), src.Name)
		put("source_bytes_total", counter, float64(src.Bytes), src.Name)
	}
	put("queue_ok", gauge, truth(s.Queue.State == "ok"))
	put("queue_bytes", gauge, float64(s.Queue.Bytes))
	put("queue_max_bytes", gauge, float64(s.Queue.MaxBytes))
	put("queue_commits_total", counter, float64(s.Queue.Commits))
	put("queue_quarantined_segments", gauge, float64(s.Queue.Quarantined))
	for _, l := range s.Queue.Lanes {
		put("queue_lane_first_seq", gauge, float64(l.First), l.Name)
		put("queue_lane_next_seq", gauge, float64(l.Next), l.Name)
		put("queue_lane_segments", gauge, float64(l.Segments), l.Name)
	}
	for i := range s.Sinks {
		k := &s.Sinks[i]
		put("sink_up", gauge, truth(k.State == gateway.Up), k.Name, k.Type)
		put("sink_records_sent_total", counter, float64(k.Sent), k.Name)
		put("sink_records_dead_lettered_total", counter, float64(k.DeadLettered), k.Name)
		put("sink_records_lost_total", counter, float64(k.Lost), k.Name)
		put("sink_records_waiting", gauge, float64(k.Waiting), k.Name)
	}
	put("books_balanced", gauge, truth(s.Books.Balanced))
	put("clock_trusted", gauge, truth(s.ClockTrusted))
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
