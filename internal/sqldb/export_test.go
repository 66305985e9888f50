package sqldb

// What is written for PostgreSQL, for golden tests.
var (
	PostgresDDL  = postgresDDL
	PostgresText = postgresText
)

// IDsPerDatabase and IDsBlock bound what NewIDs gives.
const (
	IDsPerDatabase = idsPerDatabase
	IDsBlock       = idsBlock
)

// Begun begins a transaction before its first statement.
func Begun(tx *Tx) error { return tx.begun() }

// Spoken reports whether the other side has said something or hung up.
var Spoken = spoken
