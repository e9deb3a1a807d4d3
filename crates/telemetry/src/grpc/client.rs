//! Around a peer: metrics per call, the deadline kept on this side too, and a transport that fails told as UNAVAILABLE.
//! The service stays `Clone + Send + Sync` where the peer is.

use std::{
    error::Error,
    task::{Context, Poll},
};

use axum::http::{Request, Response};
use futures_util::{FutureExt, future::BoxFuture};
use tonic::{Code, Status, TimeoutExpired};
use tower::ServiceExt;
use tower_layer::Layer;
use tower_service::Service;

use super::{
    code,
    outcome::{Outcome, Side},
};
use crate::call;

type BoxError = Box<dyn Error + Send + Sync>;

/// Makes [`Client`]s of the peer with this name.
pub fn client_layer(peer: &'static str) -> ClientLayer {
    ClientLayer { peer }
}

/// Made by [`client_layer`].
#[derive(Clone, Copy, Debug)]
pub struct ClientLayer {
    peer: &'static str,
}

impl<S> Layer<S> for ClientLayer {
    type Service = Client<S>;

    fn layer(&self, inner: S) -> Client<S> {
        Client { peer: self.peer, inner }
    }
}

/// A peer whose calls are seen.
#[derive(Clone, Debug)]
pub struct Client<S> {
    peer: &'static str,
    inner: S,
}

impl<S, B, R> Service<Request<B>> for Client<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: Send + 'static,
    R: Default + Send,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<R>, S::Error>>;

    /// Always ready: a peer that is not makes the call wait, and its failure becomes the call's own status.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let outcome = Outcome::begin(Side::Client { peer: self.peer }, request.uri().path());
        let header = request.headers().get(call::TIMEOUT).and_then(|value| value.to_str().ok());
        let timeout = header.and_then(call::timeout);
        let answer = self.inner.clone().oneshot(request);
        async move {
            let answer = match timeout {
                None => answer.await,
                Some(timeout) => match tokio::time::timeout(timeout, answer).await {
                    Ok(answer) => answer,
                    Err(_) => Ok(late().into_http()),
                },
            };
            let answer = answer.unwrap_or_else(|error| failed(error.into()).into_http());
            outcome.is(code::of(answer.headers()));
            Ok(answer)
        }
        .boxed()
    }
}

fn late() -> Status {
    Status::deadline_exceeded("the time for this request is over")
}

/// What a failure of the transport means to the caller. The peer's own statuses are answers and never come here.
fn failed(error: BoxError) -> Status {
    let mut source: Option<&(dyn Error + 'static)> = Some(error.as_ref());
    while let Some(current) = source {
        if current.is::<TimeoutExpired>() {
            return late();
        }
        source = current.source();
    }
    let status = Status::from_error(error);
    match status.code() {
        Code::Unknown | Code::Cancelled | Code::Internal => {
            tracing::debug!(error = %status, "a peer could not be reached");
            Status::unavailable("a service is away")
        }
        _ => status,
    }
}
