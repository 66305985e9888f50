package sqlstore

import (
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/bus/embedded"
	"github.com/tallystick/tallystick/internal/lease"
)

// migrations bring the schema up, one script per version. A call is two rows of
// one id: calls has what it is, which is written once, and progress how far it
// is, which is written with each step and so is kept narrow. A number is unique,
// and keys by which rows are changed increase, so that only one index is random.
// The checks hold, below all code, that a due call has a time and a sending one
// an owner. Whether a call is open is a column of its own, so that the index of
// open ones is left alone while a call goes from due to sending and back.
func migrations(postgres bool) []string {
	if postgres {
		return []string{lease.Schema + embedded.Schema(bus.Outcomes) + schema, lease.MovesSchema}
	}
	return []string{embedded.Schema(bus.Outcomes) + schema}
}

const schema = `
CREATE TABLE calls (
  id INTEGER PRIMARY KEY,
  out_trade_no TEXT NOT NULL UNIQUE,
  y TEXT NOT NULL,
  account TEXT NOT NULL,
  biz_code TEXT NOT NULL, merchant TEXT NOT NULL, order_type TEXT NOT NULL, order_scene TEXT NOT NULL,
  institution TEXT NOT NULL, trace_id TEXT NOT NULL, form TEXT NOT NULL,
  traffic TEXT NOT NULL CHECK (traffic IN ('real', 'shadow')),
  amount_minor INTEGER NOT NULL CHECK (amount_minor > 0),
  currency TEXT NOT NULL,
  method TEXT NOT NULL,
  subject TEXT NOT NULL,
  return_url TEXT NOT NULL
);
-- Calls made up to here may be gone: they were final long ago. At most one row.
CREATE TABLE cleaned (id INTEGER PRIMARY KEY CHECK (id = 1), before_millis INTEGER NOT NULL);
CREATE TABLE progress (
  id INTEGER PRIMARY KEY,
  traffic TEXT NOT NULL CHECK (traffic IN ('real', 'shadow')),
  grp INTEGER NOT NULL,
  account TEXT NOT NULL,
  expires_at_millis INTEGER NOT NULL,
  created_at_millis INTEGER NOT NULL,
  notify_url TEXT NOT NULL DEFAULT '',
  status TEXT NOT NULL CHECK (status = 'due' OR status = 'sending' OR status = 'answered' OR status = 'stopped'),
  op TEXT NOT NULL CHECK (op = 'pay' OR op = 'query' OR op = 'close'),
  standing TEXT NOT NULL CHECK (standing = 'never_sent' OR standing = 'unknown' OR standing = 'pending' OR standing = 'paid' OR standing = 'declined' OR standing = 'closed'),
  next_at_millis INTEGER NOT NULL,
  asks INTEGER NOT NULL DEFAULT 0,
  tries INTEGER NOT NULL DEFAULT 0,
  close_wanted BOOLEAN NOT NULL DEFAULT FALSE,
  stop_wanted BOOLEAN NOT NULL DEFAULT FALSE,
  ask_wanted BOOLEAN NOT NULL DEFAULT FALSE,
  has_credential BOOLEAN NOT NULL DEFAULT FALSE,
  last_result TEXT NOT NULL DEFAULT '',
  last_state TEXT NOT NULL DEFAULT '',
  last_code TEXT NOT NULL DEFAULT '',
  owner TEXT NOT NULL DEFAULT '',
  sent_at_millis INTEGER NOT NULL DEFAULT 0,
  desk_at_millis INTEGER NOT NULL DEFAULT 0,
  open BOOLEAN NOT NULL,
  version INTEGER NOT NULL,
  CHECK (open = (status IN ('due', 'sending'))),
  CHECK ((status = 'due') = (next_at_millis > 0)),
  CHECK ((status = 'sending') = (owner <> '')),
  CHECK (status <> 'answered' OR standing = 'never_sent' OR standing = 'paid' OR standing = 'declined' OR standing = 'closed')
);
CREATE INDEX progress_due ON progress (account, next_at_millis) WHERE status = 'due';
CREATE INDEX progress_unsent ON progress (expires_at_millis) WHERE status = 'due' AND standing = 'never_sent';
CREATE INDEX progress_open ON progress (id) WHERE open = TRUE;
`
