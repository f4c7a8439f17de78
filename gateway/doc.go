// Package gateway says what a record is, what a source and a sink are, and
// moves records from sources through the durable queue to sinks.
//
// The way of a record:
//
//	Source.Run ─► Intake.Deliver ─► Queue.Append ─► one synced commit ─► done(nil) ─► the source acknowledges
//	                                     │
//	                          Forwarder (one per sink, own cursor) ─► Sink.Send ─► Queue.Release
//
// Retry, back-off, panic recovery and the logging of state changes live here
// once (supervise.go) and in no adapter. docs/architecture.md walks through it.
package gateway
