package app_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/lease"
	"github.com/tallystick/tallystick/internal/sqldb"
)

// filler makes rows in which every column has a value of its own.
type filler struct {
	t  *testing.T
	tx *sqldb.Tx
	n  int64
}

// row adds a row, with some values given, and gives its id if it has one.
func (f *filler) row(table string, given map[string]any) (id int64) {
	f.t.Helper()
	var columns []string
	var values []any
	must(f.t, f.tx.Query(`SELECT column_name, data_type FROM information_schema.columns WHERE table_schema = current_schema() AND table_name = ? ORDER BY ordinal_position`,
		[]any{table}, func(scan sqldb.Scan) error {
			var name, typ string
			if err := scan(&name, &typ); err != nil {
				return err
			}
			f.n++
			v, has := given[name]
			switch {
			case has:
			case name == "id":
				return nil
			case name == "traffic":
				v = "real"
			case typ == "text":
				v = fmt.Sprintf("%s %d ü'\\\t", name, f.n)
			case typ == "bytea":
				v = []byte{0, 255, byte(f.n), '\n', '\\'}
			case typ == "boolean":
				v = f.n%2 == 0
			default:
				v = f.n
			}
			columns, values = append(columns, name), append(values, v)
			return nil
		}))
	returning := ""
	if _, err := f.tx.Columns(table); err == nil {
		returning = " RETURNING " + map[bool]string{true: "id", false: "0::bigint"}[f.hasID(table)]
	}
	must(f.t, f.tx.Query(`INSERT INTO `+table+` (`+strings.Join(columns, ", ")+`) VALUES (?`+strings.Repeat(",?", len(columns)-1)+`)`+returning, values,
		func(scan sqldb.Scan) error { return scan(&id) }))
	return id
}

func (f *filler) hasID(table string) bool {
	columns, err := f.tx.Columns(table)
	must(f.t, err)
	return slices.Contains(columns, "id")
}

// code is the n-th code of a group, of either kind.
func code(group, n int) string {
	first, last := ids.SlotsOf(group, testGroups)
	slot := first + n*97%(last-first+1)
	return string("rs"[n%2]) + string([]byte{ids.Alphabet[slot>>5], ids.Alphabet[slot&31]}) + fmt.Sprintf("%024d", n)
}

func (f *filler) shared(group int, told, read []string) {
	for _, topic := range told {
		f.row("heads", map[string]any{"topic": topic, "grp": group})
		for i := range 3 {
			id := f.row("log_"+topic, map[string]any{"grp": group})
			f.row("marks", map[string]any{"topic": topic, "grp": group, "seq": int64(64*i + 1), "id": id})
		}
	}
	for _, topic := range read {
		f.row("places", map[string]any{"topic": topic, "grp": group})
		f.row("parked", map[string]any{"topic": topic, "grp": group, "biz_code": code(group, 1)})
	}
}

func (f *filler) core(group int) {
	f.shared(group, []string{"dispatch", "payments"}, []string{"intents", "callbacks", "outcomes"})
	for n := range 10 {
		x := code(group, n)
		trade := f.row("trade_orders", map[string]any{"biz_code": x})
		for k := range 2 {
			payment := f.row("payment_orders", map[string]any{"trade_id": trade, "biz_code": x, "y": x[:26] + string("xy"[k]), "metadata": `{"k":"v"}`, "status": "pending"})
			f.row("attempts", map[string]any{"payment_id": payment, "biz_code": x})
			f.row("exceptions", map[string]any{"payment_id": payment, "biz_code": x})
		}
	}
}

func (f *filler) prepay(group int) {
	f.shared(group, []string{"outcomes"}, []string{"dispatch"})
	for n := range 10 {
		x := code(group, n)
		id := f.row("calls", map[string]any{"biz_code": x, "out_trade_no": x + "0"})
		given := map[string]any{"id": id, "grp": group, "status": "due", "op": "query", "standing": "unknown", "open": true, "owner": ""}
		if n%2 == 1 {
			given["status"], given["next_at_millis"], given["owner"] = "sending", int64(0), "somebody"
		}
		f.row("progress", given)
	}
}

// ledger adds entries over accounts of which the names are given.
func (f *filler) ledger(group int, names ...string) {
	f.shared(group, []string{"postings"}, []string{"payments"})
	account := map[string]int64{}
	for _, name := range names {
		must(f.t, f.tx.Query(`SELECT id FROM accounts WHERE name = ?`, []any{name}, func(scan sqldb.Scan) error {
			var id int64
			err := scan(&id)
			account[name] = id
			return err
		}))
		if account[name] == 0 {
			account[name] = f.row("accounts", map[string]any{"book": "main", "name": name, "currency": "CNY", "class": "asset", "side": "debit", "kind": "spread"})
		}
	}
	sums := map[int64]int64{}
	for n := range 10 {
		entry := f.row("entries", map[string]any{"grp": group, "biz_code": code(group, n), "reason": ""})
		for i, name := range names {
			minor := int64(100 + n)
			if i == len(names)-1 {
				minor = -minor * int64(i)
			}
			f.row("postings", map[string]any{"id": entry<<8 | int64(i), "account_id": account[name], "minor": minor})
			sums[account[name]] += minor
		}
	}
	for id, minor := range sums {
		f.row("balances", map[string]any{"id": id<<10 | int64(group), "minor": minor})
	}
}

// fill gives each group rows in each area, where it is.
func (d *databases) fill() {
	d.t.Helper()
	for number := 1; number <= d.n; number++ {
		for _, area := range []string{"core", "prepay", "accounting"} {
			db := d.open(area, number)
			groups, err := lease.Owned(d.t.Context(), db)
			must(d.t, err)
			must(d.t, db.Write(d.t.Context(), func(tx *sqldb.Tx) error {
				f := &filler{t: d.t, tx: tx, n: int64(1000 * number)}
				for _, g := range groups {
					switch area {
					case "core":
						f.core(g)
					case "prepay":
						f.prepay(g)
					default: // some accounts are there in all databases, under other numbers, and some are not
						f.ledger(g, fmt.Sprint("only:", number), "fees", "shared")
					}
				}
				if area == "prepay" {
					f.row("cleaned", map[string]any{"id": int64(1), "before_millis": int64(100 * (3 - number))})
				}
				return nil
			}))
		}
	}
}

// staying are the tables whose rows are no group's, and why they stay.
var staying = map[string]string{
	"leases": "who owns groups", "members": "processes", "moves": "groups on their way", "stamp": "the installation's constants", "schema_version": "the schema's",
	"accounts": "made where they are missing, known by their keys", "cleaned": "a moment, and the later one holds",
}

// tablesOf are those of the schema, in order.
func tablesOf(tx *sqldb.Tx) (names []string, err error) {
	err = tx.Query(`SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema() AND table_type = 'BASE TABLE' ORDER BY table_name`,
		nil, func(scan sqldb.Scan) error {
			var name string
			err := scan(&name)
			names = append(names, name)
			return err
		})
	return names, err
}

// dump is what a database says of the groups: table by table, in the words of
// PostgreSQL. Accounts are named, as their numbers differ between databases.
func (d *databases) dump(number int) map[string][]string {
	d.t.Helper()
	out := map[string][]string{}
	for _, area := range areas() {
		db := d.open(area.Name, number)
		must(d.t, db.Read(d.t.Context(), func(tx *sqldb.Tx) error {
			tables, err := tablesOf(tx)
			for _, table := range tables {
				if staying[table] != "" {
					continue
				}
				query := map[string]string{
					"postings": `SELECT p.id || ' ' || a.name || ' ' || p.minor FROM postings p JOIN accounts a ON a.id = p.account_id ORDER BY p.id`,
					"balances": `SELECT (b.id & 1023) || ' ' || a.name || ' ' || b.minor || ' ' || b.net || ' ' || b.version FROM balances b JOIN accounts a ON a.id = b.id >> 10 ORDER BY 1`,
				}[table]
				if query == "" {
					query = `SELECT t::text FROM ` + table + ` AS t ORDER BY 1`
				}
				err = errors.Join(err, tx.Query(query, nil, func(scan sqldb.Scan) error {
					var row string
					err := scan(&row)
					out[area.Name+"."+table] = append(out[area.Name+"."+table], row)
					return err
				}))
			}
			return err
		}))
	}
	return out
}

// together is what all databases say.
func (d *databases) together() map[string][]string {
	out := map[string][]string{}
	for n := 1; n <= d.n; n++ {
		for table, rows := range d.dump(n) {
			out[table] = append(out[table], rows...)
		}
	}
	for _, rows := range out {
		slices.Sort(rows)
	}
	return out
}

func (d *databases) same(what string, want, have map[string][]string) {
	d.t.Helper()
	for _, table := range slices.Sorted(maps.Keys(want)) {
		if !slices.Equal(want[table], have[table]) {
			d.t.Errorf("%s: %s has %d rows, and had %d; the first that differs: %s", what, table, len(have[table]), len(want[table]), firstDifference(want[table], have[table]))
		}
	}
	if len(want) != len(have) {
		d.t.Errorf("%s: rows in tables %v, and there were some in %v", what, slices.Sorted(maps.Keys(have)), slices.Sorted(maps.Keys(want)))
	}
}

func firstDifference(a, b []string) string {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return a[i] + " / " + b[i]
		}
	}
	return "one has more"
}
