-- Continuity tokens: what tells a device from its copy. Facts: unaudited, written in groups.

-- Raised when the registry was restored from a copy of itself: tokens of an earlier epoch may be ahead of it.
ALTER TABLE registry ADD COLUMN continuity_epoch BIGINT NOT NULL DEFAULT 1;
-- Which key the tokens below were made with: four octets of a digest of it.
ALTER TABLE registry ADD COLUMN continuity_key BYTEA;

-- A device that has confirmed a token: that one, and the one it was given last.
CREATE TABLE continuity (
    device BIGINT PRIMARY KEY REFERENCES device (id),
    confirmed BYTEA NOT NULL,
    pending BYTEA
);
