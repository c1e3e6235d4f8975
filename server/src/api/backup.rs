//! A backup, as one download.

use std::io;

use axum::{
    body::{Body, Bytes},
    extract::State,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::{fs::File, io::AsyncReadExt as _};

use super::{
    Doors,
    auth::{Caller, Need},
    error::Problem,
    routes::{About, Routes},
};
use crate::backup;

/// The routes of this file.
pub(super) fn routes(routes: Routes) -> Routes {
    let about = About::new("A copy of the registry and the uplink log as they are now")
        .answers_raw("application/x-tar", "What `muster restore` takes; whole when its digests agree");
    // It changes nothing but the record that it was made.
    routes.get("/v1/backup", make, about)
}

/// Octets of one piece of the answer.
const PIECE: usize = 1 << 18;

/// Begins to answer at once, since making a backup may take longer than a request may. One that cannot be
/// made, or not whole, ends the answer before its end, which who keeps it finds out from the digests.
async fn make(caller: Caller, State(doors): State<Doors>) -> Result<Response, Problem> {
    let actor = caller.may_everywhere(Need::Access)?.clone();
    let made = async move {
        let made = backup::make(&doors.registry, &doors.facts.data_dir, &actor).await;
        made.map(pieces).map_err(io::Error::other)
    };
    let pieces = stream::once(made).try_flatten().inspect_err(|error| {
        tracing::error!(error = error as &dyn std::error::Error, "a backup cannot be made");
    });
    let body = Body::from_stream(pieces.boxed());
    let kind = (header::CONTENT_TYPE, HeaderValue::from_static("application/x-tar"));
    Ok(([kind], body).into_response())
}

fn pieces(file: std::fs::File) -> impl stream::Stream<Item = io::Result<Bytes>> + Send {
    stream::try_unfold(File::from_std(file), |mut file| async move {
        let mut piece = vec![0; PIECE];
        let read = file.read(&mut piece).await?;
        piece.truncate(read);
        Ok((read > 0).then(|| (Bytes::from(piece), file)))
    })
}
