-- What operators write on devices: tags and groups (words), and a note.

CREATE TABLE label (
    -- tag or group
    kind   TEXT   NOT NULL,
    word   TEXT   NOT NULL,
    device BIGINT NOT NULL REFERENCES device (id),
    PRIMARY KEY (kind, word, device)
);
CREATE INDEX label_device ON label (device, kind, word);

CREATE TABLE note (
    device BIGINT PRIMARY KEY REFERENCES device (id),
    text   TEXT   NOT NULL,
    author TEXT   NOT NULL,
    at_ms  BIGINT NOT NULL
);

-- Of what is out of use nothing is kept of what was written on it; the record of who wrote it stays.
CREATE TRIGGER label_gone AFTER UPDATE OF state ON device
WHEN old.state <> new.state AND new.state = 'decommissioned' BEGIN
    DELETE FROM label WHERE device = new.id;
    DELETE FROM note WHERE device = new.id;
END;
