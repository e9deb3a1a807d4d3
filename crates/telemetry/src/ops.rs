//! Endpoints for operators and orchestrators: `/healthz`, `/readyz` and `/metrics`.

use axum::{
    Json, Router,
    http::{StatusCode, header},
    middleware::from_fn,
    routing::get,
};

use crate::{Identity, Readiness, Vitals, http::security_headers, recorder};

/// Creates the router of the operations port, with all three endpoints. Installs the metrics recorder.
pub fn router<S: Clone + Send + Sync + 'static>(readiness: Readiness, identity: &Identity) -> Router<S> {
    let recorder = recorder::install();
    let vitals = Vitals::new(identity);
    let metrics = move || async move {
        vitals.measure();
        ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], recorder.render())
    };
    let report = move || async move {
        let (ready, report) = readiness.report();
        (status(ready), Json(report))
    };
    let router = Router::new().route("/healthz", get(healthz)).route("/readyz", get(report));
    router.route("/metrics", get(metrics)).layer(from_fn(security_headers))
}

/// Creates the router of a public port, to be merged into another router: `/healthz` (200 while the
/// process runs) and `/readyz` (200 `ready`, or 503 `not_ready`). Which component is not ready, and why,
/// is shown on the operations port only: the reasons name hosts and files.
pub fn health<S: Clone + Send + Sync + 'static>(readiness: Readiness) -> Router<S> {
    let word = move || async move {
        let ready = readiness.is_ready();
        (status(ready), if ready { "ready\n" } else { "not_ready\n" })
    };
    Router::new().route("/healthz", get(healthz)).route("/readyz", get(word))
}

async fn healthz() -> &'static str {
    "ok\n"
}

fn status(ready: bool) -> StatusCode {
    if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, http::Request};
    use tower::ServiceExt;

    use super::*;

    async fn get_text(router: &Router, path: &str) -> (u16, String) {
        let request = Request::get(path).body(Body::empty()).expect("a request");
        let response = router.clone().oneshot(request).await.expect("a response");
        let status = response.status().as_u16();
        let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.expect("a body");
        (status, String::from_utf8(body.to_vec()).expect("text"))
    }

    #[tokio::test]
    async fn the_operations_port_serves_health_readiness_and_metrics() {
        let readiness = Readiness::new();
        let router: Router = router(readiness.clone(), &Identity::new("tidings-test", "0"));
        let component = readiness.register("database");
        assert_eq!(get_text(&router, "/healthz").await.0, 200);
        let (status, body) = get_text(&router, "/readyz").await;
        assert_eq!(status, 503);
        assert!(body.contains(r#""database":{"reason":"starting","status":"not_ready"}"#), "{body}");
        component.degraded("slow");
        assert_eq!(get_text(&router, "/readyz").await.0, 200);
        metrics::counter!("ops_test_total").increment(2);
        metrics::histogram!("ops_test_seconds").record(0.003);
        let (status, body) = get_text(&router, "/metrics").await;
        assert_eq!(status, 200);
        for path in ["/healthz", "/readyz", "/metrics", "/nowhere"] {
            let request = Request::get(path).body(Body::empty()).expect("a request");
            let response = router.clone().oneshot(request).await.expect("a response");
            for name in
                ["x-content-type-options", "referrer-policy", "content-security-policy", "cache-control"]
            {
                assert!(response.headers().contains_key(name), "{name} of {path}");
            }
        }
        assert!(body.contains("ops_test_total 2\n"), "{body}");
        assert!(body.contains("ops_test_seconds_bucket{le=\"0.005\"} 1\n"), "{body}");
    }

    #[tokio::test]
    async fn the_public_port_has_no_metrics_and_says_only_whether_the_process_is_ready() {
        let readiness = Readiness::new();
        let router: Router = health(readiness.clone());
        assert_eq!(get_text(&router, "/metrics").await.0, 404);
        assert_eq!(get_text(&router, "/readyz").await, (200, "ready\n".to_owned()));
        let component = readiness.register("database");
        component.not_ready("connection to db-1.internal refused");
        assert_eq!(get_text(&router, "/readyz").await, (503, "not_ready\n".to_owned()));
        component.degraded("db-1.internal is slow");
        assert_eq!(get_text(&router, "/readyz").await, (200, "ready\n".to_owned()));
    }

    #[tokio::test]
    async fn two_applications_in_one_process_share_the_recorder() {
        let identity = Identity::new("tidings-test", "0");
        let first: Router = router(Readiness::new(), &identity);
        let second: Router = router(Readiness::new(), &identity);
        metrics::counter!("ops_shared_total").increment(1);
        for router in [&first, &second] {
            let metrics = get_text(router, "/metrics").await.1;
            assert!(metrics.contains("ops_shared_total 1\n"), "{metrics}");
            for vital in [
                r#"build_info{service="tidings-test",version="0"} 1"#,
                "process_resident_memory_bytes ",
                "runtime_workers 1",
                "runtime_tasks ",
            ] {
                assert!(metrics.contains(vital), "{vital} in {metrics}");
            }
        }
    }

    #[tokio::test]
    async fn upkeep_ends_at_shutdown() {
        let shutdown = tokio_util::sync::CancellationToken::new();
        let upkeep = tokio::spawn(recorder::upkeep(shutdown.clone()));
        shutdown.cancel();
        upkeep.await.expect("the task ends");
    }
}
