//! Who listens: asked once at the door, and again while the stream lasts.

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, request::Parts},
};

use super::super::{
    Doors,
    auth::{Caller, Need, Peer},
    error::Problem,
};

/// A caller at the door, and what they came with.
pub(super) struct Guest {
    pub(super) caller: Caller,
    pub(super) listener: Listener,
}

/// What a caller came with: headers, and the connection with its certificate.
pub(super) struct Listener {
    pub(super) headers: HeaderMap,
    peer: Option<Peer>,
}

impl FromRequestParts<Doors> for Guest {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, doors: &Doors) -> Result<Self, Problem> {
        let caller = Caller::from_request_parts(parts, doors).await?;
        let peer = parts.extensions.get::<Peer>().cloned();
        Ok(Self { caller, listener: Listener { headers: parts.headers.clone(), peer } })
    }
}

impl Listener {
    /// Whether who began to listen may still look.
    ///
    /// # Errors
    /// What they would be refused with now.
    pub(super) async fn still_may(&self, doors: &Doors) -> Result<(), Problem> {
        let (mut parts, ()) = axum::http::Request::new(()).into_parts();
        parts.headers.clone_from(&self.headers);
        if let Some(peer) = &self.peer {
            parts.extensions.insert(peer.clone());
        }
        Caller::again(&mut parts, doors).await?.may(Need::Look).map(drop)
    }
}
