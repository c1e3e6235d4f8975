-- What operators write on devices: tags and groups (words), and a note.

CREATE TABLE label (
    -- tag or group
    kind   TEXT COLLATE "C" NOT NULL,
    word   TEXT COLLATE "C" NOT NULL,
    device BIGINT NOT NULL REFERENCES device (id),
    PRIMARY KEY (kind, word, device)
);
CREATE INDEX label_device ON label (device, kind, word);

CREATE TABLE note (
    device BIGINT PRIMARY KEY REFERENCES device (id),
    text   TEXT NOT NULL,
    author TEXT COLLATE "C" NOT NULL,
    at_ms  BIGINT NOT NULL
);

-- Of what is out of use nothing is kept of what was written on it; the record of who wrote it stays.
CREATE OR REPLACE FUNCTION label_gone() RETURNS trigger LANGUAGE plpgsql AS $body$
BEGIN
    DELETE FROM label WHERE device = new.id;
    DELETE FROM note WHERE device = new.id;
    RETURN NULL;
END $body$;
CREATE TRIGGER label_gone AFTER UPDATE OF state ON device FOR EACH ROW
    WHEN (old.state IS DISTINCT FROM new.state AND new.state = 'decommissioned') EXECUTE FUNCTION label_gone();
