//! Policies: a policy decides how the calls to one service are made (retries, hedges, circuit breaking).
//! [`PolicyService`] applies a policy to a Tower service.

use std::task::{Context, Poll};

use futures_util::{FutureExt, future::BoxFuture};
use http::{Request, Response};
use tonic::body::Body;
use tower::Service;

/// Decides how the calls to one service are made. Clones share their state.
pub trait Policy: Clone + Send + 'static {
    /// Answers a call. The policy decides whether `inner` is called, and how many times.
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

/// Service whose calls are subject to a policy.
#[derive(Clone, Debug)]
pub struct PolicyService<P, S> {
    policy: P,
    inner: S,
}

impl<P, S> PolicyService<P, S> {
    /// Applies `policy` to the calls of `inner`.
    pub fn new(policy: P, inner: S) -> Self {
        Self { policy, inner }
    }
}

impl<P, S> Service<Request<Body>> for PolicyService<P, S>
where
    P: Policy,
    S: Service<Request<Body>, Response = Response<Body>, Future: Send, Error: Send> + Clone + Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, S::Error>>;

    /// Returns ready: a policy may call a clone of `inner` several times, and each of those waits for
    /// its readiness.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.policy.clone().call(self.inner.clone(), request).boxed()
    }
}
