//! Ordered start and stop.
