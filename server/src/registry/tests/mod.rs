//! The registry on real files.

mod audit;
mod decisions;
mod facts;
mod import;
mod newest;
mod operators;
