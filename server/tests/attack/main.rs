//! What somebody who means harm may send. [`corpora`] replays what the fuzzers found.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test binary")]

mod corpora;
