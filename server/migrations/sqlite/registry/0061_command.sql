-- Commands that were sent to devices, and what devices answered: the newest hundred of each.

CREATE TABLE command (
    -- The number of its row in the audit log.
    no             BIGINT PRIMARY KEY,
    -- Its name on topics.
    id             TEXT   NOT NULL,
    device         BIGINT NOT NULL REFERENCES device (id),
    at_ms          BIGINT NOT NULL,
    author         TEXT   NOT NULL,
    request        BLOB   NOT NULL,
    state          TEXT   NOT NULL,
    -- What stood in the way; empty for nothing.
    why            TEXT   NOT NULL,
    -- The beginning of the answer, what it is in the device's words, and its octets in all.
    answer         BLOB,
    answer_type    TEXT,
    answer_octets  BIGINT,
    answered_at_ms BIGINT
);
CREATE UNIQUE INDEX command_id ON command (device, id);
CREATE INDEX command_newest ON command (device, no);
