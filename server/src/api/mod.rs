//! HTTPS routes.
