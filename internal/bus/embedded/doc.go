// Package embedded is the bus of one process: an area's topics are log tables in
// its own database, and what enters from outside is an append log with group
// commit.
//
// Each area's database has the tables of Schema. An area writes its topics
// through a Log, inside its own transactions, and keeps its consumers' places
// and parked messages by Advance.
package embedded
