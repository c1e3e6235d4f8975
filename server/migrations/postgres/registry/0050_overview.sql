-- What the first page sums up: sessions and refusals of a day, certificates that end soon.
CREATE INDEX session_began ON session (began_at_ms);
CREATE INDEX session_ended ON session (ended_at_ms);
CREATE INDEX refusal_minute ON refusal (minute_ms);
CREATE INDEX certificate_ends ON certificate (not_after_s, status);
