package callback

import (
	"slices"
	"strings"
)

// bounded copies headers, by name, as long as they fit. What is not UTF-8 in a
// value is replaced, as the payload is JSON; the signature was verified on the
// bytes as they came.
func bounded(names []string, headers map[string]string, countMax, bytesMax int) map[string]string {
	slices.Sort(names)
	out, size := make(map[string]string, min(len(names), countMax)), 0
	for _, n := range names {
		size += len(n) + len(headers[n])
		if len(out) >= countMax || size > bytesMax {
			break
		}
		out[strings.ToValidUTF8(n, "\uFFFD")] = strings.ToValidUTF8(headers[n], "\uFFFD")
	}
	return out
}
