//! The registry on real databases: every file here runs on SQLite and on PostgreSQL, by the name `Fleet` that
//! it takes from the module it is in. A new one is named in both.

mod postgres;
mod schema;
mod shared;
mod sqlite;
