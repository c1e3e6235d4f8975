//! What comes from the factory: the root and the stations it vouches for, their manifests, the batches these make,
//! and certificates that come in a list instead.

use std::sync::Arc;

use muster_pki::StationRecord;
use muster_shared::{BatchId, Tenant};
use rustls_pki_types::CertificateDer;

use super::{
    Actor, BatchRow, Differing, ImportReport, Page, Registry, Scope, StationRow, Taking, Trusted,
    batches::{self, reconcile},
    error::RegistryError,
    import, station,
};

impl Registry {
    /// Records the root that station records must be signed by. The same root again changes nothing.
    ///
    /// # Errors
    /// [`RegistryError`]; another root than the recorded one is refused.
    pub async fn trust_root(&self, actor: &Actor, root: &CertificateDer<'_>) -> Result<(), RegistryError> {
        let (actor, root) = (actor.clone(), root.clone().into_owned());
        self.run(|inner| async move { station::trust_root(&inner, &actor, &root).await }).await
    }

    /// Registers a station by its root-signed record; of two that differ, the one signed later counts. The same
    /// record again changes nothing.
    ///
    /// # Errors
    /// [`RegistryError`]; M408 for a record the root did not sign, M409 for one that does not go together with
    /// those of other stations.
    pub async fn trust_station(&self, actor: &Actor, record: &[u8]) -> Result<Trusted, RegistryError> {
        let taking = Taking { differing: Differing::Newest, ..Taking::default() };
        self.take_station(actor, record, &taking).await
    }

    /// The same with a say in what becomes of a record that differs from the registered one.
    ///
    /// # Errors
    /// As [`Registry::trust_station`].
    pub async fn take_station(
        &self,
        actor: &Actor,
        record: &[u8],
        taking: &Taking,
    ) -> Result<Trusted, RegistryError> {
        let (actor, record, taking) = (actor.clone(), record.to_vec(), taking.clone());
        self.run(|inner| async move { station::trust_station(&inner, &actor, &record, &taking).await }).await
    }

    /// Registered stations, by name.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn stations(&self, scope: &Scope) -> Result<Vec<StationRow>, RegistryError> {
        station::stations(self.inner.database.readers(), scope).await
    }

    /// The stations' records, with how many devices each has made.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn factory_authorities(&self) -> Result<Vec<(StationRecord, u64)>, RegistryError> {
        station::made(self.inner.database.readers()).await
    }

    /// Imports a manifest, row by row, in chain order.
    ///
    /// # Errors
    /// [`RegistryError`]; M401 to M406 when nothing was imported. Rows that were refused alone are in the report.
    pub async fn import_manifest(&self, actor: &Actor, bytes: &[u8]) -> Result<ImportReport, RegistryError> {
        let (actor, bytes) = (actor.clone(), Arc::from(bytes));
        self.run(|inner| async move { import::import_manifest(&inner, &actor, bytes).await }).await
    }

    /// Takes devices in from a list of their certificates: a report for each row, in the order of the lines.
    ///
    /// # Errors
    /// [`RegistryError`] when nothing was taken in for a reason that is no row's.
    pub async fn import_listed(
        &self,
        actor: &Actor,
        list: import::Listed,
    ) -> Result<Vec<import::RowReport>, RegistryError> {
        let actor = actor.clone();
        self.run(|inner| async move { import::import_listed(&inner, &actor, list).await }).await
    }

    /// Imported batches, in the order of their first import, after the cursor.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn batches(
        &self,
        scope: &Scope,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Page<BatchRow>, RegistryError> {
        batches::list(&self.inner, scope, after, limit).await
    }

    /// A batch against what its station has made and handed over.
    ///
    /// # Errors
    /// [`RegistryError`]; M407 for no such batch.
    pub async fn batch(
        &self,
        tenant: Option<&Tenant>,
        batch: &BatchId,
    ) -> Result<reconcile::Reconciled, RegistryError> {
        reconcile::reconcile(&self.inner, tenant, batch).await
    }

    /// A manifest of a batch as it came: the newest, or the one of this place in its station's chain.
    ///
    /// # Errors
    /// [`RegistryError`]; M407 for no such batch, or manifest.
    pub async fn batch_manifest(
        &self,
        tenant: Option<&Tenant>,
        batch: &BatchId,
        sequence: Option<u64>,
    ) -> Result<Vec<u8>, RegistryError> {
        reconcile::export(&self.inner, tenant, batch, sequence).await
    }

    /// Checks a batch's manifests again, and their rows against what is here.
    ///
    /// # Errors
    /// [`RegistryError`]; M407 for no such batch. What does not hold is in the answer.
    pub async fn verify_batch(
        &self,
        tenant: Option<&Tenant>,
        batch: &BatchId,
    ) -> Result<reconcile::Verified, RegistryError> {
        reconcile::verify(&self.inner, tenant, batch).await
    }
}
