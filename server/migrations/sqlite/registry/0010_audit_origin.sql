-- Whose thing a decision was about, and where it came from. NULL in rows from before these columns, whose
-- digests do not cover them; empty where there is none.
ALTER TABLE audit ADD COLUMN tenant TEXT;
ALTER TABLE audit ADD COLUMN request TEXT;
ALTER TABLE audit ADD COLUMN address TEXT;
CREATE INDEX audit_tenant ON audit (tenant, no);
CREATE INDEX audit_actor ON audit (actor, no);
CREATE INDEX audit_action ON audit (action, no);
CREATE INDEX audit_at ON audit (at_ms, no);
