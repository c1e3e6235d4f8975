//! The registry on real files.

mod asked;
mod audit;
mod decisions;
mod facts;
mod import;
mod newest;
mod operators;
