package sqlstore

import (
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/bus/embedded"
	"github.com/tallystick/tallystick/internal/lease"
)

// migrations bring core's database up to date. A released one never changes.
func migrations(postgres bool) []string {
	if postgres {
		return []string{lease.Schema + embedded.Schema(bus.Dispatch, bus.Payments) + schema, lease.MovesSchema, lists}
	}
	return []string{embedded.Schema(bus.Dispatch, bus.Payments) + schema, lists}
}

// A code is random, and an index on it does not stay in one place: there are two
// such indexes, one on X and one on Y. Everything else hangs on increasing keys.
const schema = `
CREATE TABLE trade_orders (id INTEGER PRIMARY KEY, version INTEGER NOT NULL,
  biz_code TEXT NOT NULL UNIQUE, merchant TEXT NOT NULL, order_type TEXT NOT NULL, order_scene TEXT NOT NULL,
  institution TEXT NOT NULL, trace_id TEXT NOT NULL, form TEXT NOT NULL, traffic TEXT NOT NULL CHECK (traffic IN ('real', 'shadow')),
  order_id TEXT NOT NULL, currency TEXT NOT NULL, amount_minor INTEGER NOT NULL, paid_minor INTEGER NOT NULL, status TEXT NOT NULL,
  accepted_at_millis INTEGER NOT NULL, expires_at_millis INTEGER NOT NULL);

CREATE TABLE payment_orders (id INTEGER PRIMARY KEY, version INTEGER NOT NULL, trade_id INTEGER NOT NULL REFERENCES trade_orders (id),
  y TEXT NOT NULL UNIQUE, biz_code TEXT NOT NULL, merchant TEXT NOT NULL, order_type TEXT NOT NULL, order_scene TEXT NOT NULL,
  institution TEXT NOT NULL, trace_id TEXT NOT NULL, form TEXT NOT NULL, traffic TEXT NOT NULL CHECK (traffic IN ('real', 'shadow')),
  idempotency_key TEXT NOT NULL, canonical BLOB NOT NULL, status TEXT NOT NULL, reason TEXT NOT NULL, alias_of TEXT NOT NULL,
  currency TEXT NOT NULL, amount_minor INTEGER NOT NULL, method TEXT NOT NULL, subject TEXT NOT NULL, return_url TEXT NOT NULL,
  metadata TEXT NOT NULL, credential_method TEXT NOT NULL, credential_value TEXT NOT NULL, fee_rate_ppm INTEGER NOT NULL,
  fee_minor INTEGER NOT NULL, accepted_at_millis INTEGER NOT NULL, expires_at_millis INTEGER NOT NULL,
  next_action TEXT NOT NULL, next_at_millis INTEGER NOT NULL,
  -- Empty for the one payment order of a natural key; its own y for an alias of it, or one in conflict with it.
  beside TEXT NOT NULL);
CREATE UNIQUE INDEX payment_orders_natural ON payment_orders (trade_id, form, idempotency_key, beside);
-- A trade's payment orders are read without the rejected ones, of which there may be any number.
CREATE INDEX payment_orders_of_trade ON payment_orders (trade_id) WHERE status <> 'rejected';
CREATE INDEX payment_orders_rejected ON payment_orders (trade_id) WHERE status = 'rejected';
CREATE INDEX payment_orders_next ON payment_orders (next_at_millis) WHERE next_at_millis > 0;

CREATE TABLE attempts (payment_id INTEGER NOT NULL REFERENCES payment_orders (id), n INTEGER NOT NULL, version INTEGER NOT NULL,
  biz_code TEXT NOT NULL, merchant TEXT NOT NULL, order_type TEXT NOT NULL, order_scene TEXT NOT NULL,
  institution TEXT NOT NULL, trace_id TEXT NOT NULL, form TEXT NOT NULL, traffic TEXT NOT NULL CHECK (traffic IN ('real', 'shadow')),
  out_trade_no TEXT NOT NULL, account TEXT NOT NULL, status TEXT NOT NULL, reason TEXT NOT NULL, transaction_id TEXT NOT NULL,
  currency TEXT NOT NULL, paid_minor INTEGER NOT NULL, psp_fee_rate_ppm INTEGER NOT NULL, psp_fee_minor INTEGER NOT NULL,
  PRIMARY KEY (payment_id, n)) WITHOUT ROWID;

CREATE TABLE exceptions (id INTEGER PRIMARY KEY, payment_id INTEGER NOT NULL REFERENCES payment_orders (id),
  biz_code TEXT NOT NULL, merchant TEXT NOT NULL, order_type TEXT NOT NULL, order_scene TEXT NOT NULL,
  institution TEXT NOT NULL, trace_id TEXT NOT NULL, form TEXT NOT NULL, traffic TEXT NOT NULL CHECK (traffic IN ('real', 'shadow')),
  out_trade_no TEXT NOT NULL, account TEXT NOT NULL, transaction_id TEXT NOT NULL, why TEXT NOT NULL, currency TEXT NOT NULL, paid_minor INTEGER NOT NULL,
  at_millis INTEGER NOT NULL);
CREATE UNIQUE INDEX exceptions_transaction ON exceptions (payment_id, out_trade_no, transaction_id);
`

// lists is for merchants' lists: see event.Listing.
const lists = `CREATE INDEX payment_orders_of_merchant ON payment_orders (merchant, traffic, accepted_at_millis, y);`
