-- An operator has a role and one tenant, or every (NULL). One that was removed stays: the audit log names it.
ALTER TABLE operator ADD COLUMN role TEXT COLLATE "C" NOT NULL DEFAULT 'viewer';
ALTER TABLE operator ADD COLUMN tenant TEXT COLLATE "C";
ALTER TABLE operator ADD COLUMN added_by TEXT COLLATE "C" NOT NULL DEFAULT 'server';
ALTER TABLE operator ADD COLUMN removed_at_ms BIGINT;
UPDATE operator SET role = coalesce(
    (SELECT token.role FROM token WHERE token.operator = operator.id
     ORDER BY CASE token.role WHEN 'admin' THEN 0 WHEN 'security' THEN 1 WHEN 'operator' THEN 2
                              WHEN 'importer' THEN 3 WHEN 'auditor' THEN 4 ELSE 5 END LIMIT 1), 'viewer');

ALTER TABLE token ADD COLUMN name TEXT COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE token ADD COLUMN tenant TEXT COLLATE "C";
ALTER TABLE token ADD COLUMN added_by TEXT COLLATE "C" NOT NULL DEFAULT 'server';
UPDATE token SET name = id;
CREATE INDEX token_operator ON token (operator);

-- A link lets its operator in once. It is kept as its SHA-256 only, as is a session of the web page.
CREATE TABLE link (
    digest        BYTEA PRIMARY KEY,
    operator      BIGINT NOT NULL REFERENCES operator (id),
    created_at_ms BIGINT NOT NULL,
    ends_at_ms    BIGINT NOT NULL,
    used_at_ms    BIGINT
);
CREATE INDEX link_operator ON link (operator);

CREATE TABLE web_session (
    id            TEXT COLLATE "C" PRIMARY KEY,
    digest        BYTEA NOT NULL UNIQUE,
    operator      BIGINT NOT NULL REFERENCES operator (id),
    token         TEXT COLLATE "C" REFERENCES token (id),
    address       TEXT COLLATE "C" NOT NULL,
    created_at_ms BIGINT NOT NULL,
    seen_at_ms    BIGINT NOT NULL,
    ends_at_ms    BIGINT NOT NULL,
    ended_at_ms   BIGINT
);
CREATE INDEX web_session_operator ON web_session (operator);
