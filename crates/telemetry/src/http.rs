//! HTTP middleware: gives every request an id and a trace, writes one access-log line and metrics, and
//! turns a panic into a GraphQL error. Use it as
//! `axum::middleware::from_fn(telemetry::http::access_log)`.

use std::{panic::AssertUnwindSafe, time::Instant};

use axum::{
    Json,
    extract::{MatchedPath, Request},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures_util::FutureExt;
use tracing::Instrument;

use crate::{
    Call, RequestId, call, panic,
    trace::{Kind, Span},
};

/// Routes that balancers and monitors request all the time: their access-log lines are at DEBUG.
const PROBES: [&str; 3] = ["/healthz", "/readyz", "/metrics"];
/// Maximum length of a path in a log line, in bytes.
const PATH_MAX_BYTES: usize = 200;

/// Middleware for the public port. Handlers find the [`Call`] in the request's extensions. The response
/// carries `x-request-id` and the security headers.
pub async fn access_log(mut request: Request, next: Next) -> Response {
    let mut call = Call::parse(request.headers());
    let request_id = call.request_id.clone();
    let recorder = RequestRecorder::start(&request, &mut call);
    let span = call.log_span();
    request.extensions_mut().insert(call);
    let work = async move {
        let answer = AssertUnwindSafe(next.run(request)).catch_unwind().await;
        let mut response = answer.unwrap_or_else(|payload| {
            panic::report("http", payload.as_ref());
            internal_error(&request_id)
        });
        set_security_headers(response.headers_mut());
        if let Ok(value) = HeaderValue::from_str(request_id.as_str()) {
            response.headers_mut().insert(call::REQUEST_ID, value);
        }
        recorder.finish(response.status());
        response
    };
    work.instrument(span).await
}

/// Middleware for a port without an access log. Sets only the security headers.
pub async fn security_headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    set_security_headers(response.headers_mut());
    response
}

/// Sets the security headers that the handler did not set: no content sniffing, no framing, no caching,
/// no referrer. `strict-transport-security` is absent, because the load balancer terminates TLS and sets
/// it.
pub fn set_security_headers(headers: &mut HeaderMap) {
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
}

/// Creates the response to a panic: a GraphQL error with the request id, by which operators find the log
/// lines.
fn internal_error(request_id: &RequestId) -> Response {
    let body = serde_json::json!({
        "errors": [{
            "message": "internal error",
            "extensions": { "code": "INTERNAL", "requestId": request_id.as_str() },
        }],
    });
    (StatusCode::INTERNAL_SERVER_ERROR, Json(body)).into_response()
}

/// Running request. If it is dropped before it is answered, because the client disconnected, it is
/// recorded as 499.
struct RequestRecorder {
    method: &'static str,
    path: String,
    route: Option<String>,
    start: Instant,
    recorded: bool,
    span: Option<Span>,
}

impl RequestRecorder {
    /// Starts the span of a request, of which the call is from now on a part. A probe has none.
    fn start(request: &Request, call: &mut Call) -> Self {
        let path = request.uri().path();
        let method = method_name(request.method());
        let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
        let is_probe = route.as_deref().is_some_and(|route| PROBES.contains(&route));
        let span = (!is_probe).then(|| {
            // A client chooses the path, so a span is named after the route only.
            let name =
                || route.as_ref().map_or_else(|| method.to_owned(), |route| format!("{method} {route}"));
            let mut span = call.start_span(Kind::Server, name);
            if span.is_recorded() {
                span.set("http.request.method", method);
                if let Some(route) = &route {
                    span.set("http.route", route.clone());
                }
            }
            span
        });
        Self {
            method,
            path: path.get(..PATH_MAX_BYTES.min(path.len())).unwrap_or("/…").to_owned(),
            route,
            start: Instant::now(),
            recorded: false,
            span,
        }
    }

    fn finish(mut self, status: StatusCode) {
        self.record(status.as_u16());
    }

    fn record(&mut self, status: u16) {
        self.recorded = true;
        if let Some(mut span) = self.span.take() {
            span.set("http.response.status_code", i64::from(status));
            if status >= 500 {
                span.fail("");
            }
        }
        let seconds = self.start.elapsed().as_secs_f64();
        let method = self.method;
        let duration_ms = seconds * 1000.0;
        let path = self.route.as_ref().unwrap_or(&self.path);
        // An unmatched path is no probe, whatever it is called.
        if self.route.as_deref().is_some_and(|route| PROBES.contains(&route)) {
            tracing::debug!(target: "access", method, path, status, duration_ms, "request");
        } else {
            tracing::info!(target: "access", method, path, status, duration_ms, "request");
        }
        // Only routes become labels: clients choose the paths, so their number is unlimited.
        let route = self.route.take().unwrap_or_else(|| "unknown".to_owned());
        let code = status.to_string();
        let path = route.clone();
        metrics::counter!("http_requests_total", "method" => method, "path" => path, "status" => code)
            .increment(1);
        metrics::histogram!("http_request_seconds", "method" => method, "path" => route).record(seconds);
    }
}

impl Drop for RequestRecorder {
    fn drop(&mut self) {
        if !self.recorded {
            self.record(499);
        }
    }
}

/// Returns the label of a method. Clients may send any method, so unknown ones share one label.
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

#[cfg(test)]
mod tests {
    use axum::{Extension, Router, body::Body, middleware::from_fn, routing::get};
    use tower::ServiceExt;

    use super::*;
    use crate::{captured::Captured, log::Format, recorder};

    fn router() -> Router {
        async fn panicking() -> &'static str {
            panic!("the handler's secret reason")
        }
        Router::new()
            .route(
                "/things/{id}",
                get(|Extension(call): Extension<Call>| async move { call.request_id.to_string() }),
            )
            .route("/panic", get(panicking))
            // Requested by one test only: the recorder counts for the whole process, so tests must not
            // share a path whose count they assert.
            .route("/panic-counted", get(panicking))
            .route("/never", get(std::future::pending::<()>))
            .merge(crate::ops::health(crate::Readiness::new()))
            .layer(from_fn(access_log))
    }

    fn request(path: &str, id: &str) -> Request {
        let request = Request::get(path).header("x-request-id", id);
        request.header("authorization", "Bearer hidden").body(Body::empty()).expect("a request")
    }

    async fn text(response: Response) -> String {
        let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.expect("a body");
        String::from_utf8(body.to_vec()).expect("text")
    }

    #[tokio::test]
    async fn the_request_id_reaches_handler_response_and_log_line() {
        let captured = Captured::start(Format::Json);
        let response =
            router().oneshot(request("/things/7?token=hidden", "id-http-1")).await.expect("a response");
        assert_eq!(response.headers()["x-request-id"], "id-http-1");
        assert_eq!(text(response).await, "id-http-1");
        let lines = captured.text();
        assert_eq!(lines.lines().count(), 1, "{lines}");
        for part in
            [r#""path":"/things/{id}""#, r#""status":200"#, r#""method":"GET""#, "duration_ms", "id-http-1"]
        {
            assert!(lines.contains(part), "{part} in {lines}");
        }
        assert!(!lines.contains("hidden"), "{lines}");
    }

    #[tokio::test]
    async fn probes_are_logged_at_debug_and_counted() {
        recorder::install();
        for (filter, expected) in [("info", 0), ("debug", 2)] {
            let captured = Captured::start_with(Format::Json, filter);
            for path in ["/healthz", "/readyz"] {
                let response = router().oneshot(request(path, "id-probe")).await.expect("a response");
                assert_eq!(response.status(), 200);
            }
            let lines = captured.text();
            assert_eq!(lines.lines().count(), expected, "{filter}: {lines}");
        }
        let metrics = recorder::install().render();
        assert!(metrics.contains(r#"http_requests_total{method="GET",path="/readyz",status="200"}"#));
    }

    #[tokio::test]
    async fn a_missing_or_malformed_request_id_is_replaced() {
        for malformed in ["", "two words", &"x".repeat(65)] {
            let response = router().oneshot(request("/things/7", malformed)).await.expect("a response");
            let echoed = response.headers()["x-request-id"].to_str().expect("ascii").to_owned();
            assert!(!echoed.is_empty() && echoed != malformed, "{echoed}");
            assert_eq!(text(response).await, echoed);
        }
    }

    #[tokio::test]
    async fn a_panic_is_answered_with_500_and_a_graphql_error() {
        recorder::install();
        let captured = Captured::start(Format::Json);
        let response = router().oneshot(request("/panic-counted", "id-http-2")).await.expect("a response");
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(response.headers()["x-request-id"], "id-http-2");
        let body: serde_json::Value = serde_json::from_str(&text(response).await).expect("json");
        assert_eq!(
            body["errors"][0]["extensions"],
            serde_json::json!({ "code": "INTERNAL", "requestId": "id-http-2" })
        );
        assert!(!body.to_string().contains("secret reason"));
        assert!(captured.text().contains("secret reason"), "the log has the message: {}", captured.text());
        let metrics = recorder::install().render();
        assert!(metrics.contains(r#"panics_total{place="http"} "#), "{metrics}");
        assert!(
            metrics.contains(r#"http_requests_total{method="GET",path="/panic-counted",status="500"} 1"#),
            "{metrics}"
        );
    }

    #[tokio::test]
    async fn security_headers_are_set_unless_the_handler_sets_them() {
        let custom = || async {
            ([("cache-control", "no-cache"), ("content-security-policy", "default-src 'self'")], "x")
        };
        let router = router().route("/custom", get(custom)).layer(from_fn(access_log));
        for (path, status) in [("/things/7", 200), ("/nowhere", 404), ("/panic", 500)] {
            let response = router.clone().oneshot(request(path, "id")).await.expect("a response");
            assert_eq!(response.status(), status);
            for (name, value) in [
                ("x-content-type-options", "nosniff"),
                ("referrer-policy", "no-referrer"),
                ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
                ("cache-control", "no-store"),
            ] {
                assert_eq!(response.headers()[name], value, "{path}");
            }
            assert!(
                !response.headers().contains_key("strict-transport-security"),
                "set by the load balancer"
            );
        }
        let response = router.oneshot(request("/custom", "id")).await.expect("a response");
        assert_eq!(response.headers()["cache-control"], "no-cache");
        assert_eq!(response.headers()["content-security-policy"], "default-src 'self'");
        assert_eq!(response.headers()["x-content-type-options"], "nosniff");
    }

    #[tokio::test]
    async fn unknown_paths_are_not_labels() {
        recorder::install();
        let captured = Captured::start(Format::Json);
        let long = format!("/no-route-{}", "x".repeat(500));
        let response = router().oneshot(request(&long, "id-http-3")).await.expect("a response");
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
        let lines = captured.text();
        let metrics = recorder::install().render();
        assert!(lines.contains("/no-route-xxx") && lines.len() < 600, "{lines}");
        assert!(!metrics.contains("no-route"), "{metrics}");
        assert!(metrics.contains(r#"path="unknown",status="404""#), "{metrics}");
    }

    #[tokio::test]
    async fn a_dropped_request_is_recorded_as_499() {
        let captured = Captured::start(Format::Json);
        let answer = router().oneshot(request("/never", "id-http-4"));
        tokio::time::timeout(std::time::Duration::from_millis(20), answer)
            .await
            .expect_err("the handler does not answer");
        let lines = captured.text();
        assert!(lines.contains(r#""status":499"#) && lines.contains("id-http-4"), "{lines}");
    }
}
