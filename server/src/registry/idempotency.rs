//! Requests that carry a key of their own: what became of them, so that a repeat does nothing again.
//!
//! A key is written before its request is begun and again when it has ended. One whose end is missing belongs to
//! a request that is under way, or that a crash cut short: nobody knows what became of that, and so a repeat is
//! told instead of done. Unaudited: the decisions themselves are on the record.

use super::{
    Registry, RegistryError,
    database::{digest, int, uint},
};

/// How long a key is kept: repeats come within minutes, an operator comes back the next morning.
pub const KEPT_MS: u64 = 24 * 60 * 60 * 1000;
/// Keys kept of one credential.
pub const KEYS_MAX: i64 = 100_000;

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// HTTP status.
    pub status: u16,
    /// Media type of the body.
    pub media: String,
    /// Version of what was answered.
    pub etag: Option<String>,
    /// The body; `None` where it is not kept.
    pub body: Option<Vec<u8>>,
}

/// What is known of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// It is new, and written: go on.
    New,
    /// Its request has not ended, or nobody knows how.
    Open,
    /// It was another request's.
    Reused,
    /// Its request has ended so.
    Ended(Ended),
    /// This credential has as many keys as are kept.
    Full,
}

impl Registry {
    /// Writes a key before its request is begun, or tells what is known of it.
    ///
    /// # Errors
    /// [`RegistryError`]: the request must not begin.
    pub async fn key_begin(
        &self,
        who: &str,
        key: &str,
        request: [u8; 32],
        now_ms: u64,
    ) -> Result<Key, RegistryError> {
        let (who, key) = (who.to_owned(), key.to_owned());
        self.run(|inner| async move {
            let mut writer = inner.writer().await?;
            let mut tx = writer.begin().await?;
            sqlx::query("DELETE FROM idempotency WHERE at_ms < $1")
                .bind(int(now_ms.saturating_sub(KEPT_MS)))
                .execute(&mut *tx)
                .await?;
            type Row = (Vec<u8>, Option<i64>, Option<String>, Option<String>, Option<Vec<u8>>);
            let known: Option<Row> = sqlx::query_as(
                "SELECT request, status, media, etag, body FROM idempotency WHERE who = $1 AND name = $2",
            )
            .bind(&who)
            .bind(&key)
            .fetch_optional(&mut *tx)
            .await?;
            if let Some((known, status, media, etag, body)) = known {
                if digest(&known, "a request's digest")? != request {
                    return Ok(Key::Reused);
                }
                let Some(status) = status else { return Ok(Key::Open) };
                let status = u16::try_from(uint(status)).unwrap_or(500);
                return Ok(Key::Ended(Ended { status, media: media.unwrap_or_default(), etag, body }));
            }
            let (keys,): (i64,) = sqlx::query_as("SELECT count(*) FROM idempotency WHERE who = $1")
                .bind(&who)
                .fetch_one(&mut *tx)
                .await?;
            if keys >= KEYS_MAX {
                return Ok(Key::Full);
            }
            sqlx::query("INSERT INTO idempotency (who, name, request, at_ms) VALUES ($1, $2, $3, $4)")
                .bind(&who)
                .bind(&key)
                .bind(request.as_slice())
                .bind(int(now_ms))
                .execute(&mut *tx)
                .await?;
            inner.commit(tx).await.inspect_err(|_| writer.fail())?;
            Ok(Key::New)
        })
        .await
    }

    /// Writes what became of a key's request; `None`: nothing was done, it may be repeated.
    ///
    /// # Errors
    /// [`RegistryError`]: the key stays open.
    pub async fn key_end(&self, who: &str, key: &str, ended: Option<Ended>) -> Result<(), RegistryError> {
        let (who, key) = (who.to_owned(), key.to_owned());
        self.run(|inner| async move {
            let mut writer = inner.writer().await?;
            let mut tx = writer.begin().await?;
            match ended {
                None => {
                    sqlx::query("DELETE FROM idempotency WHERE who = $1 AND name = $2")
                        .bind(&who)
                        .bind(&key)
                        .execute(&mut *tx)
                        .await?
                }
                Some(Ended { status, media, etag, body }) => {
                    sqlx::query(
                        "UPDATE idempotency SET status = $1, media = $2, etag = $3, body = $4
                         WHERE who = $5 AND name = $6",
                    )
                    .bind(i64::from(status))
                    .bind(media)
                    .bind(etag)
                    .bind(body)
                    .bind(&who)
                    .bind(&key)
                    .execute(&mut *tx)
                    .await?
                }
            };
            inner.commit(tx).await.inspect_err(|_| writer.fail())
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{now_ms, testing::Fleet};

    #[tokio::test]
    async fn a_key_is_one_requests_and_survives_a_restart() {
        let fleet = Fleet::empty().await;
        let now = now_ms();
        let begin = |of: u8, at_ms| fleet.registry.key_begin("t-1", "k", [of; 32], at_ms);
        assert_eq!(begin(1, now).await.unwrap(), Key::New);
        assert_eq!(begin(1, now).await.unwrap(), Key::Open);
        assert_eq!(begin(2, now).await.unwrap(), Key::Reused);
        assert_eq!(fleet.registry.key_begin("t-2", "k", [2; 32], now).await.unwrap(), Key::New, "another's");
        let ended = Ended {
            status: 200,
            media: "application/json".to_owned(),
            etag: Some("\"7\"".to_owned()),
            body: Some(b"{}".to_vec()),
        };
        fleet.registry.key_end("t-1", "k", Some(ended.clone())).await.unwrap();
        fleet.registry.key_end("t-2", "k", None).await.unwrap();
        let fleet = fleet.reopened().await;
        let begin = |who, of: u8, at_ms| fleet.registry.key_begin(who, "k", [of; 32], at_ms);
        assert_eq!(begin("t-1", 1, now).await.unwrap(), Key::Ended(ended));
        assert_eq!(begin("t-1", 2, now).await.unwrap(), Key::Reused);
        assert_eq!(begin("t-2", 1, now).await.unwrap(), Key::New, "nothing was done: it is free again");
        assert_eq!(begin("t-1", 2, now + KEPT_MS + 1).await.unwrap(), Key::New, "its time is over");
    }
}
