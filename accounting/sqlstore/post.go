package sqlstore

import (
	"context"

	"github.com/tallystick/tallystick/accounting"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/bus/embedded"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/ids"
	"github.com/tallystick/tallystick/internal/sqldb"
)

// Post implements accounting.Store.
//
// That an event was booked before is looked up only when the unique key on it
// says so: the place makes that rare, and the look-up would cost every batch.
func (s *Store) Post(ctx context.Context, b *accounting.Batch) ([]accounting.Result, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	results, err := s.post(ctx, b, nil)
	if !fault.Is(err, fault.Conflict) {
		return results, err
	}
	events := make([]string, len(b.Entries))
	for i := range b.Entries {
		events[i] = b.Entries[i].EventID
	}
	first, lookErr := s.firstResults(ctx, events)
	if lookErr != nil {
		return nil, lookErr
	}
	if len(first) == 0 {
		return nil, fault.New(fault.Internal, "accounting/sqlstore: post", "a key is taken, but not that of an event: %w", err)
	}
	return s.post(ctx, b, first)
}

// work is one batch on its way through the transaction.
type work struct {
	entries []accounting.Entry
	results []accounting.Result
	lines   [][]accounting.HeldLine // of each entry; shard numbers name the accounts
	fresh   []int                   // indexes of the entries that were not booked before
	posted  int                     // postings to write
}

// post runs the transaction. first holds the results of events that were booked
// before. What is held is dropped unless the commit is certain, by panic too.
func (s *Store) post(ctx context.Context, b *accounting.Batch, first map[string]accounting.Result) ([]accounting.Result, error) {
	committed := false
	defer func() {
		if !committed {
			s.held.Drop()
			s.accounts.drop()
		}
	}()
	w := &work{entries: b.Entries, results: make([]accounting.Result, len(b.Entries)), lines: make([][]accounting.HeldLine, len(b.Entries))}
	for i := range b.Entries {
		e := &b.Entries[i]
		if r, ok := first[e.EventID]; ok {
			w.results[i] = r
			continue
		}
		// The poster has checked it; nothing unbalanced is written, whoever asks.
		if err := accounting.CheckLines(e.Lines); err != nil {
			return nil, &bus.StopError{Group: e.Group, Err: fault.New(fault.Internal, "accounting/sqlstore: entry "+e.ID, "%w", err)}
		}
		w.fresh = append(w.fresh, i)
	}
	err := s.db.Write(ctx, func(tx *sqldb.Tx) error {
		if err := embedded.Advance(tx, b.Source, b.NowMillis); err != nil {
			return err
		}
		if len(w.fresh) == 0 {
			return nil
		}
		if err := s.decide(tx, w); err != nil {
			return err
		}
		return s.write(tx, w)
	})
	if err != nil {
		return nil, err
	}
	s.held.Commit()
	s.accounts.age()
	committed = true
	return w.results, nil
}

// decide loads what the batch touches and checks the guards, one entry at a time.
func (s *Store) decide(tx *sqldb.Tx, w *work) error {
	if err := s.resolve(tx, w); err != nil {
		return err
	}
	var missing []int64
	asked := map[int64]bool{}
	room := make([]accounting.HeldLine, 0, 4*len(w.fresh))
	for _, i := range w.fresh {
		e := &w.entries[i]
		from := len(room)
		for j := range e.Lines {
			l := &e.Lines[j]
			k := accounting.Key{Book: e.Book, Name: l.Account.Name, Currency: l.Amount.Currency}
			a, ok := s.accounts.get(k)
			if !ok {
				return fault.New(fault.Internal, "accounting/sqlstore: decide", "account %s was not made", k)
			}
			if a.def != l.Account {
				return &bus.StopError{Group: e.Group, Err: fault.New(fault.Internal, "accounting/sqlstore: entry "+e.ID,
					"account %s exists as %s %s %s, and is posted to as %s %s %s", k, a.def.Kind, a.def.Class, a.def.Side,
					l.Account.Kind, l.Account.Class, l.Account.Side)}
			}
			shard := shardID(a.id, accounting.ShardGroup(a.def.Kind, k, e.Group, s.groups))
			if !s.held.Has(shard) && !asked[shard] {
				asked[shard] = true
				missing = append(missing, shard)
			}
			room = append(room, accounting.HeldLine{Shard: shard, Amount: l.Amount, Side: a.def.Side, Kind: a.def.Kind})
		}
		w.lines[i] = room[from:len(room):len(room)]
	}
	if err := s.hold(tx, missing); err != nil {
		return err
	}
	for _, i := range w.fresh {
		w.results[i] = accounting.Result{EntryID: w.entries[i].ID, Reason: s.held.Try(w.lines[i])}
		if w.results[i].Reason == "" {
			w.posted += len(w.lines[i])
		}
	}
	return nil
}

// hold reads shards; those that do not exist yet are held at zero.
func (s *Store) hold(tx *sqldb.Tx, shards []int64) error {
	for _, id := range shards {
		s.held.Set(id, 0, 0)
	}
	err := sqldb.QueryIn(tx, `SELECT id, minor, version FROM balances WHERE id IN (?*)`, shards, func(scan sqldb.Scan) error {
		var id, minor, version int64
		err := scan(&id, &minor, &version)
		s.held.Set(id, minor, version)
		return err
	})
	return fault.Wrap("hold balances", err)
}

var (
	entryColumns = append([]string{"id", "entry_id", "event_id", "rule", "book", "channel_account", "grp", "at_millis", "reason"},
		ids.Columns...)
	postingColumns = []string{"id", "account_id", "minor"}
	balanceColumns = []string{"id", "minor", "net", "version"}
)

// write adds the entries in the order of their events, their postings, one
// change per balance, and last the events that tell of it.
func (s *Store) write(tx *sqldb.Tx, w *work) error {
	list := make([]int64, len(w.fresh))
	if err := tx.NewIDs("entries", len(w.fresh), func(n int, id int64) { list[n] = id }); err != nil {
		return err
	}
	_, err := tx.Insert("entries", entryColumns, len(w.fresh), "", func(dst []any, n int) []any {
		e := &w.entries[w.fresh[n]]
		dst = append(dst, list[n], e.ID, e.EventID, e.Rule, e.Book, e.ChannelAccount, e.Group, e.AtMillis, w.results[w.fresh[n]].Reason)
		return e.Context.AppendValues(dst)
	})
	if err != nil {
		return err
	}
	if err := s.writePostings(tx, w, list); err != nil {
		return err
	}
	if err := s.writeBalances(tx, w); err != nil {
		return err
	}
	notices := make([]bus.Event, len(w.fresh))
	for n, i := range w.fresh {
		notices[n] = w.entries[i].Notice(w.results[i])
	}
	return s.log.Emit(tx, bus.Postings, notices)
}

func (s *Store) writePostings(tx *sqldb.Tx, w *work, list []int64) error {
	n, line := 0, 0 // the posting to write next
	_, err := tx.Insert("postings", postingColumns, w.posted, "", func(dst []any, _ int) []any {
		for w.results[w.fresh[n]].Reason != "" || line == len(w.lines[w.fresh[n]]) {
			n, line = n+1, 0
		}
		l := &w.lines[w.fresh[n]][line]
		dst = append(dst, postingID(list[n], line), l.Shard>>shardBits, l.Amount.Minor)
		line++
		return dst
	})
	return err
}

// writeBalances changes each touched shard once. A row that is not what was held
// is left alone and found out: changed by another poster (fenced), or by nobody
// who may (its group stops).
func (s *Store) writeBalances(tx *sqldb.Tx, w *work) error {
	changes := s.held.Changes()
	n, err := tx.Insert("balances", balanceColumns, len(changes), `ON CONFLICT (id) DO UPDATE SET minor = excluded.minor,
		net = excluded.net, version = excluded.version
		WHERE balances.version = excluded.version - 1 AND balances.minor = excluded.minor - excluded.net`,
		func(dst []any, i int) []any {
			c := &changes[i]
			return append(dst, c.Shard, c.Minor, c.Net, c.Version)
		})
	if err != nil || n == int64(len(changes)) {
		return err
	}
	return s.whoChanged(tx, w, changes)
}

// whoChanged gives the error that fits a balance that is not what was held.
func (s *Store) whoChanged(tx *sqldb.Tx, w *work, changes []accounting.Change) error {
	shards := make([]int64, len(changes))
	want := make(map[int64]accounting.Change, len(changes))
	for i, c := range changes {
		shards[i] = c.Shard
		want[c.Shard] = c
	}
	const op = "accounting/sqlstore: balances"
	cause := fault.New(fault.Internal, op, "fewer rows changed than balances")
	found := false
	err := sqldb.QueryIn(tx, `SELECT id, minor, version FROM balances WHERE id IN (?*)`, shards, func(scan sqldb.Scan) error {
		var id, minor, version int64
		if err := scan(&id, &minor, &version); err != nil || found {
			return err
		}
		c := want[id]
		switch {
		case version == c.Version && minor == c.Minor:
			return nil // written by this batch
		case version == c.Version-1:
			cause = &bus.StopError{Group: w.groupOf(id), Err: fault.New(fault.Internal, op,
				"account %d is stored with %d and held with %d", id>>shardBits, minor, c.Minor-c.Net)}
		default:
			cause = fault.New(fault.Fenced, op, "another poster has changed account %d", id>>shardBits)
		}
		found = true
		return nil
	})
	if err != nil {
		return err
	}
	return cause
}

// groupOf is the group of the first entry that touches a shard.
func (w *work) groupOf(shard int64) int {
	for _, i := range w.fresh {
		for _, l := range w.lines[i] {
			if l.Shard == shard {
				return w.entries[i].Group
			}
		}
	}
	return 0
}

// firstResults gives what became of the events that were booked before.
func (s *Store) firstResults(ctx context.Context, events []string) (map[string]accounting.Result, error) {
	out := map[string]accounting.Result{}
	err := s.db.Read(ctx, func(tx *sqldb.Tx) error {
		return sqldb.QueryIn(tx, `SELECT event_id, entry_id, reason FROM entries WHERE event_id IN (?*)`, events, func(scan sqldb.Scan) error {
			var event string
			r := accounting.Result{Repeated: true}
			err := scan(&event, &r.EntryID, &r.Reason)
			out[event] = r
			return err
		})
	})
	return out, fault.Wrap("accounting/sqlstore: first results", err)
}
