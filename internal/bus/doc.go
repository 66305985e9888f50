// Package bus is how areas hear of each other: topics of events, read in order
// by group, by consumers that keep their place in their own transaction.
//
// A topic is divided into groups; within a group, messages have consecutive
// sequence numbers, in commit order. A Consumer reads batches over all groups
// from a Source and hands them to its area, which applies the batch, moves its
// places and emits its own events in one transaction. Delivery is at least once;
// the moved place makes the effect exactly once.
package bus
