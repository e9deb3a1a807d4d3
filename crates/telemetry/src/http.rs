//! The HTTP edge: a request id and a trace for every request, one access-log line, metrics, and a panic turned into an
//! answer of GraphQL's shape. Used as `axum::middleware::from_fn(telemetry::http::access_log)`.

use std::{panic::AssertUnwindSafe, time::Instant};

use axum::{
    Json,
    extract::{MatchedPath, Request},
    http::{HeaderValue, Method, StatusCode},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures_util::FutureExt;
use tracing::Instrument;

use crate::{Call, RequestId, call, panic};

/// The longest path that a log line shows, in bytes.
const PATH_MAX: usize = 200;

/// The middleware. Handlers find the request's [`Call`] in its extensions; the answer carries `x-request-id`.
pub async fn access_log(mut request: Request, next: Next) -> Response {
    let call = Call::read(request.headers());
    let request_id = call.request_id.clone();
    let seen = Seen::of(&request);
    request.extensions_mut().insert(call);
    let span = tracing::info_span!("http", request_id = %request_id);
    let work = async move {
        let answer = AssertUnwindSafe(next.run(request)).catch_unwind().await;
        let mut response = answer.unwrap_or_else(|payload| {
            panic::report("http", payload.as_ref());
            internal_error(&request_id)
        });
        if let Ok(value) = HeaderValue::from_str(request_id.as_str()) {
            response.headers_mut().insert(call::REQUEST_ID, value);
        }
        seen.answered(response.status());
        response
    };
    work.instrument(span).await
}

/// An internal error as GraphQL clients read it; the id leads to the log.
fn internal_error(request_id: &RequestId) -> Response {
    let body = serde_json::json!({
        "errors": [{
            "message": "internal error",
            "extensions": { "code": "INTERNAL", "requestId": request_id.as_str() },
        }],
    });
    (StatusCode::INTERNAL_SERVER_ERROR, Json(body)).into_response()
}

/// A request under way. Dropped before it is answered (the client has left) it is recorded as 499.
struct Seen {
    method: &'static str,
    path: String,
    route: Option<String>,
    begun: Instant,
    recorded: bool,
}

impl Seen {
    fn of(request: &Request) -> Self {
        let path = request.uri().path();
        Self {
            method: method_name(request.method()),
            path: path.get(..PATH_MAX.min(path.len())).unwrap_or("/…").to_owned(),
            route: request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned()),
            begun: Instant::now(),
            recorded: false,
        }
    }

    fn answered(mut self, status: StatusCode) {
        self.record(status.as_u16());
    }

    fn record(&mut self, status: u16) {
        self.recorded = true;
        let seconds = self.begun.elapsed().as_secs_f64();
        let (method, duration_ms) = (self.method, seconds * 1000.0);
        let path = self.route.as_ref().unwrap_or(&self.path);
        tracing::info!(target: "access", method, path, status, duration_ms, "request");
        // Only routes become labels: paths are the client's choice and without bound.
        let route = self.route.take().unwrap_or_else(|| "unknown".to_owned());
        metrics::counter!("http_requests_total", "method" => method, "path" => route.clone(), "status" => status.to_string())
            .increment(1);
        metrics::histogram!("http_request_seconds", "method" => method, "path" => route).record(seconds);
    }
}

impl Drop for Seen {
    fn drop(&mut self) {
        if !self.recorded {
            self.record(499);
        }
    }
}

/// Methods are the client's choice too.
fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        Method::PATCH => "PATCH",
        Method::CONNECT => "CONNECT",
        Method::TRACE => "TRACE",
        _ => "other",
    }
}
