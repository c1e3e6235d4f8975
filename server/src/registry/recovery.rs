//! Looks after the database: whether the connection that writes lives, whether another server was there in
//! between, and whether trouble that a write met is over.

use std::{io, sync::Weak, time::Duration};

use super::{Inner, error::RegistryError, follow};

/// How often a server of a shared database looks whether it still is the one that writes, and any server in
/// trouble whether it is over.
const WATCH: Duration = Duration::from_secs(2);
/// How long the database may take to answer: longer than the longest write holds the one connection.
const ANSWER: Duration = Duration::from_secs(30);

/// Asks for the writer from time to time, which finds out whether its connection lives, makes a new one when
/// it does not, and finds out whether somebody else was there in between. A file is asked for nothing as long
/// as it can be written.
pub(super) async fn run(inner: Weak<Inner>) {
    let mut broken = false;
    loop {
        tokio::time::sleep(WATCH).await;
        let Some(inner) = inner.upgrade() else { return };
        let trouble = inner.health.trouble().is_some();
        if !trouble && !inner.database.is_shared() {
            continue;
        }
        let look = async { if trouble { inner.try_writing().await } else { inner.writer().await.map(drop) } };
        let looked = tokio::time::timeout(ANSWER, look).await;
        let failed = looked.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into())).err();
        match &failed {
            Some(RegistryError::Closed) => return,
            Some(error @ RegistryError::Held(_)) => {
                tracing::error!(%error, "this server does not write the registry any more");
                return;
            }
            Some(error) => {
                inner.health.failed(error);
                if !broken {
                    tracing::error!(%error, code = %error.code(), "the registry's database does not answer");
                }
            }
            None if broken => tracing::info!("the registry's database answers again"),
            None => {}
        }
        broken = failed.is_some();
    }
}

impl Inner {
    /// Writes as little as there is to write: a turn that nobody takes.
    async fn try_writing(&self) -> Result<(), RegistryError> {
        let mut writer = self.writer().await?;
        let mut tx = writer.begin().await?;
        follow::turns(&mut tx, 1).await?;
        self.commit(tx).await.inspect_err(|_| writer.fail())
    }
}
