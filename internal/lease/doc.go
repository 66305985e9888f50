// Package lease divides the groups of a database among the processes that play an
// area's role.
//
// A process is a member of the area in that database, by a row that it renews. Time
// is the database's: a member whose row was not renewed for the TTL may be taken out
// by any other. Each group has a row in table leases, in the one database that owns
// it, with the member that holds it and an epoch that grows with each holder.
//
// Whoever writes shows in the same transaction that its member row is still there
// (Guard), and holds on to it until the commit. So after the row is gone, and only
// then are its groups given to others, nothing of that member is committed any more:
// it may have been stopped for an hour in the middle of a transaction. What a
// process holds in memory (which groups are its own, rows that it has read) stays
// true for as long as its guard lets it write.
package lease
