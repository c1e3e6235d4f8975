-- What outlives a connection. Written in the transaction that commits the segment.

-- A session. key is d/tenant/device_id or s/service/client id; state is its server's own format.
CREATE TABLE session (
    id    INTEGER PRIMARY KEY,
    key   TEXT    NOT NULL UNIQUE,
    state BLOB    NOT NULL,
    at_ms INTEGER NOT NULL
);

-- A message that waits in at least one queue, once. body is a segment's, of this one message; checksum is
-- SHA-256 over position, 1 and body.
CREATE TABLE held (
    position INTEGER PRIMARY KEY,
    checksum BLOB    NOT NULL,
    body     BLOB    NOT NULL
);

-- What waits for a session.
CREATE TABLE queue (
    session  INTEGER NOT NULL REFERENCES session (id),
    position INTEGER NOT NULL REFERENCES held (position),
    PRIMARY KEY (session, position)
) WITHOUT ROWID;
-- By message: which queues hold it, when it goes.
CREATE INDEX queue_position ON queue (position);

-- The retained message of a topic; checksum and body as in held.
CREATE TABLE retained (
    topic    TEXT    PRIMARY KEY,
    position INTEGER NOT NULL,
    checksum BLOB    NOT NULL,
    body     BLOB    NOT NULL
);
