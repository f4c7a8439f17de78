//go:build !failpoint

package kafka

// newFailpoint returns nothing: a binary that is shipped has no failpoints.
func newFailpoint() func(point string) { return nil }
