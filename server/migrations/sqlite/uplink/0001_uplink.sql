-- The uplink log of one node. Positions are dense: a segment holds first to first + count - 1.

-- One row: which log this is. A cursor names it, so that a cursor of another log is told from one of this.
CREATE TABLE log (
    one           INTEGER PRIMARY KEY CHECK (one = 1),
    node          INTEGER NOT NULL,
    created_at_ms INTEGER NOT NULL
);

-- One commit. checksum is SHA-256 over first, count and body.
CREATE TABLE segment (
    first    INTEGER PRIMARY KEY,
    count    INTEGER NOT NULL,
    at_ms    INTEGER NOT NULL,
    checksum BLOB    NOT NULL,
    body     BLOB    NOT NULL
);
