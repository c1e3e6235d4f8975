//! One typed TOML file.
