package config

import (
	"fmt"
	"slices"
	"strings"
)

// nearest returns the word closest to s, "" when none is close: at most one
// edit for short words, two for longer ones, or one word is the start of the
// other.
func nearest(s string, words []string) string {
	best, limit := "", 1
	if len(s) > 4 {
		limit = 2
	}
	low := strings.ToLower(s)
	for _, w := range words {
		if d := distance(low, strings.ToLower(w)); d <= limit && len(w) > d {
			best, limit = w, d-1
		}
	}
	if best != "" || len(low) < 3 {
		return best
	}
	for _, w := range words {
		if strings.HasPrefix(w, low) || len(w) >= 3 && strings.HasPrefix(low, w) || squash(w) == squash(low) {
			return w
		}
	}
	return ""
}

// squash drops what people write differently: "clientId", "client-id".
func squash(s string) string {
	return strings.ToLower(strings.NewReplacer("_", "", "-", "", " ", "").Replace(s))
}

// distance counts the insertions, deletions, changes and swaps of neighbours
// that make b of a (optimal string alignment). Long words are not compared.
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	prev2, prev := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row := make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(prev[j]+1, row[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], prev2[j-2]+1)
			}
		}
		prev2, prev = prev, row
	}
	return prev[len(b)]
}

// unknown words the message and the hint about a word that is not among the
// allowed ones; near is the suggestion.
func unknown(what, word string, allowed []string) (msg, hint, near string) {
	near = nearest(word, allowed)
	sorted := slices.Sorted(slices.Values(allowed))
	hint = "allowed: " + strings.Join(sorted, ", ")
	if near != "" {
		hint = fmt.Sprintf("did you mean %q? %s", near, hint)
	}
	return fmt.Sprintf("unknown %s %q", what, clip(word, 60)), hint, near
}
