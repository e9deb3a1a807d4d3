//! Around a generated server: reads what travels with the call, opens its span, keeps its deadline, turns a panic into
//! INTERNAL, writes the access-log line and the metrics. The same in this process (before it becomes a peer) and under
//! tonic's transport (`Server::builder().layer(..)`).

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
    code,
    outcome::{Outcome, Side},
};
use crate::{Call, panic};

/// The answer must leave before tonic's own timers of the same header cut the call off without one: measured over
/// loopback, 1 to 4 calls of 20 were.
const ANSWER: Duration = Duration::from_millis(2);

/// Makes [`Server`]s of the service with this name.
pub fn server_layer(service: &'static str) -> ServerLayer {
    ServerLayer { service }
}

/// Made by [`server_layer`].
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

/// A gRPC server whose calls are seen.
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
        let call = Call::read(request.headers());
        let deadline = call.deadline.map(|deadline| deadline.checked_sub(ANSWER).unwrap_or(deadline));
        // What nobody waits for any more is not begun: whether there is such a method stays open.
        let over = deadline.is_some_and(|deadline| deadline <= Instant::now());
        let rpc = request.uri().path().trim_start_matches('/');
        let span = tracing::info_span!("rpc", rpc, request_id = %call.request_id);
        let outcome =
            Outcome::begin(Side::Server { service: self.service }, if over { Outcome::UNKNOWN } else { rpc });
        request.extensions_mut().insert(call);
        let answer = (!over).then(|| span.in_scope(|| self.inner.call(request)));
        let work = async move {
            let answer = match answer {
                Some(answer) => in_time(deadline, AssertUnwindSafe(answer).catch_unwind()).await,
                None => None,
            };
            let answer = match answer {
                None => Ok(Status::deadline_exceeded("the time for this request is over").into_http()),
                Some(Ok(answer)) => answer,
                Some(Err(payload)) => {
                    panic::report("grpc", payload.as_ref());
                    Ok(Status::internal("internal error").into_http())
                }
            };
            outcome.is(answer.as_ref().map_or(tonic::Code::Unknown, |answer| code::of(answer.headers())));
            answer
        };
        work.instrument(span).boxed()
    }
}

/// `None` where the deadline comes first.
async fn in_time<T>(deadline: Option<Instant>, work: impl Future<Output = T>) -> Option<T> {
    match deadline {
        None => Some(work.await),
        Some(deadline) => timeout_at(deadline, work).await.ok(),
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;
    use tower::ServiceExt;

    use super::*;
    use crate::{
        captured::Captured,
        grpc::fake::{Fake, request},
        log::Format,
        recorder,
    };

    async fn code_of(service: &'static str, method: &str, headers: &[(&'static str, &str)]) -> Code {
        let server = server_layer(service).layer(Fake);
        let response = server.oneshot(request(method, headers)).await.expect("an answer");
        code::of(response.headers())
    }

    #[tokio::test]
    async fn what_travels_with_a_call_is_in_the_extensions() {
        let headers =
            [("x-request-id", "id-grpc-1"), ("authorization", "Bearer hidden"), ("grpc-timeout", "5S")];
        let response =
            server_layer("carried").layer(Fake).oneshot(request("Call", &headers)).await.expect("an answer");
        let call = response.headers()["call"].to_str().expect("text").to_owned();
        assert!(call.contains("id-grpc-1") && call.contains("deadline: Some"), "{call}");
        assert!(call.contains("authorization: Some") && !call.contains("hidden"), "{call}");
    }

    #[tokio::test]
    async fn a_call_whose_time_is_over_is_not_begun() {
        // The method panics where it begins.
        for (timeout, code) in
            [("0n", Code::DeadlineExceeded), ("2m", Code::DeadlineExceeded), ("5S", Code::Internal)]
        {
            assert_eq!(code_of("over", "Panic", &[("grpc-timeout", timeout)]).await, code, "{timeout}");
        }
    }

    #[tokio::test]
    async fn one_line_and_metrics_per_call() {
        recorder::install();
        let captured = Captured::begin(Format::Json);
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
    async fn a_panic_is_internal_and_the_server_goes_on() {
        recorder::install();
        let captured = Captured::begin(Format::Json);
        let server = server_layer("panics").layer(Fake);
        for _ in 0..2 {
            let response = server.clone().oneshot(request("Panic", &[])).await.expect("an answer");
            let status = Status::from_header_map(response.headers()).expect("a status");
            assert_eq!((status.code(), status.message()), (Code::Internal, "internal error"));
        }
        assert!(captured.text().contains("secret reason"), "operators see it: {}", captured.text());
        assert!(recorder::install().render().contains(r#"panics_total{place="grpc"} "#));
    }

    #[tokio::test]
    async fn a_deadline_ends_the_call() {
        let begun = Instant::now();
        assert_eq!(code_of("late", "Hang", &[("grpc-timeout", "30m")]).await, Code::DeadlineExceeded);
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        assert_eq!(code_of("late", "Hang", &[("grpc-timeout", "0n")]).await, Code::DeadlineExceeded);
        assert_eq!(code_of("late", "Call", &[("grpc-timeout", "5S")]).await, Code::Ok);
    }

    #[tokio::test]
    async fn a_caller_that_leaves_is_recorded_and_methods_that_are_not_there_are_no_labels() {
        recorder::install();
        let call = code_of("left", "Hang", &[]);
        tokio::time::timeout(Duration::from_millis(20), call).await.expect_err("it hangs");
        assert_eq!(code_of("left", "Invented", &[]).await, Code::Unimplemented);
        assert_eq!(code_of("left", "Invented", &[("grpc-timeout", "0n")]).await, Code::DeadlineExceeded);
        let metrics = recorder::install().render();
        assert!(metrics.contains(r#"{service="left",method="Hang",code="CANCELLED"} 1"#), "{metrics}");
        assert!(metrics.contains(r#"{service="left",method="unknown",code="UNIMPLEMENTED"} 1"#), "{metrics}");
        assert!(
            metrics.contains(r#"{service="left",method="unknown",code="DEADLINE_EXCEEDED"} 1"#),
            "{metrics}"
        );
        assert!(!metrics.contains("Invented"), "{metrics}");
    }
}
