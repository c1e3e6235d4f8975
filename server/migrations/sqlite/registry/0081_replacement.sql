-- Boards that were swapped: who took whose place. A device is replaced once, and takes one device's place.

CREATE TABLE replacement (
    device    BIGINT PRIMARY KEY REFERENCES device (id),
    successor BIGINT NOT NULL UNIQUE REFERENCES device (id),
    at_ms     BIGINT NOT NULL
);
