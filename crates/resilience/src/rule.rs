//! A rule about calls as a service around another one.

use std::task::{Context, Poll};

use futures_util::{FutureExt, future::BoxFuture};
use http::{Request, Response};
use tonic::body::Body;
use tower::Service;

/// What is done about the calls of one service. Clones are one and share what they know.
pub trait Rule: Clone + Send + 'static {
    /// Answers a call, asking the service as often as the rule has it.
    fn call<S>(
        self,
        inner: S,
        request: Request<Body>,
    ) -> impl Future<Output = Result<Response<Body>, S::Error>> + Send
    where
        S: Service<Request<Body>, Response = Response<Body>, Future: Send, Error: Send>
            + Clone
            + Send
            + 'static;
}

/// A service whose calls follow a rule.
#[derive(Clone, Debug)]
pub struct Ruled<R, S> {
    rule: R,
    inner: S,
}

impl<R, S> Ruled<R, S> {
    /// Around this service.
    pub fn new(rule: R, inner: S) -> Self {
        Self { rule, inner }
    }
}

impl<R, S> Service<Request<Body>> for Ruled<R, S>
where
    R: Rule,
    S: Service<Request<Body>, Response = Response<Body>, Future: Send, Error: Send> + Clone + Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, S::Error>>;

    /// Always ready: each call waits for a service of its own.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.rule.clone().call(self.inner.clone(), request).boxed()
    }
}
