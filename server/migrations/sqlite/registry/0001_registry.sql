-- The registry. Times are Unix milliseconds unless the name ends in _s. Ids of rows are never used twice.

-- One row: this node, the root it trusts, and where its decisions stand.
CREATE TABLE registry (
    one          INTEGER PRIMARY KEY CHECK (one = 1),
    node         TEXT    NOT NULL,
    root         BLOB,
    generation   INTEGER NOT NULL,
    audit_no     INTEGER NOT NULL,
    audit_digest BLOB    NOT NULL
);

-- Every decision. Each row's digest covers the one before it.
CREATE TABLE audit (
    no       INTEGER PRIMARY KEY,
    node     TEXT    NOT NULL,
    at_ms    INTEGER NOT NULL,
    actor    TEXT    NOT NULL,
    role     TEXT    NOT NULL,
    token    TEXT    NOT NULL,
    action   TEXT    NOT NULL,
    target   TEXT    NOT NULL,
    reason   TEXT    NOT NULL,
    detail   TEXT    NOT NULL,
    previous BLOB    NOT NULL,
    digest   BLOB    NOT NULL
);
CREATE INDEX audit_target ON audit (target, no);

CREATE TABLE operator (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    name          TEXT    NOT NULL UNIQUE,
    created_at_ms INTEGER NOT NULL
);

-- A token is kept as its SHA-256 only.
CREATE TABLE token (
    id            TEXT    PRIMARY KEY,
    operator      INTEGER NOT NULL REFERENCES operator (id),
    digest        BLOB    NOT NULL UNIQUE,
    role          TEXT    NOT NULL,
    created_at_ms INTEGER NOT NULL,
    ends_at_ms    INTEGER,
    last_used_ms  INTEGER,
    revoked_at_ms INTEGER
);

-- A factory station, by its root-signed record. Its manifests form one chain.
CREATE TABLE station (
    id             INTEGER PRIMARY KEY AUTOINCREMENT,
    name           TEXT    NOT NULL UNIQUE,
    tenant         TEXT    NOT NULL,
    record         BLOB    NOT NULL,
    factory_key_id BLOB    NOT NULL UNIQUE,
    trusted_at_ms  INTEGER NOT NULL,
    stopped_at_ms  INTEGER,
    stopped_why    TEXT,
    last_sequence  INTEGER,
    last_digest    BLOB
);

CREATE TABLE batch (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    station      INTEGER NOT NULL REFERENCES station (id),
    name         TEXT    NOT NULL,
    product      TEXT    NOT NULL,
    opened_at_ms INTEGER NOT NULL,
    closed_at_ms INTEGER NOT NULL,
    UNIQUE (station, name)
);
CREATE INDEX batch_name ON batch (name);

-- A manifest as it came: the evidence for its devices.
CREATE TABLE manifest (
    id             INTEGER PRIMARY KEY AUTOINCREMENT,
    station        INTEGER NOT NULL REFERENCES station (id),
    sequence       INTEGER NOT NULL,
    digest         BLOB    NOT NULL,
    previous       BLOB,
    batch          INTEGER NOT NULL REFERENCES batch (id),
    devices        INTEGER NOT NULL,
    imported_at_ms INTEGER NOT NULL,
    imported_by    TEXT    NOT NULL,
    body           BLOB    NOT NULL,
    UNIQUE (station, sequence)
);

-- A device. The row stays when the device is decommissioned.
CREATE TABLE device (
    id                 INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant             TEXT    NOT NULL,
    device_id          TEXT    NOT NULL,
    serial             TEXT    NOT NULL,
    state              TEXT    NOT NULL,
    batch              INTEGER NOT NULL REFERENCES batch (id),
    registered_at_ms   INTEGER NOT NULL,
    first_connected_ms INTEGER,
    changed_at_ms      INTEGER NOT NULL,
    changed_no         INTEGER NOT NULL,
    last_seen_ms       INTEGER,
    UNIQUE (tenant, device_id),
    UNIQUE (tenant, serial)
);
CREATE INDEX device_serial ON device (serial, id);
CREATE INDEX device_state ON device (state, serial);
CREATE INDEX device_batch ON device (batch, serial);

CREATE TABLE certificate (
    id             BLOB    PRIMARY KEY,
    device         INTEGER NOT NULL REFERENCES device (id),
    der            BLOB    NOT NULL,
    key_digest     BLOB    NOT NULL,
    issuer_key_id  BLOB    NOT NULL,
    not_before_s   INTEGER NOT NULL,
    not_after_s    INTEGER NOT NULL,
    status         TEXT    NOT NULL,
    added_at_ms    INTEGER NOT NULL,
    revoked_at_ms  INTEGER,
    revoked_reason TEXT
);
CREATE INDEX certificate_device ON certificate (device, added_at_ms);
CREATE INDEX certificate_key ON certificate (key_digest);
CREATE INDEX certificate_issuer ON certificate (issuer_key_id);

-- What must never be let in again, whatever a manifest says: kind is certificate, key or serial.
CREATE TABLE tombstone (
    kind       TEXT    NOT NULL,
    value      TEXT    NOT NULL,
    device     INTEGER NOT NULL REFERENCES device (id),
    generation INTEGER NOT NULL,
    at_ms      INTEGER NOT NULL,
    PRIMARY KEY (kind, value)
);

-- Decisions that end live sessions, until they have.
CREATE TABLE enforcement (
    generation     INTEGER PRIMARY KEY,
    device         INTEGER NOT NULL REFERENCES device (id),
    audit_no       INTEGER NOT NULL,
    act            TEXT    NOT NULL,
    from_state     TEXT    NOT NULL,
    to_state       TEXT    NOT NULL,
    decided_at_ms  INTEGER NOT NULL,
    enforced_at_ms INTEGER,
    sessions_ended INTEGER NOT NULL
);
CREATE INDEX enforcement_open ON enforcement (generation) WHERE enforced_at_ms IS NULL;
CREATE INDEX enforcement_device ON enforcement (device, generation);

-- Facts from here on: unaudited, written in groups.

CREATE TABLE session (
    id           INTEGER PRIMARY KEY,
    device       INTEGER NOT NULL REFERENCES device (id),
    began_at_ms  INTEGER NOT NULL,
    remote       TEXT    NOT NULL,
    protocol     INTEGER NOT NULL,
    keep_alive_s INTEGER NOT NULL,
    ended_at_ms  INTEGER,
    reason       TEXT
);
CREATE INDEX session_device ON session (device, id);
CREATE INDEX session_open ON session (id) WHERE ended_at_ms IS NULL;

-- device is 0 where no device of the registry was refused; claimed then says who it said it was.
CREATE TABLE refusal (
    device     INTEGER NOT NULL,
    claimed    TEXT    NOT NULL,
    code       TEXT    NOT NULL,
    minute_ms  INTEGER NOT NULL,
    count      INTEGER NOT NULL,
    last_at_ms INTEGER NOT NULL,
    remote     TEXT,
    PRIMARY KEY (device, claimed, code, minute_ms)
);
CREATE INDEX refusal_device ON refusal (device, minute_ms);

-- The newest value of each sensor of each device: a projection of the uplink log.
CREATE TABLE reading (
    device      INTEGER NOT NULL REFERENCES device (id),
    sensor      TEXT    NOT NULL,
    kind        TEXT    NOT NULL,
    number      INTEGER,
    measure     REAL,
    received_ms INTEGER NOT NULL,
    uptime_ms   INTEGER NOT NULL,
    PRIMARY KEY (device, sensor)
);

-- How far each projection of the uplink log has come.
CREATE TABLE projection (
    name   TEXT PRIMARY KEY,
    cursor TEXT NOT NULL
);
