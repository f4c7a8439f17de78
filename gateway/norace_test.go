//go:build !race

package gateway

// poolDrops: see race_test.go.
const poolDrops = 0
