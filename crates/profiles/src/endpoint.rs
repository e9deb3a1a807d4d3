//! Routes: `GET /debug/pprof/profile` and `GET /debug/pprof/heap`, at the paths that tools for Go's profiles
//! know.

use std::sync::Arc;

use access::{ServiceToken, bearer_token};
use axum::{
    Router,
    extract::{RawQuery, Request, State},
    http::header,
    middleware::{Next, from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::get,
};
use telemetry::http::security_headers;
use tokio::{sync::Semaphore, task::spawn_blocking};
use tokio_util::sync::CancellationToken;

use crate::{
    Error, cpu,
    profile::Profile,
    protobuf,
    query::{self, Format},
};

/// Shared by the requests of a process.
#[derive(Clone)]
struct Recorder {
    /// One permit: the timer of a CPU profile belongs to the process.
    free: Arc<Semaphore>,
    shutdown: CancellationToken,
}

/// Creates the router of the profiles, for a private port. Requests without `token` are answered 401. A
/// recording ends early when `shutdown` is cancelled.
pub fn router(token: ServiceToken, shutdown: CancellationToken) -> Router {
    let recorder = Recorder { free: Arc::new(Semaphore::new(1)), shutdown };
    Router::new()
        .route("/debug/pprof/profile", get(cpu_profile))
        .route("/debug/pprof/heap", get(heap_profile))
        .route_layer(from_fn_with_state(token, authenticate))
        .layer(from_fn(security_headers))
        .with_state(recorder)
}

async fn authenticate(State(token): State<ServiceToken>, request: Request, next: Next) -> Response {
    let header = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    match header.and_then(bearer_token) {
        Some(text) if token.matches(text) => next.run(request).await,
        _ => Error::Unauthenticated.into_response(),
    }
}

async fn cpu_profile(State(recorder): State<Recorder>, RawQuery(query): RawQuery) -> Result<Response, Error> {
    let query = query::Cpu::parse(query.as_deref().unwrap_or_default())?;
    let permit = recorder.free.try_acquire_owned().map_err(|_| Error::Busy)?;
    tracing::info!(seconds = query.duration.as_secs(), "recording a CPU profile");
    let profile = cpu::record(query.duration, &recorder.shutdown).await?;
    let response = spawn_blocking(move || {
        let response = response(&profile, query.format, "CPU time");
        drop(permit);
        response
    });
    response.await.map_err(Error::failed)
}

#[cfg(feature = "heap")]
async fn heap_profile(
    State(recorder): State<Recorder>,
    RawQuery(query): RawQuery,
) -> Result<Response, Error> {
    let format = query::parse_heap(query.as_deref().unwrap_or_default())?;
    let permit = recorder.free.try_acquire_owned().map_err(|_| Error::Busy)?;
    tracing::info!("recording a heap profile");
    let response = spawn_blocking(move || {
        let profile = crate::heap::record();
        let response = profile.map(|profile| response(&profile, format, "Memory in use"));
        drop(permit);
        response
    });
    response.await.map_err(Error::failed)?
}

#[cfg(not(feature = "heap"))]
async fn heap_profile(RawQuery(query): RawQuery) -> Result<Response, Error> {
    query::parse_heap(query.as_deref().unwrap_or_default())?;
    Err(Error::WithoutHeap)
}

/// Encodes a profile. Naming its functions takes CPU time.
fn response(profile: &Profile, format: Format, title: &str) -> Response {
    match format {
        Format::Pprof => {
            // The compression is part of the format, so it is no content encoding.
            let headers = [(header::CONTENT_TYPE, "application/octet-stream")];
            (headers, protobuf::encode(profile)).into_response()
        }
        Format::Flamegraph => {
            ([(header::CONTENT_TYPE, "image/svg+xml")], profile.flamegraph(title)).into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, http::StatusCode};
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    use super::*;

    async fn get(router: &Router, path: &str, authorization: Option<&str>) -> (StatusCode, String) {
        let mut request = Request::get(path);
        if let Some(value) = authorization {
            request = request.header("authorization", value);
        }
        let request = request.body(Body::empty()).expect("a request");
        let response = router.clone().oneshot(request).await.expect("a response");
        assert_eq!(response.headers()["x-content-type-options"], "nosniff", "{path}");
        let status = response.status();
        assert_eq!(response.headers().contains_key("www-authenticate"), status == 401, "{path}");
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    #[tokio::test]
    async fn only_the_service_token_is_let_in() {
        let token = ServiceToken::generate();
        let router = router(token.clone(), CancellationToken::new());
        let other = ServiceToken::generate().header();
        let raw = token.header().replace("Bearer ", "");
        for path in ["/debug/pprof/profile?seconds=0", "/debug/pprof/heap?seconds=0"] {
            for bad in [None, Some(""), Some("Bearer "), Some(other.as_str()), Some(raw.as_str())] {
                let (status, body) = get(&router, path, bad).await;
                assert_eq!(status, 401, "{path} {bad:?}");
                assert!(body.starts_with("the service token is required"), "{body}");
            }
            let (status, body) = get(&router, path, Some(&token.header())).await;
            assert_eq!((status.as_u16(), body.lines().count()), (400, 1), "{path}: {body}");
        }
    }

    #[cfg(not(feature = "heap"))]
    #[tokio::test]
    async fn without_the_feature_a_heap_profile_is_refused_with_its_name() {
        let token = ServiceToken::generate();
        let router = router(token.clone(), CancellationToken::new());
        let (status, body) = get(&router, "/debug/pprof/heap", Some(&token.header())).await;
        assert_eq!(status, 501);
        assert!(body.contains("--features heap-profiles"), "{body}");
    }
}
