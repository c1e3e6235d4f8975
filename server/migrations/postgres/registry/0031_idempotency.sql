-- Requests that carry a key: status is NULL until the request has ended.
CREATE TABLE idempotency (
    who     TEXT   NOT NULL,
    name    TEXT   NOT NULL,
    -- SHA-256 of the request.
    request BYTEA  NOT NULL,
    at_ms   BIGINT NOT NULL,
    status  BIGINT,
    media   TEXT,
    etag    TEXT,
    body    BYTEA,
    PRIMARY KEY (who, name)
);
CREATE INDEX idempotency_at ON idempotency (at_ms);
