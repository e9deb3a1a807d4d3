//! What operators and orchestrators ask: `/healthz`, `/readyz` and `/metrics`.

use axum::{
    Json, Router,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};

use crate::{Readiness, recorder};

/// All three, for the operations port. Installs the metrics recorder.
pub fn router<S: Clone + Send + Sync + 'static>(readiness: Readiness) -> Router<S> {
    let recorder = recorder::install();
    let metrics = move || async move { ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], recorder.render()) };
    health(readiness).route("/metrics", get(metrics))
}

/// `/healthz` (200 while the process lives) and `/readyz` (200, or 503 where a component is not ready) alone, to be
/// merged into another router.
pub fn health<S: Clone + Send + Sync + 'static>(readiness: Readiness) -> Router<S> {
    let ready = move || async move {
        let status = if readiness.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        (status, Json(readiness.json())).into_response()
    };
    Router::new().route("/healthz", get(|| async { "ok\n" })).route("/readyz", get(ready))
}
