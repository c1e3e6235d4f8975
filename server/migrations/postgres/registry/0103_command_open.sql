-- Those that are on their way, or wait, which a start looks at.
DROP INDEX command_state;
CREATE INDEX command_state ON command (state) WHERE state IN ('sent', 'queued');
