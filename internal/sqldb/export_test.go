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
