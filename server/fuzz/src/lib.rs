//! What octets from outside meet first, each as a function from octets to nothing that panics when a promise is
//! broken. `cargo +nightly fuzz run codec` (or `session`, `identity`) in this directory looks for such octets;
//! what was found worth keeping is in `corpus/`, and the server's tests replay it.

pub mod codec;
pub mod identity;
pub mod session;
