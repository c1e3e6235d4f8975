-- Decisions about groups. A rule holds for whoever is in the group, now or later, until it is lifted.

CREATE TABLE rule (
    generation BIGINT PRIMARY KEY,
    -- tenant, station, batch, ca or certificate; and which one.
    kind TEXT COLLATE "C" NOT NULL,
    value TEXT COLLATE "C" NOT NULL,
    act TEXT COLLATE "C" NOT NULL,
    state TEXT COLLATE "C" NOT NULL,
    reason_code TEXT COLLATE "C",
    audit_no BIGINT NOT NULL,
    decided_at_ms BIGINT NOT NULL,
    -- Its live sessions have ended, and how many they were.
    enforced_at_ms BIGINT,
    sessions_ended BIGINT NOT NULL,
    -- The rows of its members say so too; of a rule that can be lifted none does.
    followed_at_ms BIGINT,
    -- The decision that took its place or took it back.
    lifted BIGINT
);
CREATE INDEX rule_group ON rule (kind, value, generation);
CREATE INDEX rule_open ON rule (generation)
    WHERE lifted IS NULL AND (enforced_at_ms IS NULL OR followed_at_ms IS NULL);
