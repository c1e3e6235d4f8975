-- Decisions about groups. A rule holds for whoever is in the group, now or later, until it is lifted.

CREATE TABLE rule (
    generation     INTEGER PRIMARY KEY,
    -- tenant, station, batch, ca or certificate; and which one.
    kind           TEXT    NOT NULL,
    value          TEXT    NOT NULL,
    act            TEXT    NOT NULL,
    state          TEXT    NOT NULL,
    reason_code    TEXT,
    audit_no       INTEGER NOT NULL,
    decided_at_ms  INTEGER NOT NULL,
    -- Its live sessions have ended, and how many they were.
    enforced_at_ms INTEGER,
    sessions_ended INTEGER NOT NULL,
    -- The rows of its members say so too; of a rule that can be lifted none does.
    followed_at_ms INTEGER,
    -- The decision that took its place or took it back.
    lifted         INTEGER
);
CREATE INDEX rule_group ON rule (kind, value, generation);
CREATE INDEX rule_open ON rule (generation)
    WHERE lifted IS NULL AND (enforced_at_ms IS NULL OR followed_at_ms IS NULL);
