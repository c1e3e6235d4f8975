-- How long what was seen is kept, where somebody has decided it: a row for each period. What the server's
-- configuration says counts more, and what nobody has said is the program's own.
CREATE TABLE keep_for (
    period TEXT PRIMARY KEY,
    value  BIGINT NOT NULL,
    author TEXT   NOT NULL,
    at_ms  BIGINT NOT NULL
);
