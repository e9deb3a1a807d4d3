//! Rate limit of the calls to one service, as a tower layer. A call above the rate waits up to
//! [`WAIT_MAX`]; a call that would wait longer is refused, with the time to wait, and is not sent. Without
//! a configured limit the layer is absent.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::BoxFuture;
use http::{Request, Response};
use limit::Rate;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};
use tonic::body::Body;
use tower::{Layer, Service};

/// Longest time that a call waits for the rate limit. Short against the operation's deadline, long
/// enough to smooth bursts.
pub const WAIT_MAX: Duration = Duration::from_millis(100);

/// Layer that limits the calls to a service. All clones of the limited service share one limit.
#[derive(Debug, Clone)]
pub struct UpstreamLimit {
    service: &'static str,
    rate: Rate,
    started: Instant,
    /// Theoretical arrival time of the next call (GCRA), since `started`.
    due: Arc<Mutex<Duration>>,
}

impl UpstreamLimit {
    /// Creates a limit of this rate. The name is a label of the metric.
    pub fn new(service: &'static str, rate: Rate) -> Self {
        Self { service, rate, started: Instant::now(), due: Arc::default() }
    }

    /// Takes a call from the limit. Returns the time to wait before it.
    ///
    /// # Errors
    /// The time to wait, if it is too long and the call is refused.
    fn take(&self) -> Result<Duration, Duration> {
        let mut due = self.due.lock();
        let admission = self.rate.take_within(*due, self.started.elapsed(), WAIT_MAX)?;
        *due = admission.tat;
        Ok(admission.wait)
    }
}

impl<S> Layer<S> for UpstreamLimit {
    type Service = Limited<S>;

    fn layer(&self, inner: S) -> Limited<S> {
        Limited { inner, limit: self.clone() }
    }
}

/// A rate-limited service.
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
        let wait = match self.limit.take() {
            Ok(wait) => wait,
            Err(wait) => {
                metrics::counter!("gateway_rate_limited_total", "limit" => "upstream", "service" => service)
                    .increment(1);
                let refusal = proto::refuse("too many calls to this service", wait).into_http();
                return Box::pin(async { Ok(refusal) });
            }
        };
        // `poll_ready` made this instance ready, not its clones: the call must use this one.
        let clone = self.inner.clone();
        let mut ready = std::mem::replace(&mut self.inner, clone);
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
    use std::sync::Arc;

    use futures_util::future::join_all;
    use proto::auth::UsersRequest;
    use telemetry::Call;

    use super::*;
    use crate::{
        client::rate_limits::RateLimits,
        error::{Code, Error},
        peers::Peers,
        testing::{fake_service, reply},
    };

    #[tokio::test(start_paused = true)]
    async fn calls_above_the_rate_wait_and_fail_without_being_sent_after_the_longest_wait() {
        let calls = Arc::new(Mutex::new(Vec::new()));
        let peer =
            fake_service(|_: &str, _: &[u8]| reply(&proto::auth::UsersReply::default()), calls.clone());
        let limits = RateLimits { upstream: "50/s:10".parse().expect("a limit"), ..RateLimits::default() };
        let peers = Peers::new(peer.clone(), peer.clone(), peer).limited(&limits);
        let call = Call::new();
        let started = Instant::now();
        let asked = (0..20).map(|_| async {
            let answer = peers.auth(&call).users(UsersRequest::default()).await;
            (answer.map(drop).map_err(|status| Error::from(status).code()), started.elapsed())
        });
        let answers = join_all(asked).await;
        let millis = |answer: &&(Result<(), Code>, Duration)| answer.1.as_millis() as u64 / 10;
        let immediate = answers.iter().filter(|answer| answer.0.is_ok() && answer.1.is_zero()).count();
        let later: Vec<u64> =
            answers.iter().filter(|answer| answer.0.is_ok()).map(|it| millis(&it)).skip(10).collect();
        assert_eq!((immediate, later), (10, vec![2, 4, 6, 8, 10]));
        assert_eq!(answers.iter().filter(|answer| answer.0 == Err(Code::RateLimited)).count(), 5);
        assert_eq!(calls.lock().len(), 15, "rejected calls were not sent");
        let others = peers.counter(&call).unread(proto::counter::UnreadRequest::default()).await;
        assert!(others.is_ok(), "each service has its own limit");
    }
}
