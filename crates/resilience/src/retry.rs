//! Reads that a service could not answer are made again: at most so often, after a pause that is random, within a budget,
//! and never beyond the deadline. UNAVAILABLE alone is a reason: everything else is an answer, and one that came too late
//! has used up its time.

use std::time::Duration;

use http::{HeaderMap, Request, Response};
use telemetry::grpc::code_of;
use tokio::time::{Instant, sleep};
use tonic::{Code, body::Body};
use tower::{Service, ServiceExt};

use crate::{Target, budget::Budget, listed, repeatable::Repeatable, rule::Rule};

/// Repetitions a hundred reads.
const PERCENT: u32 = 10;
/// The first pause lasts up to this, each further one up to twice the one before.
const PAUSE: Duration = Duration::from_millis(50);
/// In an answer: how many milliseconds to wait before the call is made again; a negative number forbids it (gRPC's retry
/// design, A6).
pub(crate) const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// Reads of one service that failed are made again: how often, and the budget.
#[derive(Clone, Debug)]
pub struct Retry {
    target: Target,
    retries: u32,
    budget: Budget,
}

impl Retry {
    /// For this service, whose reads are made again at most so often.
    pub fn new(target: Target, retries: u32) -> Self {
        Self { target, retries, budget: Budget::of_percent(PERCENT) }
    }
}

impl Rule for Retry {
    async fn call<S>(self, inner: S, request: Request<Body>) -> Result<Response<Body>, S::Error>
    where
        S: Service<Request<Body>, Response = Response<Body>, Future: Send, Error: Send>
            + Clone
            + Send
            + 'static,
    {
        match listed(self.target.reads, &request) {
            Some(method) => self.repeatedly(inner, method, request).await,
            None => inner.oneshot(request).await,
        }
    }
}

impl Retry {
    async fn repeatedly<S>(
        self,
        inner: S,
        method: &'static str,
        request: Request<Body>,
    ) -> Result<Response<Body>, S::Error>
    where
        S: Service<Request<Body>, Response = Response<Body>> + Clone,
    {
        self.budget.deposit();
        let request = match Repeatable::read(request).await {
            Ok(request) => request,
            Err(status) => return Ok(status.into_http()),
        };
        for repetition in 0..self.retries {
            let answer = inner.clone().oneshot(request.again()).await?;
            let Some(pause) = pause(answer.headers(), repetition) else { return Ok(answer) };
            let in_time = request.deadline.is_none_or(|deadline| Instant::now() + pause < deadline);
            if !in_time || !self.budget.withdraw() {
                return Ok(answer);
            }
            sleep(pause).await;
            metrics::counter!("upstream_retries_total", "service" => self.target.service, "method" => method)
                .increment(1);
        }
        inner.oneshot(request.again()).await
    }
}

/// How long to wait before the next repetition; `None` where the answer is to stand.
fn pause(answer: &HeaderMap, repetition: u32) -> Option<Duration> {
    if code_of(answer) != Code::Unavailable {
        return None;
    }
    match answer.get(PUSHBACK) {
        Some(pushback) => pushback.to_str().ok()?.parse().ok().map(Duration::from_millis),
        None => Some(jittered(PAUSE * 2_u32.pow(repetition))),
    }
}

/// A random part of it, so that callers whom one failure hit do not come back together. In whole milliseconds: timers round
/// up to them, and a pause must end when it was said to.
fn jittered(longest: Duration) -> Duration {
    let (longest_ms, random) =
        (u64::try_from(longest.as_millis()).unwrap_or(u64::MAX >> 32), getrandom::u32());
    let random = u64::from(random.unwrap_or(u32::MAX / 2));
    Duration::from_millis(longest_ms * random / u64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        rule::Ruled,
        script::{Played, Script, Step, ask, metric},
    };

    const UNAVAILABLE: Step = Step::Fails(Code::Unavailable);
    const WELL: Step = Step::Answers(Duration::ZERO);

    fn retrying(service: &'static str, script: &Script) -> Ruled<Retry, Played> {
        let target = Target { service, reads: &["Read"], hedged: &[] };
        Ruled::new(Retry::new(target, 3), script.service())
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_is_made_again_until_it_is_answered() {
        let script = Script::new([UNAVAILABLE, UNAVAILABLE, UNAVAILABLE, WELL]);
        assert_eq!(ask(&retrying("again", &script), "Read", &[]).await, Code::Ok);
        assert_eq!(script.begun(), 4);
        assert_eq!(metric(r#"upstream_retries_total{service="again",method="Read"}"#), Some(3.0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_is_made_again_three_times_at_most() {
        let script = Script::always(UNAVAILABLE);
        let begun = Instant::now();
        assert_eq!(ask(&retrying("three", &script), "Read", &[]).await, Code::Unavailable);
        assert_eq!(script.begun(), 4);
        assert!(begun.elapsed() <= PAUSE * 7, "50, 100 and 200 ms at most: {:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_is_made_once() {
        let script = Script::always(UNAVAILABLE);
        assert_eq!(ask(&retrying("write", &script), "Write", &[]).await, Code::Unavailable);
        assert_eq!(script.begun(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_but_unavailable_is_a_reason() {
        for number in (0..17).filter(|number| *number != Code::Unavailable as i32) {
            let code = Code::from_i32(number);
            let script = Script::always(if code == Code::Ok { WELL } else { Step::Fails(code) });
            assert_eq!(ask(&retrying("reason", &script), "Read", &[]).await, code);
            assert_eq!(script.begun(), 1, "{code:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_repetition_begins_beyond_the_deadline() {
        let slow = Step::FailsAfter(Duration::from_millis(90), Code::Unavailable);
        for _ in 0..50 {
            let (script, begun) = (Script::always(slow), Instant::now());
            ask(&retrying("deadline", &script), "Read", &[("grpc-timeout", "100m")]).await;
            assert!(script.last_begun().expect("one") < begun + Duration::from_millis(100));
        }
        let script = Script::always(Step::FailsAfter(Duration::from_millis(100), Code::Unavailable));
        ask(&retrying("deadline", &script), "Read", &[("grpc-timeout", "100m")]).await;
        assert_eq!(script.begun(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn each_repetition_is_told_what_is_left_of_the_time() {
        let slow = Step::FailsAfter(Duration::from_millis(300), Code::Unavailable);
        let script = Script::new([slow, WELL]);
        assert_eq!(ask(&retrying("left", &script), "Read", &[("grpc-timeout", "1S")]).await, Code::Ok);
        let left = script.time_left();
        assert_eq!(left[0], Some(Duration::from_secs(1)));
        assert!(
            left[1]
                .is_some_and(|left| left <= Duration::from_millis(700) && left >= Duration::from_millis(640)),
            "{left:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn repetitions_are_a_tenth_of_the_reads() {
        let script = Script::always(UNAVAILABLE);
        let peer = retrying("tenth", &script);
        for _ in 0..1_000 {
            ask(&peer, "Read", &[]).await;
        }
        let repeated = script.begun() - 1_000;
        assert!((100..=110).contains(&repeated), "10 saved and 100 earned: {repeated}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_may_forbid_it_or_say_when() {
        let script = Script::always(Step::Pushes("-1"));
        assert_eq!(ask(&retrying("pushback", &script), "Read", &[]).await, Code::Unavailable);
        assert_eq!(script.begun(), 1);
        let (script, begun) = (Script::new([Step::Pushes("1500"), WELL]), Instant::now());
        assert_eq!(ask(&retrying("pushback", &script), "Read", &[]).await, Code::Ok);
        assert_eq!(begun.elapsed(), Duration::from_millis(1_500));
    }

    #[test]
    fn pauses_are_random_and_bounded() {
        let pauses: Vec<_> = (0..100).map(|_| jittered(PAUSE)).collect();
        assert!(pauses.iter().all(|pause| *pause <= PAUSE) && pauses.iter().any(|pause| *pause != pauses[0]));
    }
}
