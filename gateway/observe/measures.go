package observe

import (
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/waystation-iot/waystation/gateway"
)

// measures makes metrics of what sources tell of themselves. Which there are
// is known only when they are asked, so nothing is described before.
type measures struct{ status func() gateway.Status }

// Describe implements prometheus.Collector.
func (measures) Describe(chan<- *prometheus.Desc) {}

// measureKind is what all metrics of one name have in common.
type measureKind struct {
	desc    *prometheus.Desc
	counter bool
	labels  []string
	seen    map[string]bool
}

// Collect implements prometheus.Collector. What does not fit the first measure
// of its name, or was there before, is left out: one source must not spoil the
// metrics of all.
func (m measures) Collect(ch chan<- prometheus.Metric) {
	s := m.status()
	kinds := map[string]*measureKind{}
	for i := range s.Sources {
		for _, x := range s.Sources[i].Measures {
			if metric := measured(kinds, s.Sources[i].Name, &x); metric != nil {
				ch <- metric
			}
		}
	}
}

// metricName reports whether a name can be one of a metric or a label.
func metricName(name string) bool {
	return name != "" && !strings.ContainsFunc(name, func(r rune) bool { return r != '_' && (r < 'a' || r > 'z') && (r < '0' || r > '9') })
}

// measured makes the metric of a measure, nil when it does not fit.
func measured(kinds map[string]*measureKind, source string, x *gateway.Measure) prometheus.Metric {
	name := "waystation_source_" + x.Name
	if !metricName(x.Name) || slices.ContainsFunc(x.Labels, func(l gateway.Tag) bool { return !metricName(l.Key) }) {
		return nil
	}
	labels, values := []string{"source"}, []string{source}
	for _, l := range x.Labels {
		labels, values = append(labels, l.Key), append(values, strings.ToValidUTF8(l.Value, "\uFFFD"))
	}
	k := kinds[name]
	if k == nil {
		k = &measureKind{prometheus.NewDesc(name, x.Help, labels, nil), x.Counter, labels, map[string]bool{}}
		kinds[name] = k
	}
	key := strings.Join(values, "\x00")
	if k.counter != x.Counter || !slices.Equal(k.labels, labels) || k.seen[key] {
		return nil
	}
	k.seen[key] = true
	kind := prometheus.GaugeValue
	if x.Counter {
		kind = prometheus.CounterValue
	}
	metric, err := prometheus.NewConstMetric(k.desc, kind, x.Value, values...)
	if err != nil {
		return nil
	}
	return metric
}
