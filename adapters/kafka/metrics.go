package kafka

import (
	"strings"

	"github.com/rcrowley/go-metrics"
)

// noMetrics is a registry that keeps nothing. sarama's default registry keeps
// a histogram of a thousand samples per broker and topic and starts a
// goroutine that never ends; metrics.UseNilMetrics would do too, but is a
// variable of the whole process.
type noMetrics struct{}

func (noMetrics) Each(func(string, any))            {}
func (noMetrics) Get(string) any                    { return nil }
func (noMetrics) GetAll() map[string]map[string]any { return nil }
func (noMetrics) Register(string, any) error        { return nil }
func (noMetrics) RunHealthchecks()                  {}
func (noMetrics) Unregister(string)                 {}
func (noMetrics) UnregisterAll()                    {}
func (noMetrics) GetOrRegister(name string, m any) any {
	switch m.(type) {
	case func() metrics.Meter:
		return metrics.NilMeter{}
	case func() metrics.Counter:
		return metrics.NilCounter{}
	case func() metrics.Histogram:
		return metrics.NilHistogram{}
	}
	if strings.HasSuffix(name, "-rate") {
		return metrics.NilMeter{}
	}
	return m
}
