//! The operator's commands.

mod args;

pub use args::{Args, FRONT};
