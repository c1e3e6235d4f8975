-- Where the audit log stood, signed with this server's key: a log that was written anew has no such signature.
CREATE TABLE audit_checkpoint (
    node      TEXT COLLATE "C" NOT NULL,
    no        BIGINT NOT NULL,
    digest    BYTEA NOT NULL,
    at_ms     BIGINT NOT NULL,
    key       BYTEA NOT NULL,
    signature BYTEA NOT NULL,
    PRIMARY KEY (node, no)
);
