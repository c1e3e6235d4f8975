-- The state a device should be in, as it was set last. What the device says its state is stands in the uplink
-- log, retained, and nowhere else.

CREATE TABLE twin (
    device  BIGINT PRIMARY KEY REFERENCES device (id),
    -- A JSON object, as it came.
    desired TEXT   NOT NULL,
    -- From 1, one more each time it is set.
    version BIGINT NOT NULL,
    author  TEXT   NOT NULL,
    at_ms   BIGINT NOT NULL
);
