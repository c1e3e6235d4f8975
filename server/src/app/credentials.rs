//! What the two doors show: the broker's certificate to devices, the HTTPS certificate to people.

use std::{net::SocketAddr, path::Path, sync::Arc};

use muster_pki::{bundle::ServerBundle, profile::ServerName};
use muster_shared::Code;
use rustls::{
    crypto::aws_lc_rs,
    server::ResolvesServerCert,
    sign::{CertifiedKey, SingleCertAndKey},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};

use crate::{
    api::error::Problem,
    certificate::{Own, Renewing, Resolver},
    config::Config,
    edge::BrokerCredential,
    registry::now_ms,
};

/// Now, Unix seconds.
pub(super) fn now_s() -> i64 {
    (now_ms() / 1000) as i64
}

/// The configured names, and the address listened on where it is one.
pub(super) fn names(names: &[ServerName], listen: SocketAddr) -> Vec<ServerName> {
    let mut names = names.to_vec();
    let own = ServerName::Ip(listen.ip());
    if !listen.ip().is_unspecified() && !names.contains(&own) {
        names.push(own);
    }
    names
}

pub(super) fn broker_credential(own: &Own) -> BrokerCredential {
    BrokerCredential { chain: own.chain.clone(), key: own.expose_secret() }
}

type Https = (Arc<dyn ResolvesServerCert>, Option<Arc<Renewing>>);

/// The configured certificate, else one of the HTTPS authority, which is then renewed.
pub(super) fn https_resolver(config: &Config, bundle: &ServerBundle) -> Result<Https, Problem> {
    if let Some((certificate, key)) = &config.https.certificate {
        return Ok((Arc::new(SingleCertAndKey::from(configured(certificate, key, bundle)?)), None));
    }
    let names = names(&config.https.names, config.https.listen);
    let renewing = Renewing::new(&bundle.https, &names, now_s()).map(Arc::new);
    let resolver = renewing.and_then(|renewing| Ok((Resolver::new(renewing.clone())?, renewing)));
    let (resolver, renewing) = resolver.map_err(|error| super::fault("no HTTPS certificate", &error))?;
    Ok((Arc::new(resolver), Some(renewing)))
}

fn configured(certificate: &Path, key: &Path, bundle: &ServerBundle) -> Result<CertifiedKey, Problem> {
    let unusable = |path: &Path, why: String| {
        Problem::new(Code::ConfigInvalid)
            .what("the HTTPS certificate cannot be used")
            .at(path.display().to_string())
            .because(why)
    };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .map_err(|error| unusable(certificate, error.to_string()))?;
    let Some(leaf) = chain.first() else {
        return Err(unusable(certificate, "the file holds no certificate".to_owned()));
    };
    // Devices pin the broker authority: a key of its that lies in a web server's file is a second broker.
    if bundle.broker.certificate().vouches_for(leaf).is_ok() {
        return Err(unusable(certificate, "it is of the broker authority, which devices pin".to_owned()));
    }
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| unusable(key, error.to_string()))?;
    CertifiedKey::from_der(chain, secret, &aws_lc_rs::default_provider())
        .map_err(|error| unusable(key, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_listened_on_is_among_the_names() {
        let configured: Vec<ServerName> = vec!["localhost".parse().unwrap()];
        let of = |listen: &str| names(&configured, listen.parse().unwrap());
        assert_eq!(of("0.0.0.0:1"), configured);
        assert_eq!(of("[::]:1"), configured);
        assert_eq!(of("192.0.2.7:1"), [configured[0].clone(), "192.0.2.7".parse().unwrap()]);
    }
}
