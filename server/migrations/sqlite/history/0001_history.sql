-- What sensors said over the last days: a projection of one node's uplink log, which can be made again from it.

-- One row: up to where the log was read.
CREATE TABLE place (
    one    INTEGER PRIMARY KEY CHECK (one = 1),
    cursor TEXT    NOT NULL
);

CREATE TABLE device (
    id        INTEGER PRIMARY KEY,
    tenant    TEXT NOT NULL,
    device_id TEXT NOT NULL,
    UNIQUE (tenant, device_id)
);

-- The samples of a device between two stores, all of one day; number is the log's position after them. By day
-- first: a day that is over is one piece of the file.
CREATE TABLE piece (
    day     INTEGER NOT NULL,
    device  INTEGER NOT NULL,
    from_ms INTEGER NOT NULL,
    number  INTEGER NOT NULL,
    body    BLOB    NOT NULL,
    PRIMARY KEY (day, device, from_ms, number)
) WITHOUT ROWID;
