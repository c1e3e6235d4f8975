-- Notices take their turns among the refusals: who follows the one follows the other.
ALTER TABLE notice ADD COLUMN turn BIGINT NOT NULL DEFAULT 0;
CREATE INDEX notice_turn ON notice (turn);
CREATE INDEX notice_minute ON notice (minute_ms);
