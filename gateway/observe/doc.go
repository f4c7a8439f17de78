// Package observe shows a running gateway to people and machines: health,
// readiness, Prometheus metrics and the status as JSON over HTTP, and the same
// status as text for a terminal.
package observe
