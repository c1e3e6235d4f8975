//! The certificates this server shows: it issues them itself from the authorities it holds, when it
//! starts, and anew at two thirds of their life. Their keys are made here and never written anywhere.

use std::{fmt, sync::Arc, time::Duration};

use muster_pki::{
    Authority, Ca, CertificateSerial, MemoryLedger, Request, Signer as _, SoftKey, profile::ServerName,
};
use muster_shared::CertificateId;
use parking_lot::RwLock;
use rustls::{
    crypto::aws_lc_rs,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {why}")]
pub struct CertificateError {
    what: &'static str,
    why: String,
}

impl CertificateError {
    fn of(what: &'static str) -> impl Fn(&dyn fmt::Display) -> Self {
        move |why| Self { what, why: why.to_string() }
    }
}

/// A certificate in use, and its key.
pub struct Own {
    /// Leaf first, then what a client that trusts only the root would need.
    pub chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    /// SHA-256 of the leaf.
    pub id: CertificateId,
    not_before_s: i64,
    not_after_s: i64,
}

impl Own {
    /// The private key, for a TLS configuration.
    #[must_use]
    pub fn expose_secret(&self) -> PrivateKeyDer<'static> {
        self.key.clone_key()
    }
}

impl fmt::Debug for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Own({})", self.id)
    }
}

/// An authority, the names to issue for, and the certificate in use.
pub struct Renewing {
    authority: Authority,
    names: Vec<ServerName>,
    current: RwLock<Arc<Own>>,
}

impl fmt::Debug for Renewing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Renewing({:?})", self.current.read())
    }
}

impl Renewing {
    /// Issues the first certificate. `now_s` is the time of issue, Unix seconds.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn new(ca: &Ca, names: &[ServerName], now_s: i64) -> Result<Self, CertificateError> {
        let authority = Authority::new(ca);
        let current = RwLock::new(Arc::new(issue(&authority, names, now_s)?));
        Ok(Self { authority, names: names.to_vec(), current })
    }

    /// The certificate in use.
    #[must_use]
    pub fn current(&self) -> Arc<Own> {
        self.current.read().clone()
    }

    /// Its last good second, Unix seconds.
    #[must_use]
    pub fn ends_at_s(&self) -> i64 {
        self.current.read().not_after_s
    }

    /// How long until the next one is due.
    #[must_use]
    pub fn due_in(&self, now_s: i64) -> Duration {
        let current = self.current.read();
        let due_s = current.not_before_s + (current.not_after_s - current.not_before_s) / 3 * 2;
        Duration::from_secs(u64::try_from(due_s - now_s).unwrap_or(0))
    }

    /// Issues the next one and takes it into use.
    ///
    /// # Errors
    /// [`CertificateError`]; the one in use stays.
    pub fn renew(&self, now_s: i64) -> Result<Arc<Own>, CertificateError> {
        let next = Arc::new(issue(&self.authority, &self.names, now_s)?);
        *self.current.write() = next.clone();
        Ok(next)
    }
}

fn issue(authority: &Authority, names: &[ServerName], now_s: i64) -> Result<Own, CertificateError> {
    let failed = CertificateError::of("no certificate was issued");
    let key = SoftKey::generate().map_err(|error| failed(&error))?;
    let serial = CertificateSerial::draw().map_err(|error| failed(&error))?;
    let request = Request::Server { names, key: key.public_key() };
    // Nothing is to be found again after a restart: the key is gone, so the next start issues for a new one.
    let mut ledger = MemoryLedger::default();
    let issued = authority.issue(&request, &mut ledger, serial, now_s).map_err(|error| failed(&error))?;
    let secret = key.expose_secret().map_err(|error| failed(&error))?;
    tracing::info!(certificate = %issued.id, ca = authority.certificate().name(), "certificate issued");
    Ok(Own {
        chain: vec![issued.certificate.into()],
        key: PrivatePkcs8KeyDer::from(secret.to_vec()).into(),
        id: issued.id,
        not_before_s: issued.intent.not_before_s,
        not_after_s: issued.intent.not_after_s,
    })
}

/// Shows the certificate in use to whoever connects.
#[derive(Debug)]
pub struct Resolver {
    source: Arc<Renewing>,
    signed: RwLock<(CertificateId, Arc<CertifiedKey>)>,
}

impl Resolver {
    /// # Errors
    /// [`CertificateError`] when the key does not sign.
    pub fn new(source: Arc<Renewing>) -> Result<Self, CertificateError> {
        let own = source.current();
        let signed = RwLock::new((own.id, certified(&own)?));
        Ok(Self { source, signed })
    }
}

fn certified(own: &Own) -> Result<Arc<CertifiedKey>, CertificateError> {
    CertifiedKey::from_der(own.chain.clone(), own.expose_secret(), &aws_lc_rs::default_provider())
        .map(Arc::new)
        .map_err(|error| CertificateError::of("the certificate cannot be used")(&error))
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let own = self.source.current();
        let (id, key) = self.signed.read().clone();
        if id == own.id {
            return Some(key);
        }
        match certified(&own) {
            Ok(key) => {
                *self.signed.write() = (own.id, key.clone());
                Some(key)
            }
            Err(error) => {
                tracing::error!(%error, "the renewed certificate is not shown");
                Some(key)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use muster_pki::{hierarchy::Hierarchy, testing};

    use super::*;

    const NOW_S: i64 = 1_795_000_000;
    const DAY_S: i64 = 86_400;

    fn renewing(hierarchy: &Hierarchy) -> Renewing {
        Renewing::new(&hierarchy.broker, &["localhost".parse().unwrap()], NOW_S).unwrap()
    }

    #[test]
    fn a_broker_certificate_lives_thirty_days_and_is_renewed_at_two_thirds() {
        let hierarchy = testing::hierarchy(NOW_S);
        let renewing = renewing(&hierarchy);
        let life_s = renewing.ends_at_s() - NOW_S;
        assert!(life_s <= 30 * DAY_S && life_s > 29 * DAY_S, "{life_s}");
        let due_s = renewing.due_in(NOW_S).as_secs() as i64;
        assert!((19 * DAY_S..=20 * DAY_S).contains(&due_s), "{due_s}");
        assert!(renewing.due_in(NOW_S + due_s).is_zero());
        assert!(renewing.due_in(NOW_S + 400 * DAY_S).is_zero(), "a clock may jump");
    }

    #[test]
    fn renewal_makes_another_certificate_for_another_key_of_the_same_authority() {
        let hierarchy = testing::hierarchy(NOW_S);
        let renewing = renewing(&hierarchy);
        let before = renewing.current();
        let after = renewing.renew(NOW_S + 20 * DAY_S).unwrap();
        assert_ne!(before.id, after.id);
        assert_ne!(before.expose_secret().secret_der(), after.expose_secret().secret_der());
        assert_eq!(renewing.current().id, after.id);
        assert!(renewing.ends_at_s() > NOW_S + 49 * DAY_S);
        for own in [before, after] {
            assert!(hierarchy.broker.certificate().vouches_for(&own.chain[0]).is_ok());
            assert!(hierarchy.https.certificate().vouches_for(&own.chain[0]).is_err());
            assert_eq!(certified(&own).unwrap().cert[0], own.chain[0]);
        }
    }
}
