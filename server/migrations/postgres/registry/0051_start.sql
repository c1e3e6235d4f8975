-- All that a start needs of certificates, in the order of their devices: no certificate itself is read.
DROP INDEX certificate_device;
CREATE INDEX certificate_device ON certificate (device, added_at_ms, id, not_after_s, status, issuer_key_id);
