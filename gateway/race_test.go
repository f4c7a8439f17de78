//go:build race

package gateway

// poolDrops is how many allocations the race detector adds, which makes
// sync.Pool forget a quarter of what it is given.
const poolDrops = 1
