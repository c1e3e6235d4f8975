//! The web page in a real browser, as people meet it.
//!
//! Needs Chromium and its driver, and axe-core's `axe.min.js` named by `MUSTER_AXE`: `cargo verify page` brings
//! all three. Pictures of every page are kept under the target directory, in `page/`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(unreachable_pub, reason = "modules of one test program")]

mod browser;
mod driver;
mod fleet;
#[path = "../rig/mod.rs"]
mod rig;
