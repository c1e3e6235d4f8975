-- When a device is known to have had a command; NULL where nobody knows.
ALTER TABLE command ADD COLUMN delivered_at_ms BIGINT;
-- Those that wait, which a start looks at.
CREATE INDEX command_state ON command (state) WHERE state = 'queued';
