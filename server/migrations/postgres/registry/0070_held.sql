-- What the rules of a batch, its station and its tenant come to: what they hold its devices in, empty for nothing.
-- Written with each such rule and with each new batch, so that nobody who lists devices has to look at the rules.
ALTER TABLE batch ADD COLUMN held TEXT COLLATE "C" NOT NULL DEFAULT '';
UPDATE batch SET held = coalesce((
    SELECT rule.state FROM rule JOIN station AS at ON at.id = batch.station
    WHERE rule.lifted IS NULL
      AND ((rule.kind = 'batch' AND rule.value = at.name || '/' || batch.name)
        OR (rule.kind = 'station' AND rule.value = at.name)
        OR (rule.kind = 'tenant' AND rule.value = at.tenant))
    ORDER BY CASE rule.state WHEN 'revoked' THEN 0 WHEN 'quarantined' THEN 1 ELSE 2 END LIMIT 1), '');
CREATE INDEX batch_held ON batch (held) WHERE held <> '';
