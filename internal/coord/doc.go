// Package coord is what the replicas of a role coordinate: limits that they share,
// hints about keys that are settled, and wake-ups. Three small ports, and nothing
// about money behind any of them: what an adapter says may be late, lost, or not
// there at all, and then everything is slower and nothing is wrong.
//
// coord/local serves the replicas of one process, coord/redis those of many.
package coord
