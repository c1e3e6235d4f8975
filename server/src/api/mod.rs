//! HTTPS routes.

pub mod error;
