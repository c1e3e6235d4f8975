//! What octets from outside meet first, each as a function from octets to nothing that panics when a promise is
//! broken. `README.md` beside this folder says how octets that break one are looked for; what was found worth
//! keeping is in `corpus/`, and the server's tests replay it.

pub mod codec;
pub mod identity;
pub mod namespace;
pub mod proxy;
pub mod session;
