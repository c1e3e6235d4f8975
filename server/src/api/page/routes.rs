//! Which page is where.

use axum::{
    Router,
    response::Redirect,
    routing::{get, post},
};

use super::{
    acts, assets, audit, batches, certificates, device, devices, jobs, overview, readings, settings, several,
    taken_out,
};
use crate::api::{Doors, login};

/// The pages.
pub(in crate::api) fn routes() -> Router<Doors> {
    Router::new()
        .route("/", get(overview::show))
        .route("/login", get(login::form).post(login::sign_in))
        .route("/logout", post(login::sign_out))
        .route("/once/{secret}", get(login::once).post(login::redeem))
        .route("/devices", get(devices::list))
        .route("/devices.csv", get(taken_out::csv))
        .route("/devices.json", get(taken_out::json))
        .route("/acts/all", get(jobs::ask).post(jobs::act))
        .route("/jobs/{id}", get(jobs::show))
        .route("/jobs/{id}/cancel", post(jobs::cancel))
        .route("/acts", get(several::ask).post(several::act))
        .route("/devices/{serial}", get(device::show))
        .route("/devices/{serial}/why", get(device::why))
        .route("/devices/{serial}/readings", get(readings::show))
        .route("/devices/{serial}/{act}", get(acts::ask).post(acts::decide))
        .route("/batches", get(batches::list))
        .route("/batches/{batch}", get(batches::show))
        .route("/certificates", get(certificates::devices))
        .route("/certificates/authorities", get(certificates::authorities))
        .route("/certificates/revoked", get(certificates::revoked))
        .route("/audit", get(audit::list))
        .route("/settings", get(|| async { Redirect::to("/settings/operators") }))
        .route("/settings/{section}", get(settings::show))
        .route("/settings/keep/change", post(settings::keep_for))
        .route("/settings/tokens/new", post(settings::new_token))
        .route("/settings/tokens/{id}/revoke", get(settings::ask_end).post(settings::end_token))
        .route("/assets/{name}", get(assets::asset))
}
