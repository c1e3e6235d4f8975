-- One act on many devices, chosen by a filter.
CREATE TABLE job (
    id            TEXT   PRIMARY KEY,
    act           TEXT   NOT NULL,
    selection     TEXT   NOT NULL,
    reason        TEXT   NOT NULL,
    word          TEXT,
    actor         TEXT   NOT NULL,
    role          TEXT   NOT NULL,
    token         TEXT,
    tenant        TEXT,
    state         TEXT   NOT NULL,
    total         BIGINT NOT NULL,
    done          BIGINT NOT NULL,
    skipped       BIGINT NOT NULL,
    failed        BIGINT NOT NULL,
    created_at_ms BIGINT NOT NULL,
    ended_at_ms   BIGINT
);
CREATE INDEX job_created ON job (created_at_ms, id);

-- What is to be done, and what became of it: outcome is NULL until then.
CREATE TABLE job_row (
    job      TEXT   NOT NULL REFERENCES job (id),
    no       BIGINT NOT NULL,
    device   BIGINT NOT NULL REFERENCES device (id),
    outcome  TEXT,
    code     TEXT,
    what     TEXT,
    audit_no BIGINT,
    PRIMARY KEY (job, no)
);
CREATE INDEX job_row_outcome ON job_row (job, outcome, no);
