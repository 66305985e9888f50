CREATE TABLE places (topic TEXT COLLATE "C" NOT NULL, grp BIGINT NOT NULL, epoch BIGINT NOT NULL, seq BIGINT NOT NULL,
  PRIMARY KEY (topic, grp));
CREATE TABLE heads (topic TEXT COLLATE "C" NOT NULL, grp BIGINT NOT NULL, epoch BIGINT NOT NULL, seq BIGINT NOT NULL,
  PRIMARY KEY (topic, grp));
CREATE TABLE marks (topic TEXT COLLATE "C" NOT NULL, grp BIGINT NOT NULL, seq BIGINT NOT NULL, id BIGINT NOT NULL,
  PRIMARY KEY (topic, grp, seq));
CREATE TABLE parked (id BIGINT PRIMARY KEY DEFAULT nextval('ids'), topic TEXT COLLATE "C" NOT NULL, grp BIGINT NOT NULL, epoch BIGINT NOT NULL,
  seq BIGINT NOT NULL, part BIGINT NOT NULL, reason TEXT COLLATE "C" NOT NULL, parked_at_millis BIGINT NOT NULL,
  replay BOOLEAN NOT NULL DEFAULT FALSE, event_id TEXT COLLATE "C" NOT NULL, type TEXT COLLATE "C" NOT NULL, version BIGINT NOT NULL,
  at_millis BIGINT NOT NULL, biz_code TEXT COLLATE "C" NOT NULL, merchant TEXT COLLATE "C" NOT NULL, order_type TEXT COLLATE "C" NOT NULL, order_scene TEXT COLLATE "C" NOT NULL,
  institution TEXT COLLATE "C" NOT NULL, trace_id TEXT COLLATE "C" NOT NULL, form TEXT COLLATE "C" NOT NULL, traffic TEXT COLLATE "C" NOT NULL CHECK (traffic IN ('real', 'shadow')), extra BYTEA NOT NULL, payload BYTEA NOT NULL);
CREATE INDEX parked_key ON parked (topic, biz_code, id);

CREATE TABLE log_payments (id BIGINT PRIMARY KEY DEFAULT nextval('ids'), grp BIGINT NOT NULL, last BIGINT NOT NULL, events BIGINT NOT NULL, at_millis BIGINT NOT NULL, body BYTEA NOT NULL);
CREATE UNIQUE INDEX log_payments_last ON log_payments (grp, last);
