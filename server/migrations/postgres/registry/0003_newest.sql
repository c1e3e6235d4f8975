-- What is newest of a device, in one row: when it was last heard of, and the last value of each sensor.

CREATE TABLE newest (
    device BIGINT PRIMARY KEY REFERENCES device (id),
    seen_ms BIGINT NOT NULL,
    -- All sensors in one value, with a version; NULL when there are none.
    readings BYTEA
);
INSERT INTO newest (device, seen_ms) SELECT id, last_seen_ms FROM device WHERE last_seen_ms IS NOT NULL;
ALTER TABLE device DROP COLUMN last_seen_ms;

-- Readings are a projection of the uplink log: they are read from it again, from its beginning.
DROP TABLE reading;
DELETE FROM projection WHERE name = 'latest';
