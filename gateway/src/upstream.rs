//! A limit on the calls of a service, as a layer around it: what comes too soon waits for its turn, a moment at most, and
//! beyond that is UNAVAILABLE without a call. Off, it is not there at all.

use std::{
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::BoxFuture;
use http::{Request, Response};
use limit::Rate;
use tokio::time::{Instant, sleep};
use tonic::{Status, body::Body};
use tower::{Layer, Service};

/// How long a call may wait for its turn.
pub const PATIENCE: Duration = Duration::from_millis(100);

/// Limits the calls of a service. All clones of a service that it is laid around share the limit.
#[derive(Debug, Clone)]
pub struct UpstreamLimit {
    service: &'static str,
    rate: Rate,
    begun: Instant,
    due: Arc<Mutex<Duration>>,
}

impl UpstreamLimit {
    /// So many calls of the service of this name.
    pub fn new(service: &'static str, rate: Rate) -> Self {
        Self { service, rate, begun: Instant::now(), due: Arc::default() }
    }

    /// How long to wait before calling; `None`: not at all.
    fn turn(&self) -> Option<Duration> {
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        let (next, wait) = self.rate.take_within(*due, self.begun.elapsed(), PATIENCE).ok()?;
        *due = next;
        Some(wait)
    }
}

impl<S> Layer<S> for UpstreamLimit {
    type Service = Limited<S>;

    fn layer(&self, inner: S) -> Limited<S> {
        Limited { inner, limit: self.clone() }
    }
}

/// A service whose calls are limited.
#[derive(Debug, Clone)]
pub struct Limited<S> {
    inner: S,
    limit: UpstreamLimit,
}

impl<S> Service<Request<Body>> for Limited<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let service = self.limit.service;
        let Some(wait) = self.limit.turn() else {
            metrics::counter!("gateway_rate_limited_total", "limit" => "upstream", "service" => service)
                .increment(1);
            let refused = Status::unavailable("too many calls of this service").into_http();
            return Box::pin(async { Ok(refused) });
        };
        // The one that said it is ready is the one that is called.
        let spare = self.inner.clone();
        let mut ready = std::mem::replace(&mut self.inner, spare);
        Box::pin(async move {
            if !wait.is_zero() {
                sleep(wait).await;
            }
            ready.call(request).await
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use futures_util::future::join_all;
    use proto::auth::UsersRequest;
    use telemetry::Call;

    use super::*;
    use crate::{
        error::{Code, Error},
        fixture::{played, reply},
        peers::Peers,
        rates::Limits,
    };

    #[tokio::test(start_paused = true)]
    async fn what_comes_too_soon_waits_a_moment_and_beyond_that_is_refused_without_a_call() {
        let calls = Arc::new(Mutex::new(Vec::new()));
        let peer = played(|_: &str, _: &[u8]| reply(&proto::auth::UsersReply::default()), calls.clone());
        let limits = Limits { upstream: "50/s:10".parse().expect("a limit"), ..Limits::default() };
        let peers = Peers::new(peer.clone(), peer.clone(), peer).limited(&limits);
        let (call, begun) = (Call::new(), Instant::now());
        let asked = (0..20).map(|_| async {
            let answer = peers.auth(&call).users(UsersRequest::default()).await;
            (answer.map(drop).map_err(|status| Error::from(status).code()), begun.elapsed())
        });
        let answers = join_all(asked).await;
        let millis = |answer: &&(Result<(), Code>, Duration)| answer.1.as_millis() as u64 / 10;
        let at_once = answers.iter().filter(|answer| answer.0.is_ok() && answer.1.is_zero()).count();
        let later: Vec<u64> =
            answers.iter().filter(|answer| answer.0.is_ok()).map(|it| millis(&it)).skip(10).collect();
        assert_eq!((at_once, later), (10, vec![2, 4, 6, 8, 10]));
        assert_eq!(answers.iter().filter(|answer| answer.0 == Err(Code::Unavailable)).count(), 5);
        assert_eq!(calls.lock().expect("not poisoned").len(), 15, "the refused ones were not made");
        let others = peers.counter(&call).unread(proto::counter::UnreadRequest::default()).await;
        assert!(others.is_ok(), "each service has a limit of its own");
    }
}
