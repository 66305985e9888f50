// Package kafka is the bus of the cluster profile, on Apache Kafka through
// segmentio/kafka-go. A group is a partition.
//
// An Intake appends what enters from outside: there a place is an offset. A Relay
// publishes an area's log in its order; there a place is the log's sequence,
// which each record carries, as a record may be there twice: kafka-go has no
// idempotent producer, and two relays may run at once. A Source reads either.
//
// Nothing about money rests on Kafka: consumers know a repetition by their places,
// and a loss by the gap.
package kafka
