-- Where the audit log stood, signed with this server's key: a log that was written anew has no such signature.
CREATE TABLE audit_checkpoint (
    node      TEXT NOT NULL,
    no        INTEGER NOT NULL,
    digest    BLOB NOT NULL,
    at_ms     INTEGER NOT NULL,
    key       BLOB NOT NULL,
    signature BLOB NOT NULL,
    PRIMARY KEY (node, no)
);
