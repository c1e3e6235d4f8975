-- Refusals in the order they were written: who follows them reads on behind the last turn read.
ALTER TABLE refusal ADD COLUMN turn BIGINT NOT NULL DEFAULT 0;
CREATE INDEX refusal_turn ON refusal (turn);

CREATE TABLE follow (
    one     BIGINT PRIMARY KEY CHECK (one = 1),
    -- The newest turn.
    refusal BIGINT NOT NULL
);
INSERT INTO follow (one, refusal) VALUES (1, 0);
