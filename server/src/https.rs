//! How this program asks others over HTTPS: whom it trusts is said each time, the rest never differs.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use ureq::{
    Agent,
    config::ConfigBuilder,
    tls::{RootCerts, TlsConfig},
    typestate::AgentScope,
};

/// An agent that trusts these authorities alone, to be bounded further: it speaks HTTPS or nothing, follows nobody
/// elsewhere, and reads a refusal like any other answer.
pub(crate) fn asking(roots: RootCerts) -> ConfigBuilder<AgentScope> {
    let tls = TlsConfig::builder()
        .root_certs(roots)
        .unversioned_rustls_crypto_provider(Arc::new(aws_lc_rs::default_provider()))
        .build();
    Agent::config_builder()
        .tls_config(tls)
        .https_only(true)
        .http_status_as_error(false)
        .max_redirects(0)
        // Whoever is asked is asked, and nobody in between: a proxy of the environment would see tokens.
        .proxy(None)
        .user_agent(concat!("muster/", env!("CARGO_PKG_VERSION")))
}
