// Package sqldb opens an area's database and runs its transactions. It is the
// only place (beside PostgreSQL fast paths) that knows an SQL driver, and holds
// what differs between engines, so that each area has one SQL implementation.
//
// Embedded, an area is one SQLite file (WAL, synchronous=FULL: a commit returns
// after its fsync) with one writing connection and a few reading ones.
//
// In the cluster it is a schema in PostgreSQL, which Migrate makes and Open checks;
// docs/adr/0018-postgresql-stores.md says what differs.
package sqldb
