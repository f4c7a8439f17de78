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
	reg.MustRegister(newCollector(status), measures{status}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return reg
}

// The metrics: name, help, labels.
func metricTable() [][]string {
	return [][]string{
		{"source_up", "1 while the source is connected and reading.", "source", "type"},
		{"source_records_received_total", "Records handed in by the source since the start.", "source"},
		{"source_records_queued_total", "Records of the source in a synced commit since the start.", "source"},
		{"source_records_filtered_total", "Records of the source dropped by its rules since the start.", "source"},
		{"source_records_in_flight", "Records handed in and not answered by the queue yet.", "source"},
		{"source_records_refused_total", "Records the queue could not take; not acknowledged to the device.", "source"},
		{"source_records_bad_quality_total", "Records queued with quality bad, such as payloads that cannot be decoded.", "source"},
		{"source_bytes_total", "Stored size of the records handed in, before compression.", "source"},
		{"queue_ok", "1 while the queue takes records."},
		{"queue_bytes", "Size of the queue's files."},
		{"queue_max_bytes", "Byte budget of the queue."},
		{"queue_high_water", "1 while the queue's files take more than high_water percent of its budget."},
		{"queue_retained_bytes", "Size of delivered segments that are kept to be sent again."},
		{"queue_payload_bytes_total", "Bytes of the records committed since the start, before compression."},
		{"queue_stored_bytes_total", "The same after compression."},
		{"queue_device_bytes_total", "Bytes this process gave to block devices; 0 when the system does not tell."},
		{"queue_commits_total", "Synced commits since the start."},
		{"queue_commit_seconds", "How long commits took, with their syncs."},
		{"queue_evictions_total", "Segments deleted since the start before they were sent, to keep a byte budget."},
		{"queue_thinned_records_total", "Records taken out since the start by policy thin."},
		{"queue_quarantined_segments", "Segments set aside since the start because they could not be read."},
		{"queue_lane_first_seq", "Oldest sequence number still stored.", "lane"},
		{"queue_lane_next_seq", "Sequence number of the next record.", "lane"},
		{"queue_lane_segments", "Segments of the lane.", "lane"},
		{"queue_lane_bytes", "Size of the lane's files.", "lane"},
		{"queue_lane_max_bytes", "Byte budget of the lane alone; 0 when it has none.", "lane"},
		{"queue_lane_high_water", "1 while the lane's files take more than high_water percent of its own budget.", "lane"},
		{"queue_lane_oldest_waiting_seconds", "Age of the oldest record that a sink waits for; 0 when none waits.", "lane"},
		{"flash_bytes_per_day", "Bytes written to the medium per day, at the mean since the start; from ten minutes on."},
		{"flash_life_days", "Days until a new medium has taken the configured endurance at that rate."},
		{"sink_up", "1 while the sink is connected.", "sink", "type"},
		{"sink_records_sent_total", "Records confirmed by the far side, over the life of the queue.", "sink"},
		{"sink_records_dead_lettered_total", "Records refused for good, over the life of the queue.", "sink"},
		{"sink_records_lost_total", "Records evicted or unreadable before they were sent, over the life of the queue.", "sink"},
		{"sink_records_filtered_total", "Records left out by the filter of the sink, over the life of the queue.", "sink"},
		{"sink_records_waiting", "Records stored and not yet confirmed.", "sink"},
		{"sink_warning", "1 for each thing that a sink says needs a person, such as a certificate that ends soon.", "sink", "fact"},
		{"sink_ends_timestamp_seconds", "When something of the sink ends, such as a certificate, Unix time.", "sink", "fact"},
		{"source_ends_timestamp_seconds", "When something of the source ends, such as a certificate, Unix time.", "source", "fact"},
		{"dead_letters", "Dead letters that wait for a person.", "sink"},
		{"dead_letters_bytes", "Stored size of the dead letters.", "sink"},
		{"dead_letters_oldest_seconds", "Age of the oldest dead letter; 0 when there is none.", "sink"},
		{"dead_letters_retrying", "Dead letters that are to be sent to the sink again.", "sink"},
		{"dead_letters_unreported", "Dead letters that wait to be sent to the dead-letter topic of the sink.", "sink"},
		{"dead_letters_max_bytes", "Byte budget of all dead letters."},
		{"dead_letters_evicted_total", "Dead letters deleted since the start to keep their budget."},
		{"dead_letters_delivered_total", "Dead letters confirmed when they were sent again, since the start."},
		{"dead_letters_dropped_total", "Dead letters dropped by a person since the start."},
		{"books_balanced", "1 while queued = sent + dead-lettered + lost + filtered + waiting holds for every sink."},
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
	var put putter = func(name string, kind prometheus.ValueType, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(c.desc[name], kind, v, labels...)
	}
	const gauge, counter = prometheus.GaugeValue, prometheus.CounterValue
	for i := range s.Sources {
		src := &s.Sources[i]
		put("source_up", gauge, truth(src.State == gateway.Up), src.Name, src.Type)
		put("source_records_received_total", counter, float64(src.Received), src.Name)
		put("source_records_queued_total", counter, float64(src.Queued), src.Name)
		put("source_records_filtered_total", counter, float64(src.Filtered), src.Name)
		put("source_records_in_flight", gauge, float64(src.InFlight), src.Name)
		put("source_records_refused_total", counter, float64(src.Refused), src.Name)
		put("source_records_bad_quality_total", counter, float64(src.BadQuality), src.Name)
		put("source_bytes_total", counter, float64(src.Bytes), src.Name)
		for _, x := range src.Facts {
			if x.Ends != 0 {
				put("source_ends_timestamp_seconds", gauge, float64(x.Ends), src.Name, x.Name)
			}
		}
	}
	c.queue(ch, &s, put)
	for i := range s.Sinks {
		k := &s.Sinks[i]
		put("sink_up", gauge, truth(k.State == gateway.Up), k.Name, k.Type)
		put("sink_records_sent_total", counter, float64(k.Sent), k.Name)
		put("sink_records_dead_lettered_total", counter, float64(k.DeadLettered), k.Name)
		put("sink_records_lost_total", counter, float64(k.Lost), k.Name)
		put("sink_records_filtered_total", counter, float64(k.Filtered), k.Name)
		put("sink_records_waiting", gauge, float64(k.Waiting), k.Name)
		for _, x := range k.Facts {
			if x.Warn {
				put("sink_warning", gauge, 1, k.Name, x.Name)
			}
			if x.Ends != 0 {
				put("sink_ends_timestamp_seconds", gauge, float64(x.Ends), k.Name, x.Name)
			}
		}
	}
	letterMetrics(&s, put)
	put("books_balanced", gauge, truth(s.Books.Balanced))
	put("clock_trusted", gauge, truth(s.ClockTrusted))
}

// letterMetrics collects the metrics of dead letters.
func letterMetrics(s *gateway.Status, put putter) {
	const gauge, counter = prometheus.GaugeValue, prometheus.CounterValue
	d := &s.DeadLetters
	for i := range d.Sinks {
		k := &d.Sinks[i]
		age := 0.0
		if k.Oldest != nil {
			age = max(0, s.Now.Sub(*k.Oldest).Seconds())
		}
		put("dead_letters", gauge, float64(k.Kept), k.Sink)
		put("dead_letters_bytes", gauge, float64(k.Bytes), k.Sink)
		put("dead_letters_oldest_seconds", gauge, age, k.Sink)
		put("dead_letters_retrying", gauge, float64(k.Retrying), k.Sink)
		put("dead_letters_unreported", gauge, float64(k.Unreported), k.Sink)
	}
	put("dead_letters_max_bytes", gauge, float64(d.MaxBytes))
	put("dead_letters_evicted_total", counter, float64(d.Evicted))
	put("dead_letters_delivered_total", counter, float64(d.Delivered))
	put("dead_letters_dropped_total", counter, float64(d.Dropped))
}

// putter hands out one metric.
type putter func(name string, kind prometheus.ValueType, v float64, labels ...string)

// queue collects the metrics of the queue.
func (c *collector) queue(ch chan<- prometheus.Metric, s *gateway.Status, put putter) {
	const gauge, counter = prometheus.GaugeValue, prometheus.CounterValue
	q := &s.Queue
	put("queue_ok", gauge, truth(q.State == "ok"))
	put("queue_bytes", gauge, float64(q.Bytes))
	put("queue_max_bytes", gauge, float64(q.MaxBytes))
	put("queue_high_water", gauge, truth(q.HighWater))
	put("queue_retained_bytes", gauge, float64(q.Retained))
	put("queue_payload_bytes_total", counter, float64(q.Payload))
	put("queue_stored_bytes_total", counter, float64(q.Stored))
	put("queue_device_bytes_total", counter, float64(q.Device))
	put("queue_commits_total", counter, float64(q.Commits))
	put("queue_evictions_total", counter, float64(q.Evictions))
	put("queue_thinned_records_total", counter, float64(q.Thinned))
	put("queue_quarantined_segments", gauge, float64(q.Quarantined))
	count, buckets := cumulative(&q.CommitTimes)
	ch <- prometheus.MustNewConstHistogram(c.desc["queue_commit_seconds"], count, q.CommitTimes.Sum, buckets)
	for i := range q.Lanes {
		l := &q.Lanes[i]
		name := laneLabel(q, l)
		put("queue_lane_first_seq", gauge, float64(l.First), name)
		put("queue_lane_next_seq", gauge, float64(l.Next), name)
		put("queue_lane_segments", gauge, float64(l.Segments), name)
		put("queue_lane_bytes", gauge, float64(l.Bytes), name)
		put("queue_lane_max_bytes", gauge, float64(l.MaxBytes), name)
		put("queue_lane_high_water", gauge, truth(l.HighWater), name)
		age := 0.0
		if l.Oldest != nil {
			age = max(0, s.Now.Sub(*l.Oldest).Seconds())
		}
		put("queue_lane_oldest_waiting_seconds", gauge, age, name)
	}
	if f := q.Flash; f != nil {
		put("flash_bytes_per_day", gauge, float64(f.PerDay))
		if f.Days != nil {
			put("flash_life_days", gauge, *f.Days)
		}
	}
}

// cumulative turns counts per bucket into those of Prometheus, which count all
// below a bound.
func cumulative(h *gateway.Histogram) (count uint64, buckets map[float64]uint64) {
	buckets = make(map[float64]uint64, len(h.Bounds))
	for i, n := range h.Counts {
		count += uint64(max(0, n))
		if i < len(h.Bounds) {
			buckets[h.Bounds[i]] = count
		}
	}
	return count, buckets
}

// laneLabel names a lane: with the generation when it came from another queue,
// which may have lanes of the same names.
func laneLabel(q *gateway.QueueStatus, l *gateway.LaneStatus) string {
	if l.Generation == q.Generation || l.Generation == "" {
		return l.Name
	}
	return l.Name + "@" + l.Generation
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
