-- An operator has a role and one tenant, or every (NULL). One that was removed stays: the audit log names it.
ALTER TABLE operator ADD COLUMN role TEXT NOT NULL DEFAULT 'viewer';
ALTER TABLE operator ADD COLUMN tenant TEXT;
ALTER TABLE operator ADD COLUMN added_by TEXT NOT NULL DEFAULT 'server';
ALTER TABLE operator ADD COLUMN removed_at_ms INTEGER;
UPDATE operator SET role = coalesce(
    (SELECT token.role FROM token WHERE token.operator = operator.id
     ORDER BY CASE token.role WHEN 'admin' THEN 0 WHEN 'security' THEN 1 WHEN 'operator' THEN 2
                              WHEN 'importer' THEN 3 WHEN 'auditor' THEN 4 ELSE 5 END LIMIT 1), 'viewer');

ALTER TABLE token ADD COLUMN name TEXT NOT NULL DEFAULT '';
ALTER TABLE token ADD COLUMN tenant TEXT;
ALTER TABLE token ADD COLUMN added_by TEXT NOT NULL DEFAULT 'server';
UPDATE token SET name = id;
CREATE INDEX token_operator ON token (operator);

-- A link lets its operator in once. It is kept as its SHA-256 only, as is a session of the web page.
CREATE TABLE link (
    digest        BLOB PRIMARY KEY,
    operator      INTEGER NOT NULL REFERENCES operator (id),
    created_at_ms INTEGER NOT NULL,
    ends_at_ms    INTEGER NOT NULL,
    used_at_ms    INTEGER
);
CREATE INDEX link_operator ON link (operator);

CREATE TABLE web_session (
    id            TEXT PRIMARY KEY,
    digest        BLOB NOT NULL UNIQUE,
    operator      INTEGER NOT NULL REFERENCES operator (id),
    token         TEXT REFERENCES token (id),
    address       TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL,
    seen_at_ms    INTEGER NOT NULL,
    ends_at_ms    INTEGER NOT NULL,
    ended_at_ms   INTEGER
);
CREATE INDEX web_session_operator ON web_session (operator);
