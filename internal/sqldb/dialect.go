package sqldb

import (
	"regexp"
	"strconv"
	"strings"
)

// SQL is written once, in what SQLite and PostgreSQL have in common. What they
// have not is written as SQLite wants it, and put here into PostgreSQL's words.

// ddl are the words of schemas. Texts compare by their bytes, as in SQLite: ranges
// of codes are asked for. A key that nobody gives comes from the schema's one
// sequence; see NewIDs.
var ddl = []struct {
	from *regexp.Regexp
	to   string
}{
	{regexp.MustCompile(`\bINTEGER PRIMARY KEY\b`), `BIGINT PRIMARY KEY DEFAULT nextval('ids')`},
	{regexp.MustCompile(`\bINTEGER\b`), `BIGINT`},
	{regexp.MustCompile(`\bBLOB\b`), `BYTEA`},
	{regexp.MustCompile(`\bTEXT\b`), `TEXT COLLATE "C"`},
	{regexp.MustCompile(`\)\s*WITHOUT ROWID`), `)`},
	{regexp.MustCompile(`(?m)^-- postgres: `), ``}, // a line for PostgreSQL alone
}

// postgresDDL is a script of a schema for PostgreSQL.
func postgresDDL(script string) string {
	for _, w := range ddl {
		script = w.from.ReplaceAllString(script, w.to)
	}
	return script
}

var (
	// hints tell SQLite's planner which index to take, and in which order to join.
	indexedBy = regexp.MustCompile(`\s+INDEXED BY \w+`)
	crossJoin = regexp.MustCompile(`\bCROSS JOIN (\w+ \w+) ON\b`)
	unaryPlus = regexp.MustCompile(`([ (])\+([a-z]\w*\.\w+)`)
)

// postgresText is a statement for PostgreSQL: placeholders have numbers, and hints
// for SQLite's planner are left out.
func postgresText(query string) string {
	query = indexedBy.ReplaceAllString(query, "")
	query = crossJoin.ReplaceAllString(query, "JOIN $1 ON")
	query = unaryPlus.ReplaceAllString(query, "$1$2")
	var b strings.Builder
	b.Grow(len(query) + 16)
	n, quoted := 0, false
	for i := 0; i < len(query); i++ {
		c := query[i]
		switch {
		case c == '\'':
			quoted = !quoted
		case c == '?' && !quoted:
			b.WriteByte('$')
			if i+1 < len(query) && query[i+1] >= '0' && query[i+1] <= '9' {
				continue // it has one
			}
			n++
			b.WriteString(strconv.Itoa(n))
			continue
		}
		b.WriteByte(c)
	}
	return b.String()
}

// Among is a condition behind others: that a column is one of some numbers, which
// come from code. nil is no condition.
func Among(column string, numbers []int) string {
	if numbers == nil {
		return ""
	}
	if len(numbers) == 0 {
		return " AND FALSE"
	}
	list := make([]string, len(numbers))
	for i, n := range numbers {
		list[i] = strconv.Itoa(n)
	}
	return " AND " + column + " IN (" + strings.Join(list, ",") + ")"
}

// NotAmong is a condition behind others: that a column is none of some numbers.
func NotAmong(column string, numbers []int) string {
	if len(numbers) == 0 {
		return ""
	}
	return strings.Replace(Among(column, numbers), " IN (", " NOT IN (", 1)
}

// TypedRow is a row of placeholders with types, as the first row of VALUES in a
// WITH: PostgreSQL would take them for texts. The types are BIGINT, TEXT, BOOLEAN.
func TypedRow(types ...string) string {
	row := make([]string, len(types))
	for i, t := range types {
		row[i] = "CAST(? AS " + t + ")"
		if t == "BOOLEAN" {
			row[i] = "(? = TRUE)" // SQLite would make a number of what it does not know
		}
	}
	return "(" + strings.Join(row, ",") + ")"
}
