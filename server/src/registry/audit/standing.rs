//! How the audit log stands: the newest check of its chain, kept, and made again where that was a while ago.
//!
//! A check from the first row takes time in proportion to the log; so it is made once an hour, and between two of
//! them only what was added is followed, from the row that was the last. What was found is therefore about every
//! row, and about the old ones an hour old at most.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use muster_pki::Signer as _;
use parking_lot::Mutex;

use super::{AuditHead, AuditReport};
use crate::registry::{Inner, Registry, RegistryError, now_ms};

/// How old the newest check may be, milliseconds, before the next reader begins another.
const FRESH_MS: u64 = 15_000;
/// How old the newest check from the first row may be, milliseconds.
const WHOLE_MS: u64 = 60 * 60 * 1000;

/// What a check found, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Looked {
    /// What it found.
    pub report: AuditReport,
    /// When it began, Unix milliseconds.
    pub at_ms: u64,
}

/// The newest check, and whether one runs.
#[derive(Debug, Default)]
pub(in crate::registry) struct Standing {
    newest: Mutex<Option<Looked>>,
    /// When the newest check from the first row began.
    whole_ms: Mutex<u64>,
    runs: AtomicBool,
}

impl Standing {
    /// Keeps what a check from the first row found.
    pub(in crate::registry) fn keep(&self, report: &AuditReport, at_ms: u64) {
        *self.whole_ms.lock() = at_ms;
        *self.newest.lock() = Some(Looked { report: report.clone(), at_ms });
    }

    /// Where a check made now begins.
    fn from(&self, at_ms: u64) -> Option<AuditHead> {
        let newest = self.newest.lock();
        let good = newest.as_ref().filter(|looked| looked.report.broken.is_none());
        let whole = at_ms.saturating_sub(*self.whole_ms.lock()) < WHOLE_MS;
        good.filter(|_| whole).map(|looked| looked.report.head)
    }

    /// As if the newest check were a while ago.
    #[cfg(test)]
    pub(in crate::registry) fn age(&self) {
        if let Some(newest) = self.newest.lock().as_mut() {
            newest.at_ms = newest.at_ms.saturating_sub(FRESH_MS);
        }
    }

    fn is_fresh(&self, at_ms: u64) -> bool {
        self.newest.lock().as_ref().is_some_and(|looked| at_ms.saturating_sub(looked.at_ms) < FRESH_MS)
    }
}

async fn check(inner: &Inner) -> Result<(), RegistryError> {
    let at_ms = now_ms();
    let from = inner.standing.from(at_ms);
    let key = *inner.audit_key.public_key();
    let report = super::verify(inner.database.readers(), Some(&key), None, from).await?;
    match from {
        Some(_) => *inner.standing.newest.lock() = Some(Looked { report, at_ms }),
        None => inner.standing.keep(&report, at_ms),
    }
    Ok(())
}

impl Registry {
    /// Reads the whole audit log and checks its chain and its signed checkpoints; `outside` is a head that
    /// was kept elsewhere, against a log that was cut and written anew.
    ///
    /// # Errors
    /// [`RegistryError`] when it cannot be read. A broken chain is an [`AuditReport`], not an error.
    pub async fn audit_verify(&self, outside: Option<&AuditHead>) -> Result<AuditReport, RegistryError> {
        let key = *self.inner.audit_key.public_key();
        let at_ms = now_ms();
        let report = super::verify(self.inner.database.readers(), Some(&key), outside, None).await?;
        if outside.is_none() {
            self.inner.standing.keep(&report, at_ms);
        }
        Ok(report)
    }

    /// What the newest check of the audit log found. Where that was a while ago another begins, and is waited for
    /// so long; `None`: the first one still runs.
    ///
    /// # Errors
    /// [`RegistryError`] when the log cannot be read.
    pub async fn audit_standing(&self, wait: Duration) -> Result<Option<Looked>, RegistryError> {
        let standing = &self.inner.standing;
        if !standing.is_fresh(now_ms()) && !standing.runs.swap(true, Ordering::AcqRel) {
            let inner = Arc::clone(&self.inner);
            // On a task of its own: whoever asked may go away, and the next one finds what it found.
            let checking = tokio::spawn(async move {
                let done = check(&inner).await;
                inner.standing.runs.store(false, Ordering::Release);
                done
            });
            if let Ok(done) = tokio::time::timeout(wait, checking).await {
                done.unwrap_or(Err(RegistryError::Closed))?;
            }
        }
        Ok(standing.newest.lock().clone())
    }
}
