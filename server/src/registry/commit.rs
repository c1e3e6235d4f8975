//! How anything is written: to its end once begun, by one at a time, and told in the order of the commits.

use std::{future::Future, sync::Arc};

use super::{
    Change, Inner, Registry,
    audit::Stamp,
    changes::What,
    database::{Tx, Writer},
    error::RegistryError,
};

impl Registry {
    /// Runs a decision to its end, even if the one who asked stops waiting for it.
    pub(super) async fn run<T, F>(&self, decision: impl FnOnce(Arc<Inner>) -> F) -> Result<T, RegistryError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, RegistryError>> + Send + 'static,
    {
        let task = self.inner.runtime.spawn(decision(self.inner.clone()));
        let done = task.await.map_err(|_| RegistryError::Closed)?;
        done.inspect_err(|error| self.inner.health.failed(error))
    }
}

impl Inner {
    /// Waits for the writer. After a commit that failed nobody knows what is in the file until it was asked:
    /// so the verdicts are read back before anything else is written.
    pub(super) async fn writer(&self) -> Result<Writer<'_>, RegistryError> {
        let mut writer = match self.database.writer().await {
            Err(held @ RegistryError::Held(_)) => {
                self.lost.send_replace(true);
                return Err(held);
            }
            writer => writer?,
        };
        if writer.unsettled {
            let read = self.load(writer.connection()?, None).await;
            if let Err(error) = read {
                writer.fail();
                return Err(error);
            }
            tracing::warn!("a commit failed; the verdicts were read back from the file");
        }
        Ok(writer)
    }

    /// Commits. From the moment this returns `Ok` the decision is made.
    pub(super) async fn commit(&self, tx: Tx<'_>) -> Result<(), RegistryError> {
        tx.commit().await?;
        self.health.works();
        Ok(())
    }

    /// Tells the readers. Under the writer's lock, after the flip: they hear of decisions in order.
    pub(super) fn announce(&self, stamp: Stamp, what: What) {
        self.verdicts.set_generation(stamp.generation);
        let change = Change { generation: stamp.generation, audit_no: stamp.no, at_ms: stamp.at_ms, what };
        // Nobody listening is not an error.
        let _ = self.changes.send(change);
    }
}
