-- When a device reported to run something else than before, and what that was; empty for nothing.
CREATE TABLE firmware_change (
    device  BIGINT NOT NULL REFERENCES device (id),
    at_ms   BIGINT NOT NULL,
    version TEXT NOT NULL,
    was     TEXT NOT NULL,
    PRIMARY KEY (device, at_ms)
);
CREATE INDEX firmware_change_at ON firmware_change (at_ms);
