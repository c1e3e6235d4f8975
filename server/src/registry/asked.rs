//! What is asked about devices: which there are and how many, one of them whole, and what happened to it.

use muster_shared::Tenant;

use super::{
    DeviceDetail, DeviceRow, Filter, Listing, Page, Registry, Scope, Target, database::uint,
    error::RegistryError, listing, query, timeline,
};

impl Registry {
    /// A page of devices.
    ///
    /// # Errors
    /// [`RegistryError`]; M504 for a cursor that is none of this order's.
    pub async fn list(&self, listing: &Listing) -> Result<Page<DeviceRow>, RegistryError> {
        listing::list(&self.inner, listing).await
    }

    /// Devices that match, in the order of their serials, after the cursor.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn devices(
        &self,
        filter: &Filter,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Page<DeviceRow>, RegistryError> {
        let order = listing::Order { sort: listing::Sort::Serial, reverse: false };
        let after = after.map(str::to_owned);
        self.list(&Listing { tenant: None, filter: filter.clone(), order, after, limit }).await
    }

    /// How many devices match, of one tenant or of all; and whether those are all, or so many at least.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn count(
        &self,
        tenant: Option<&Tenant>,
        filter: &Filter,
    ) -> Result<(u64, bool), RegistryError> {
        listing::count(&self.inner, tenant, filter).await
    }

    /// How many devices a scope has.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn device_count(&self, scope: &Scope) -> Result<u64, RegistryError> {
        let Some(tenant) = scope.tenant() else { return Ok(self.inner.verdicts.devices() as u64) };
        let (count,): (i64,) = sqlx::query_as("SELECT count(*) FROM device WHERE tenant = $1")
            .bind(tenant.as_str())
            .fetch_one(self.inner.database.readers())
            .await?;
        Ok(uint(count))
    }

    /// The fleet at a glance: how many are in each state, and what needs somebody.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn summary(&self, tenant: Option<&Tenant>) -> Result<listing::Summary, RegistryError> {
        listing::summary(&self.inner, tenant).await
    }

    /// Everything about one device.
    ///
    /// # Errors
    /// [`RegistryError`]; M208 for no such device.
    pub async fn device(&self, target: impl Into<Target>) -> Result<DeviceDetail, RegistryError> {
        query::device(&self.inner, &target.into()).await
    }

    /// What happened to a device and what it did, newest first; `after` is the `next` of the page before.
    ///
    /// # Errors
    /// [`RegistryError`]; M208 for no such device.
    pub async fn timeline(
        &self,
        target: impl Into<Target>,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Page<timeline::Event>, RegistryError> {
        timeline::timeline(&self.inner, &target.into(), None, after, limit).await
    }

    /// The same, of one kind of line only.
    ///
    /// # Errors
    /// [`RegistryError`]; M208 for no such device.
    pub async fn timeline_of(
        &self,
        target: impl Into<Target>,
        only: Option<timeline::Only>,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Page<timeline::Event>, RegistryError> {
        timeline::timeline(&self.inner, &target.into(), only, after, limit).await
    }
}
