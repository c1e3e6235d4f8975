-- How a device stands: what listings filter and sort by, in its row. Nobody writes these columns by hand:
-- triggers keep them, so that whoever writes a device, a certificate, a session or a refusal cannot forget to.

-- The newest certificate, and its last good second.
ALTER TABLE device ADD COLUMN certificate BYTEA;
ALTER TABLE device ADD COLUMN expires_s BIGINT NOT NULL DEFAULT 0;
-- 1 when that is near, 30 days; a sweep says it too, since time passes without a write.
ALTER TABLE device ADD COLUMN ends_soon BIGINT NOT NULL DEFAULT 0;
-- When it was last heard of, at most a minute late; 0 for never. newest says it to the millisecond.
ALTER TABLE device ADD COLUMN heard_ms BIGINT NOT NULL DEFAULT 0;
-- Its newest session, 0 for none, and whether it is open.
ALTER TABLE device ADD COLUMN session BIGINT NOT NULL DEFAULT 0;
ALTER TABLE device ADD COLUMN online BIGINT NOT NULL DEFAULT 0;
-- Refusals in 24 hours; a sweep takes away what is older.
ALTER TABLE device ADD COLUMN refused BIGINT NOT NULL DEFAULT 0;
-- What it reported to run, empty for nothing; and a text in the order of versions.
ALTER TABLE device ADD COLUMN firmware TEXT COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE device ADD COLUMN firmware_key TEXT COLLATE "C" NOT NULL DEFAULT '';

UPDATE device SET
    certificate = (SELECT c.id FROM certificate c WHERE c.device = device.id
                   ORDER BY c.added_at_ms DESC, c.not_after_s DESC LIMIT 1),
    expires_s = coalesce((SELECT c.not_after_s FROM certificate c WHERE c.device = device.id
                          ORDER BY c.added_at_ms DESC, c.not_after_s DESC LIMIT 1), 0),
    heard_ms = coalesce((SELECT n.seen_ms FROM newest n WHERE n.device = device.id), 0),
    session = coalesce((SELECT max(s.id) FROM session s WHERE s.device = device.id), 0);

-- Who needs somebody first: 0 is worst, and what is out of use for ever needs nobody. Then what changed last.
ALTER TABLE device ADD COLUMN urgency BIGINT GENERATED ALWAYS AS (
    CASE WHEN state = 'quarantined' THEN 0
         WHEN state = 'revoked' OR state = 'decommissioned' THEN 3
         WHEN refused > 0 THEN 1
         WHEN ends_soon > 0 THEN 2
         ELSE 3 END) STORED;
ALTER TABLE device ADD COLUMN changed_back BIGINT GENERATED ALWAYS AS (-changed_at_ms) STORED;

CREATE INDEX device_urgency ON device (urgency, changed_back, id);
CREATE INDEX device_changed ON device (changed_at_ms, id);
CREATE INDEX device_expires ON device (expires_s, id);
CREATE INDEX device_heard ON device (heard_ms, id);
CREATE INDEX device_refused ON device (refused, id);
CREATE INDEX device_online ON device (id) WHERE online = 1;
CREATE INDEX device_firmware ON device (firmware_key, id) WHERE firmware <> '';
-- Searched by their beginning, whatever the case; and by the number a serial ends in, without its zeros.
CREATE INDEX device_find_serial ON device (lower(serial));
CREATE INDEX device_find_id ON device (lower(device_id));
CREATE INDEX device_find_number ON device (ltrim(substr(serial, length(rtrim(serial, '0123456789')) + 1), '0'));
CREATE INDEX batch_product ON batch (product);
CREATE INDEX certificate_order ON certificate (not_after_s, id);
CREATE INDEX certificate_status ON certificate (status, not_after_s, id);
CREATE INDEX certificate_revoked ON certificate (issuer_key_id, revoked_at_ms) WHERE revoked_at_ms IS NOT NULL;

-- How many devices of a batch are in a state: totals are added up from it, not counted.
CREATE TABLE tally (
    batch   BIGINT NOT NULL REFERENCES batch (id),
    state   TEXT COLLATE "C" NOT NULL,
    devices BIGINT NOT NULL,
    PRIMARY KEY (batch, state)
);
INSERT INTO tally (batch, state, devices) SELECT batch, state, count(*) FROM device GROUP BY batch, state;

-- A statement at a time: one row of the tally is not written once for each device of an import.
CREATE OR REPLACE FUNCTION device_added() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    INSERT INTO tally (batch, state, devices)
    SELECT batch, state, count(*) FROM added GROUP BY batch, state
    ON CONFLICT (batch, state) DO UPDATE SET devices = tally.devices + excluded.devices;
    RETURN NULL;
END $body$;
CREATE TRIGGER device_added AFTER INSERT ON device REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION device_added();

CREATE OR REPLACE FUNCTION device_moved() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    UPDATE tally SET devices = tally.devices - 1 WHERE batch = old.batch AND state = old.state;
    INSERT INTO tally (batch, state, devices) VALUES (new.batch, new.state, 1)
    ON CONFLICT (batch, state) DO UPDATE SET devices = tally.devices + 1;
    -- Of what is out of use nothing is kept of what it did.
    IF new.state = 'decommissioned' THEN
        UPDATE device SET heard_ms = 0, session = 0, online = 0, refused = 0, firmware = '', firmware_key = ''
        WHERE id = new.id;
    END IF;
    RETURN NULL;
END $body$;
CREATE TRIGGER device_moved AFTER UPDATE OF state ON device FOR EACH ROW
    WHEN (old.state IS DISTINCT FROM new.state) EXECUTE FUNCTION device_moved();

CREATE OR REPLACE FUNCTION certificate_added() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    UPDATE device SET certificate = new.id, expires_s = new.not_after_s,
        ends_soon = CASE WHEN new.not_after_s < new.added_at_ms / 1000 + 2592000 THEN 1 ELSE 0 END
    WHERE id = new.device;
    RETURN NULL;
END $body$;
CREATE TRIGGER certificate_added AFTER INSERT ON certificate FOR EACH ROW EXECUTE FUNCTION certificate_added();

CREATE OR REPLACE FUNCTION session_began() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    UPDATE device SET session = new.id, online = CASE WHEN new.ended_at_ms IS NULL THEN 1 ELSE 0 END
    WHERE id = new.device AND session < new.id;
    RETURN NULL;
END $body$;
CREATE TRIGGER session_began AFTER INSERT ON session FOR EACH ROW EXECUTE FUNCTION session_began();

CREATE OR REPLACE FUNCTION session_ended() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    UPDATE device SET online = 0 WHERE id = new.device AND session = new.id;
    RETURN NULL;
END $body$;
CREATE TRIGGER session_ended AFTER UPDATE OF ended_at_ms ON session FOR EACH ROW
    WHEN (old.ended_at_ms IS NULL AND new.ended_at_ms IS NOT NULL) EXECUTE FUNCTION session_ended();

CREATE OR REPLACE FUNCTION refusal_first() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    UPDATE device SET refused = refused + new.count WHERE id = new.device;
    RETURN NULL;
END $body$;
CREATE TRIGGER refusal_first AFTER INSERT ON refusal FOR EACH ROW
    WHEN (new.device > 0) EXECUTE FUNCTION refusal_first();

CREATE OR REPLACE FUNCTION refusal_more() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    UPDATE device SET refused = refused + new.count - old.count WHERE id = new.device;
    RETURN NULL;
END $body$;
CREATE TRIGGER refusal_more AFTER UPDATE OF count ON refusal FOR EACH ROW
    WHEN (new.device > 0) EXECUTE FUNCTION refusal_more();

CREATE OR REPLACE FUNCTION newest_heard() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    UPDATE device SET heard_ms = new.seen_ms WHERE id = new.device AND heard_ms + 60000 <= new.seen_ms;
    RETURN NULL;
END $body$;
CREATE TRIGGER newest_first AFTER INSERT ON newest FOR EACH ROW EXECUTE FUNCTION newest_heard();
CREATE TRIGGER newest_more AFTER UPDATE OF seen_ms ON newest FOR EACH ROW
    WHEN (new.seen_ms > old.seen_ms) EXECUTE FUNCTION newest_heard();
