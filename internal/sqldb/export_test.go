package sqldb

// What is written for PostgreSQL, for golden tests.
var (
	PostgresDDL  = postgresDDL
	PostgresText = postgresText
)

// What NewIDs gives, and up to where.
const (
	IDsBlock     = idsBlock
	IDsDatabases = idsDatabases
	IDsMax       = idsMax
)

// Begun begins a transaction before its first statement.
func Begun(tx *Tx) error { return tx.begun() }

// Spoken reports whether the other side has said something or hung up.
var Spoken = spoken
