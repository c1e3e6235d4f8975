//! What `muster init` writes.
