-- What a device did that nobody was refused for and its operator wants to see: it was slowed, or perhaps there
-- are two of it. Counted by the minute, as refusals are; `bound` is what the notice has a number for.
CREATE TABLE notice (
    device     BIGINT NOT NULL REFERENCES device (id),
    kind       TEXT COLLATE "C"   NOT NULL,
    bound      BIGINT NOT NULL,
    minute_ms  BIGINT NOT NULL,
    count      BIGINT NOT NULL,
    last_at_ms BIGINT NOT NULL,
    remote     TEXT,
    PRIMARY KEY (device, kind, bound, minute_ms)
);
CREATE INDEX notice_device ON notice (device, minute_ms);
