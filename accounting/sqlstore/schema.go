package sqlstore

import (
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/bus/embedded"
	"github.com/tallystick/tallystick/internal/lease"
)

// A posting's id is its entry's number in the upper and its line in the lower
// bits; a balance's id is its account's number and its group: so an entry's lines
// and an account's shards are ranges, and no second index is needed.
const (
	lineBits  = 8  // accounting.LinesMax fits
	shardBits = 10 // ids.Slots groups fit
)

func postingID(entry int64, line int) int64 { return entry<<lineBits | int64(line) }

func shardID(account int64, group int) int64 { return account<<shardBits | int64(group) }

// migrations are the scripts of this area's schema.
func migrations(postgres bool) []string {
	if postgres {
		return []string{lease.Schema + embedded.Schema(bus.Postings) + schema + triggersPostgres, lease.MovesSchema + movedMayGo}
	}
	return []string{embedded.Schema(bus.Postings) + schema + triggersSQLite}
}

// The index on postings is (account_id, id): SQLite keeps the row id behind an
// index's columns. A posting carries no context: its entry does, and the view
// journal shows both. minor is debit positive, everywhere.
const schema = `
CREATE TABLE accounts (id INTEGER PRIMARY KEY, book TEXT NOT NULL, name TEXT NOT NULL, currency TEXT NOT NULL,
  class TEXT NOT NULL CHECK (class IN ('asset', 'liability', 'income', 'expense', 'equity')),
  side TEXT NOT NULL CHECK (side IN ('debit', 'credit')), kind TEXT NOT NULL CHECK (kind IN ('spread', 'homed')),
  UNIQUE (name, currency, book));

CREATE TABLE entries (id INTEGER PRIMARY KEY, entry_id TEXT NOT NULL, event_id TEXT NOT NULL, rule TEXT NOT NULL,
  book TEXT NOT NULL, channel_account TEXT NOT NULL, grp INTEGER NOT NULL, at_millis INTEGER NOT NULL,
  reason TEXT NOT NULL, -- why it was rejected; empty when posted
  biz_code TEXT NOT NULL, merchant TEXT NOT NULL, order_type TEXT NOT NULL, order_scene TEXT NOT NULL,
  institution TEXT NOT NULL, trace_id TEXT NOT NULL, form TEXT NOT NULL,
  traffic TEXT NOT NULL CHECK (traffic IN ('real', 'shadow')));
CREATE UNIQUE INDEX entries_event_is_booked_once ON entries (event_id);
CREATE INDEX entries_biz_code ON entries (biz_code);

CREATE TABLE postings (id INTEGER PRIMARY KEY, account_id INTEGER NOT NULL, minor INTEGER NOT NULL CHECK (minor <> 0));
CREATE INDEX postings_account ON postings (account_id);

-- net is what the last batch changed, and version counts the batches: a writer
-- states both the balance that it knew and the one that it wants.
CREATE TABLE balances (id INTEGER PRIMARY KEY, minor INTEGER NOT NULL, net INTEGER NOT NULL, version INTEGER NOT NULL);

CREATE VIEW journal AS SELECT e.id AS entry, p.id & 255 AS line, e.entry_id, e.event_id, e.rule, e.book, a.name AS account,
  a.currency, CASE WHEN p.minor > 0 THEN p.minor ELSE 0 END AS debit, CASE WHEN p.minor < 0 THEN -p.minor ELSE 0 END AS credit, e.at_millis, e.channel_account, e.biz_code, e.merchant,
  e.order_type, e.order_scene, e.institution, e.trace_id, e.form, e.traffic
  FROM postings p JOIN entries e ON e.id = p.id >> 8 JOIN accounts a ON a.id = p.account_id;
`

const triggersSQLite = `
CREATE TRIGGER entries_never_change BEFORE UPDATE ON entries BEGIN SELECT RAISE(ABORT, 'journal entries are never changed'); END;
CREATE TRIGGER entries_never_go BEFORE DELETE ON entries BEGIN SELECT RAISE(ABORT, 'journal entries are never deleted'); END;
CREATE TRIGGER postings_never_change BEFORE UPDATE ON postings BEGIN SELECT RAISE(ABORT, 'postings are never changed'); END;
CREATE TRIGGER postings_never_go BEFORE DELETE ON postings BEGIN SELECT RAISE(ABORT, 'postings are never deleted'); END;
CREATE TRIGGER accounts_never_change BEFORE UPDATE ON accounts BEGIN SELECT RAISE(ABORT, 'accounts are never changed'); END;
CREATE TRIGGER accounts_never_go BEFORE DELETE ON accounts BEGIN SELECT RAISE(ABORT, 'accounts are never deleted'); END;
CREATE TRIGGER balances_never_go BEFORE DELETE ON balances BEGIN SELECT RAISE(ABORT, 'balances are never deleted'); END;
`

const triggersPostgres = `
CREATE FUNCTION never() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION '% are never changed or deleted', TG_TABLE_NAME USING ERRCODE = 'integrity_constraint_violation'; END $$;
CREATE TRIGGER entries_never_change BEFORE UPDATE ON entries FOR EACH ROW EXECUTE FUNCTION never();
CREATE TRIGGER entries_never_go BEFORE DELETE ON entries FOR EACH ROW EXECUTE FUNCTION never();
CREATE TRIGGER postings_never_change BEFORE UPDATE ON postings FOR EACH ROW EXECUTE FUNCTION never();
CREATE TRIGGER postings_never_go BEFORE DELETE ON postings FOR EACH ROW EXECUTE FUNCTION never();
CREATE TRIGGER accounts_never_change BEFORE UPDATE ON accounts FOR EACH ROW EXECUTE FUNCTION never();
CREATE TRIGGER accounts_never_go BEFORE DELETE ON accounts FOR EACH ROW EXECUTE FUNCTION never();
CREATE TRIGGER balances_never_go BEFORE DELETE ON balances FOR EACH ROW EXECUTE FUNCTION never();
CREATE TRIGGER entries_never_emptied BEFORE TRUNCATE ON entries FOR EACH STATEMENT EXECUTE FUNCTION never();
CREATE TRIGGER postings_never_emptied BEFORE TRUNCATE ON postings FOR EACH STATEMENT EXECUTE FUNCTION never();
CREATE TRIGGER accounts_never_emptied BEFORE TRUNCATE ON accounts FOR EACH STATEMENT EXECUTE FUNCTION never();
CREATE TRIGGER balances_never_emptied BEFORE TRUNCATE ON balances FOR EACH STATEMENT EXECUTE FUNCTION never();
`

// movedMayGo lets the rows of a group go that this database does not own any more: by
// who owns the tables, which no process that serves does, and who names the group.
const movedMayGo = `
CREATE FUNCTION stays() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
  g BIGINT;
BEGIN
  IF TG_TABLE_NAME = 'entries' THEN g := OLD.grp;
  ELSIF TG_TABLE_NAME = 'postings' THEN SELECT grp INTO g FROM entries WHERE id = OLD.id >> 8;
  ELSE g := OLD.id & 1023;
  END IF;
  IF current_setting('tallystick.forget', TRUE) = g::text AND NOT EXISTS (SELECT 1 FROM leases WHERE grp = g)
    AND pg_has_role((SELECT relowner FROM pg_class WHERE oid = TG_RELID), 'USAGE') THEN
    RETURN OLD;
  END IF;
  RAISE EXCEPTION '% are never changed or deleted', TG_TABLE_NAME USING ERRCODE = 'integrity_constraint_violation';
END $$;
DROP TRIGGER entries_never_go ON entries;
DROP TRIGGER postings_never_go ON postings;
DROP TRIGGER balances_never_go ON balances;
CREATE TRIGGER entries_never_go BEFORE DELETE ON entries FOR EACH ROW EXECUTE FUNCTION stays();
CREATE TRIGGER postings_never_go BEFORE DELETE ON postings FOR EACH ROW EXECUTE FUNCTION stays();
CREATE TRIGGER balances_never_go BEFORE DELETE ON balances FOR EACH ROW EXECUTE FUNCTION stays();
`

// triggers are what keeps the journal as it was written; Verify looks for them.
var triggers = []string{"accounts_never_change", "accounts_never_go", "balances_never_go", "entries_never_change",
	"entries_never_go", "postings_never_change", "postings_never_go"}
