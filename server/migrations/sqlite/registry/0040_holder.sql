-- Who writes this registry: a random name a server takes when it opens it. A server that finds another
-- name after its connection broke was replaced, and writes no more.
ALTER TABLE registry ADD COLUMN holder TEXT;
