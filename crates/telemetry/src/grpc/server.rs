//! Server layer: parses the call's metadata, opens its span, enforces its deadline, turns a panic into
//! INTERNAL, and writes the access-log line and the metrics. It wraps a server that is called in this
//! process and, by `Server::builder().layer(..)`, one that is served by tonic's transport.

use std::{
    panic::AssertUnwindSafe,
    task::{Context, Poll},
    time::Duration,
};

use axum::http::{Request, Response};
use futures_util::{FutureExt, future::BoxFuture};
use tokio::time::{Instant, timeout_at};
use tonic::{Status, server::NamedService};
use tower_layer::Layer;
use tower_service::Service;
use tracing::Instrument;

use super::{
    call_recorder::{CallRecorder, Side},
    code,
};
use crate::{Call, panic, trace::Kind};

/// Time by which the deadline is shortened, so that the response is sent before tonic's own timer for
/// `grpc-timeout` ends the call without a status. Without it, 1 to 4 of 20 calls over loopback ended
/// that way.
const RESPONSE_MARGIN: Duration = Duration::from_millis(2);

/// Creates the layer for the service with this name. The name is the metrics label `service`.
pub fn server_layer(service: &'static str) -> ServerLayer {
    ServerLayer { service }
}

/// Layer created by [`server_layer`].
#[derive(Clone, Copy, Debug)]
pub struct ServerLayer {
    service: &'static str,
}

impl<S> Layer<S> for ServerLayer {
    type Service = Server<S>;

    fn layer(&self, inner: S) -> Server<S> {
        Server { service: self.service, inner }
    }
}

/// gRPC server with a span, a deadline, an access-log line and metrics per call.
#[derive(Clone, Debug)]
pub struct Server<S> {
    service: &'static str,
    inner: S,
}

impl<S: NamedService> NamedService for Server<S> {
    const NAME: &'static str = S::NAME;
}

impl<S, B, R> Service<Request<B>> for Server<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
    S::Error: Send,
    R: Default + Send,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<R>, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let mut call = Call::parse(request.headers());
        let deadline =
            call.deadline.map(|deadline| deadline.checked_sub(RESPONSE_MARGIN).unwrap_or(deadline));
        // A call whose deadline has passed is not started. Its method is recorded as unknown, because
        // only the inner service could tell whether it exists.
        let expired = deadline.is_some_and(|deadline| deadline <= Instant::now());
        let rpc = request.uri().path().trim_start_matches('/');
        let side = Side::Server { service: self.service };
        let trace = call.start_span(Kind::Server, || rpc.to_owned());
        let recorder =
            CallRecorder::start(side, if expired { CallRecorder::UNKNOWN_METHOD } else { rpc }, Some(trace));
        let span = call.log_span();
        request.extensions_mut().insert(call);
        let answer = (!expired).then(|| span.in_scope(|| self.inner.call(request)));
        let work = async move {
            let answer = match answer {
                Some(answer) => before(deadline, AssertUnwindSafe(answer).catch_unwind()).await,
                None => None,
            };
            let answer = match answer {
                None => Ok(Status::deadline_exceeded("the deadline of the call has passed").into_http()),
                Some(Ok(answer)) => answer,
                Some(Err(payload)) => {
                    panic::report("grpc", payload.as_ref());
                    Ok(Status::internal("internal error").into_http())
                }
            };
            recorder
                .finish(answer.as_ref().map_or(tonic::Code::Unknown, |answer| code::of(answer.headers())));
            answer
        };
        work.instrument(span).boxed()
    }
}

/// Awaits `work` until the deadline; `None` if the deadline passes first.
async fn before<T>(deadline: Option<Instant>, work: impl Future<Output = T>) -> Option<T> {
    match deadline {
        None => Some(work.await),
        Some(deadline) => timeout_at(deadline, work).await.ok(),
    }
}

#[cfg(test)]
mod tests {
    use testkit::fake_request;
    use tonic::Code;
    use tower::ServiceExt;

    use super::*;
    use crate::{captured::Captured, grpc::fake::fake, log::Format, recorder};

    async fn code_of(service: &'static str, method: &str, headers: &[(&'static str, &str)]) -> Code {
        let server = server_layer(service).layer(fake());
        let response = server.oneshot(fake_request(method, headers)).await.expect("a response");
        code::of(response.headers())
    }

    #[tokio::test]
    async fn the_handler_finds_the_call_in_the_extensions() {
        let headers =
            [("x-request-id", "id-grpc-1"), ("authorization", "Bearer hidden"), ("grpc-timeout", "5S")];
        let response = server_layer("carried")
            .layer(fake())
            .oneshot(fake_request("Call", &headers))
            .await
            .expect("a response");
        let call = response.headers()["call"].to_str().expect("text").to_owned();
        assert!(call.contains("id-grpc-1") && call.contains("deadline: Some"), "{call}");
        assert!(call.contains("authorization: Some") && !call.contains("hidden"), "{call}");
    }

    #[tokio::test]
    async fn an_expired_call_is_not_started() {
        // The method panics as soon as it starts.
        for (timeout, code) in
            [("0n", Code::DeadlineExceeded), ("2m", Code::DeadlineExceeded), ("5S", Code::Internal)]
        {
            assert_eq!(code_of("expired", "Panic", &[("grpc-timeout", timeout)]).await, code, "{timeout}");
        }
    }

    #[tokio::test]
    async fn each_call_writes_one_log_line_and_metrics() {
        recorder::install();
        let captured = Captured::start(Format::Json);
        assert_eq!(code_of("counted", "Absent", &[("x-request-id", "id-grpc-2")]).await, Code::NotFound);
        let lines = captured.text();
        assert_eq!(lines.lines().count(), 1, "{lines}");
        for part in ["fake.Fake/Absent", r#""code":"NOT_FOUND""#, "duration_ms", "id-grpc-2"] {
            assert!(lines.contains(part), "{part} in {lines}");
        }
        let metrics = recorder::install().render();
        let line = r#"grpc_server_calls_total{service="counted",method="Absent",code="NOT_FOUND"} 1"#;
        assert!(metrics.contains(line), "{metrics}");
        assert!(
            metrics.contains(r#"grpc_server_call_seconds_count{service="counted",method="Absent"} 1"#),
            "{metrics}"
        );
    }

    #[tokio::test]
    async fn a_panic_is_internal_and_the_next_call_is_served() {
        recorder::install();
        let captured = Captured::start(Format::Json);
        let server = server_layer("panics").layer(fake());
        for _ in 0..2 {
            let response = server.clone().oneshot(fake_request("Panic", &[])).await.expect("a response");
            let status = Status::from_header_map(response.headers()).expect("a status");
            assert_eq!((status.code(), status.message()), (Code::Internal, "internal error"));
        }
        assert!(captured.text().contains("secret reason"), "the log has the message: {}", captured.text());
        assert!(recorder::install().render().contains(r#"panics_total{place="grpc"} "#));
    }

    #[tokio::test]
    async fn a_deadline_ends_the_call() {
        let start = Instant::now();
        assert_eq!(code_of("late", "Hang", &[("grpc-timeout", "30m")]).await, Code::DeadlineExceeded);
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        assert_eq!(code_of("late", "Hang", &[("grpc-timeout", "0n")]).await, Code::DeadlineExceeded);
        assert_eq!(code_of("late", "Call", &[("grpc-timeout", "5S")]).await, Code::Ok);
    }

    #[tokio::test]
    async fn a_dropped_call_is_recorded_and_unknown_methods_are_not_labels() {
        recorder::install();
        let call = code_of("dropped", "Hang", &[]);
        tokio::time::timeout(Duration::from_millis(20), call).await.expect_err("the call hangs");
        assert_eq!(code_of("dropped", "Invented", &[]).await, Code::Unimplemented);
        assert_eq!(code_of("dropped", "Invented", &[("grpc-timeout", "0n")]).await, Code::DeadlineExceeded);
        let metrics = recorder::install().render();
        assert!(metrics.contains(r#"{service="dropped",method="Hang",code="CANCELLED"} 1"#), "{metrics}");
        assert!(
            metrics.contains(r#"{service="dropped",method="unknown",code="UNIMPLEMENTED"} 1"#),
            "{metrics}"
        );
        assert!(
            metrics.contains(r#"{service="dropped",method="unknown",code="DEADLINE_EXCEEDED"} 1"#),
            "{metrics}"
        );
        assert!(!metrics.contains("Invented"), "{metrics}");
    }
}
