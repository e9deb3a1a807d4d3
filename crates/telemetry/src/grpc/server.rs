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

/// The answer must leave before tonic's own timer of the same header cuts the call off without one.
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
        let rpc = request.uri().path().trim_start_matches('/');
        let span = tracing::info_span!("rpc", rpc, request_id = %call.request_id);
        let outcome = Outcome::begin(Side::Server { service: self.service }, rpc);
        let deadline = call.deadline;
        request.extensions_mut().insert(call);
        let answer = span.in_scope(|| self.inner.call(request));
        let work = async move {
            let answer = in_time(deadline, AssertUnwindSafe(answer).catch_unwind()).await;
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
        Some(deadline) => timeout_at(deadline.checked_sub(ANSWER).unwrap_or(deadline), work).await.ok(),
    }
}
