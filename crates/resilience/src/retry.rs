//! Retries of reads that a service could not answer: a limited number of times, after a random delay,
//! within a budget, and never past the deadline.
//!
//! Only UNAVAILABLE is retried. Every other code is an answer, except DEADLINE_EXCEEDED, after which no
//! time is left.

use std::time::Duration;

use http::{HeaderMap, Request, Response};
use telemetry::grpc::code_of;
use tokio::time::{Instant, sleep};
use tonic::{Code, body::Body};
use tower::{Service, ServiceExt};

use crate::{Backoff, Target, budget::Budget, buffered_request::BufferedRequest, listed, policy::Policy};

/// Retries per 100 reads.
const PERCENT: u32 = 10;
/// Upper limit of the first random delay. It doubles with each retry.
const DELAY_FIRST: Duration = Duration::from_millis(50);
/// Upper limit of every delay. The deadline of an operation, at most 60 s, is reached first.
const DELAY_MAX: Duration = Duration::from_secs(30);
/// Response metadata with the delay before the next retry in milliseconds; a negative number forbids it
/// (gRPC proposal A6, "Pushback").
pub(crate) const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// Policy that retries the reads of one service.
#[derive(Clone, Debug)]
pub struct Retry {
    target: Target,
    retries: u32,
    budget: Budget,
}

impl Retry {
    /// Creates the policy for this service, with at most `retries` retries of each read.
    pub fn new(target: Target, retries: u32) -> Self {
        Self { target, retries, budget: Budget::from_percent(PERCENT) }
    }
}

impl Policy for Retry {
    async fn call<S>(self, inner: S, request: Request<Body>) -> Result<Response<Body>, S::Error>
    where
        S: Service<Request<Body>, Response = Response<Body>, Future: Send, Error: Send>
            + Clone
            + Send
            + 'static,
    {
        match listed(self.target.reads, &request) {
            Some(method) => self.call_with_retries(inner, method, request).await,
            None => inner.oneshot(request).await,
        }
    }
}

impl Retry {
    async fn call_with_retries<S>(
        self,
        inner: S,
        method: &'static str,
        request: Request<Body>,
    ) -> Result<Response<Body>, S::Error>
    where
        S: Service<Request<Body>, Response = Response<Body>> + Clone,
    {
        self.budget.deposit();
        let request = match BufferedRequest::buffer(request).await {
            Ok(request) => request,
            Err(status) => return Ok(status.into_http()),
        };
        let mut backoff = Backoff::new(DELAY_FIRST, DELAY_MAX);
        for _ in 0..self.retries {
            let answer = inner.clone().oneshot(request.to_request()).await?;
            let Some(delay) = delay(answer.headers(), &mut backoff) else { return Ok(answer) };
            let in_time = request.deadline.is_none_or(|deadline| Instant::now() + delay < deadline);
            if !in_time || !self.budget.withdraw() {
                return Ok(answer);
            }
            sleep(delay).await;
            metrics::counter!("upstream_retries_total", "service" => self.target.service, "method" => method)
                .increment(1);
        }
        inner.oneshot(request.to_request()).await
    }
}

/// Returns the delay before the next retry; `None` if the answer is final.
fn delay(answer: &HeaderMap, backoff: &mut Backoff) -> Option<Duration> {
    if code_of(answer) != Code::Unavailable {
        return None;
    }
    let longest = backoff.next_delay();
    match answer.get(PUSHBACK) {
        Some(pushback) => pushback.to_str().ok()?.parse().ok().map(Duration::from_millis),
        None => Some(jittered(longest)),
    }
}

/// Returns a random delay up to `longest`, so that callers hit by the same failure do not retry at the
/// same time. It is in whole milliseconds: Tokio's timer rounds up to them, and a longer sleep could
/// pass the deadline that was just checked.
fn jittered(longest: Duration) -> Duration {
    let longest_ms = u64::try_from(longest.as_millis()).unwrap_or(u64::MAX >> 32);
    let random = u64::from(getrandom::u32().unwrap_or(u32::MAX / 2));
    Duration::from_millis(longest_ms * random / u64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        policy::PolicyService,
        script::{FakeGrpc, Script, Step, call_method, metric},
    };

    const UNAVAILABLE: Step = Step::Fail(Code::Unavailable);
    const OK: Step = Step::Reply(Duration::ZERO);

    fn retrying(service: &'static str, script: &Script) -> PolicyService<Retry, FakeGrpc> {
        let target = Target { service, reads: &["Read"], hedged: &[] };
        PolicyService::new(Retry::new(target, 3), script.service())
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_is_retried_until_it_is_answered() {
        let script = Script::new([UNAVAILABLE, UNAVAILABLE, UNAVAILABLE, OK]);
        assert_eq!(call_method(&retrying("again", &script), "Read", &[]).await, Code::Ok);
        assert_eq!(script.started(), 4);
        assert_eq!(metric(r#"upstream_retries_total{service="again",method="Read"}"#), Some(3.0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_is_retried_at_most_three_times() {
        let script = Script::always(UNAVAILABLE);
        let started = Instant::now();
        assert_eq!(call_method(&retrying("three", &script), "Read", &[]).await, Code::Unavailable);
        assert_eq!(script.started(), 4);
        assert!(started.elapsed() <= DELAY_FIRST * 7, "at most 50 + 100 + 200 ms: {:?}", started.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_is_not_retried() {
        let script = Script::always(UNAVAILABLE);
        assert_eq!(call_method(&retrying("write", &script), "Write", &[]).await, Code::Unavailable);
        assert_eq!(script.started(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn only_unavailable_is_retried() {
        for number in (0..17).filter(|number| *number != Code::Unavailable as i32) {
            let code = Code::from_i32(number);
            let script = Script::always(if code == Code::Ok { OK } else { Step::Fail(code) });
            assert_eq!(call_method(&retrying("reason", &script), "Read", &[]).await, code);
            assert_eq!(script.started(), 1, "{code:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_retry_starts_after_the_deadline() {
        let slow = Step::FailAfter(Duration::from_millis(90), Code::Unavailable);
        for _ in 0..50 {
            let script = Script::always(slow);
            let started = Instant::now();
            call_method(&retrying("deadline", &script), "Read", &[("grpc-timeout", "100m")]).await;
            assert!(
                script.last_started_at().expect("at least one call") < started + Duration::from_millis(100)
            );
        }
        let script = Script::always(Step::FailAfter(Duration::from_millis(100), Code::Unavailable));
        call_method(&retrying("deadline", &script), "Read", &[("grpc-timeout", "100m")]).await;
        assert_eq!(script.started(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn each_retry_carries_the_time_that_is_left() {
        let slow = Step::FailAfter(Duration::from_millis(300), Code::Unavailable);
        let script = Script::new([slow, OK]);
        assert_eq!(
            call_method(&retrying("left", &script), "Read", &[("grpc-timeout", "1S")]).await,
            Code::Ok
        );
        let left = script.timeouts();
        assert_eq!(left[0], Some(Duration::from_secs(1)));
        assert!(
            left[1]
                .is_some_and(|left| left <= Duration::from_millis(700) && left >= Duration::from_millis(640)),
            "{left:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn retries_are_limited_to_a_tenth_of_the_reads() {
        let script = Script::always(UNAVAILABLE);
        let peer = retrying("tenth", &script);
        for _ in 0..1_000 {
            call_method(&peer, "Read", &[]).await;
        }
        let retries = script.started() - 1_000;
        assert!((100..=110).contains(&retries), "10 saved and 100 earned: {retries}");
    }

    #[tokio::test(start_paused = true)]
    async fn pushback_forbids_a_retry_or_sets_its_delay() {
        let script = Script::always(Step::Pushback("-1"));
        assert_eq!(call_method(&retrying("pushback", &script), "Read", &[]).await, Code::Unavailable);
        assert_eq!(script.started(), 1);
        let script = Script::new([Step::Pushback("1500"), OK]);
        let started = Instant::now();
        assert_eq!(call_method(&retrying("pushback", &script), "Read", &[]).await, Code::Ok);
        assert_eq!(started.elapsed(), Duration::from_millis(1_500));
    }

    #[test]
    fn delays_are_random_and_limited() {
        let delays: Vec<_> = (0..100).map(|_| jittered(DELAY_FIRST)).collect();
        assert!(delays.iter().all(|delay| *delay <= DELAY_FIRST));
        assert!(delays.iter().any(|delay| *delay != delays[0]));
    }
}
