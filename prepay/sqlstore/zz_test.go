package sqlstore

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/tallystick/tallystick/internal/sqldb"
	"github.com/tallystick/tallystick/prepay"
)

func BenchmarkForms(b *testing.B) {
	for _, form := range []string{"from", "upsert", "each", "narrowfrom", "narroweach"} {
		b.Run(form, func(b *testing.B) {
			ctx := context.Background()
			s, err := Open(ctx, Config{Groups: 4, NowMillis: func() int64 { return 1 }, Options: sqldb.Options{Path: b.TempDir() + "/x.db", NoSync: true}})
			if err != nil {
				b.Fatal(err)
			}
			var calls []prepay.Call
			for i := range 64 * 100 {
				c := prepay.Call{OutTradeNo: fmt.Sprint("r12345678901234567890123", i), Account: "sandbox-a", Status: "due", Op: "pay", Standing: "never_sent", NextAtMillis: 1_700_000_000_000, CreatedAtMillis: 1_700_000_000_000, ExpiresAtMillis: 1_800_000_000_000, NotifyURL: "https://us.example/v1/callbacks/sandbox/sandbox-a"}
				c.Context.Traffic, c.Context.Merchant = "real", "m1"
				c.Amount.Minor = 1
				calls = append(calls, c)
			}
			must := func(err error) {
				if err != nil {
					b.Fatal(err)
				}
			}
			must(s.db.Write(ctx, func(tx *sqldb.Tx) error { return insert(tx, calls) }))
			set := strings.Join(mutable, " = ?, ") + " = ?, version = version + 1"
			var exc []string
			for _, m := range mutable {
				exc = append(exc, m+" = excluded."+m)
			}
			row := "(?,?" + strings.Repeat(",?", len(mutable)) + ",'real','a',1,1,1)"
			upsert := `INSERT INTO progress (id, version, ` + strings.Join(mutable, ", ") + `, traffic, account, expires_at_millis, created_at_millis, open) VALUES ` + row + strings.Repeat(","+row, 63) +
				` ON CONFLICT (id) DO UPDATE SET version = version + 1, ` + strings.Join(exc, ", ") + ` WHERE version = excluded.version AND open = 1`
			nf := `WITH v (id, version, status, next_at_millis, owner, sent_at_millis) AS (VALUES (?,?,?,?,?,?)` + strings.Repeat(",(?,?,?,?,?,?)", 63) + `) UPDATE progress AS p SET
			  status = v.status, next_at_millis = v.next_at_millis, owner = v.owner, sent_at_millis = v.sent_at_millis, tries = tries + 1, version = p.version + 1 FROM v WHERE p.id = v.id AND p.version = v.version AND p.open = 1`
			b.ResetTimer()
			cpu := cpuNanos(b)
			for n := 0; n < b.N; n += 64 {
				part := calls[n%len(calls):][:64]
				for i := range part {
					c := &part[i]
					if c.Status == "due" {
						c.Status, c.NextAtMillis, c.Owner = "sending", 0, "inc_12345"
					} else {
						c.Status, c.NextAtMillis, c.Owner = "due", 1_700_000_000_001, ""
					}
					c.Standing = "pending"
				}
				must(s.db.Write(ctx, func(tx *sqldb.Tx) error {
					var args []any
					switch form {
					case "from":
						return s.update(tx, part)
					case "upsert":
						for i := range part {
							args = appendMutable(append(args, part[i].ID, part[i].Version), &part[i])
						}
						ch, err := tx.Exec(upsert, args...)
						if ch != 64 {
							b.Fatal(ch)
						}
						for i := range part {
							part[i].Version++
						}
						return err
					case "each":
						defer func() {
							for i := range part {
								part[i].Version++
							}
						}()
						return tx.Each(`UPDATE progress SET `+set+` WHERE id = ? AND version = ? AND open = 1`, 64, func(dst []any, i int) []any {
							return append(appendMutable(dst, &part[i]), part[i].ID, part[i].Version)
						})
					case "narrowfrom":
						for i := range part {
							c := &part[i]
							args = append(args, c.ID, c.Version, string(c.Status), c.NextAtMillis, c.Owner, c.SentAtMillis)
							c.Version++
						}
						ch, err := tx.Exec(nf, args...)
						if ch != 64 {
							b.Fatal(ch)
						}
						return err
					default:
						defer func() {
							for i := range part {
								part[i].Version++
							}
						}()
						return tx.Each(`UPDATE progress SET status = ?, next_at_millis = ?, owner = ?, sent_at_millis = ?, tries = tries + 1, version = version + 1 WHERE id = ? AND version = ? AND open = 1`, 64, func(dst []any, i int) []any {
							c := &part[i]
							return append(dst, string(c.Status), c.NextAtMillis, c.Owner, c.SentAtMillis, c.ID, c.Version)
						})
					}
				}))
			}
			b.ReportMetric(float64(cpuNanos(b)-cpu)/float64(b.N), "cpu-ns/op")
		})
	}
}
