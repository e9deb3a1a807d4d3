//! Fails calls immediately while the service is failing: a [`CircuitBreaker`] that opens for 1 s when
//! half of the last 20 calls failed, then sends one probe.
//!
//! Reads and writes have a breaker each: a service whose disk is full answers its reads.
//!
//! A call has failed if the answer is UNAVAILABLE. A missed deadline counts as UNAVAILABLE only if the
//! service is silent: the call had at least 500 ms, and no other call was answered since it started. A
//! service that refuses work, or is slow with some of it, answers other calls and stays in use.

use std::{sync::Arc, time::Duration};

use http::{HeaderValue, Request, Response};
use parking_lot::Mutex;
use telemetry::{call, grpc::code_of};
use tokio::time::Instant;
use tonic::{Code, Status, body::Body};
use tower::{Service, ServiceExt};

use crate::{
    Target,
    circuit_breaker::{CircuitBreaker, Outcome, State},
    listed,
    policy::Policy,
    retry::PUSHBACK,
};

/// Time for which reads are rejected before the probe.
pub const OPEN_FOR: Duration = Duration::from_secs(1);
/// Time for which writes are rejected before the probe. Shorter, because one probe at a time is all that
/// a full disk has to refuse, and writes must work within a second after it was freed.
const WRITES_OPEN_FOR: Duration = Duration::from_millis(500);
/// Number of calls that are remembered, and of failures among them that open the breaker.
const WINDOW: u32 = 20;
const FAILURES_MAX: u32 = WINDOW / 2;
/// A call that starts with less time than this and misses its deadline says nothing about the service:
/// earlier steps of the operation have used the time up.
const TIME_LEFT_MIN: Duration = Duration::from_millis(500);

/// Policy that rejects the reads or the writes of a service with UNAVAILABLE while their circuit breaker
/// is open.
#[derive(Clone, Debug)]
pub struct FailFast {
    breaker: Arc<CircuitBreaker>,
    /// Time of the newest answer.
    answered_at: Arc<Mutex<Option<Instant>>>,
    calls: Calls,
    /// The service's reads; all other methods are writes.
    reads: &'static [&'static str],
}

/// Calls that share a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Calls {
    Reads,
    Writes,
}

impl FailFast {
    /// Creates the policy for the reads of this service, with a closed breaker. Other calls pass.
    pub fn reads(target: Target) -> Self {
        Self::new(target, Calls::Reads, OPEN_FOR)
    }

    /// Creates the policy for the writes of this service, with a closed breaker. Other calls pass.
    pub fn writes(target: Target) -> Self {
        Self::new(target, Calls::Writes, WRITES_OPEN_FOR)
    }

    fn new(target: Target, calls: Calls, open_for: Duration) -> Self {
        let Target { service, reads, .. } = target;
        set_gauge(service, calls, State::Closed);
        let breaker = CircuitBreaker::by_failure_rate(WINDOW, FAILURES_MAX, open_for);
        let breaker = Arc::new(breaker.on_change(move |state| report(service, calls, state)));
        Self { breaker, answered_at: Arc::default(), calls, reads }
    }

    fn concerns<B>(&self, request: &Request<B>) -> bool {
        listed(self.reads, request).is_some() == (self.calls == Calls::Reads)
    }
}

impl Policy for FailFast {
    async fn call<S>(self, inner: S, request: Request<Body>) -> Result<Response<Body>, S::Error>
    where
        S: Service<Request<Body>, Response = Response<Body>, Future: Send, Error: Send>
            + Clone
            + Send
            + 'static,
    {
        if !self.concerns(&request) {
            return inner.oneshot(request).await;
        }
        let Some(permit) = self.breaker.try_acquire(Instant::now()) else { return Ok(rejection()) };
        let started_at = Instant::now();
        let short_of_time = call::time_left(request.headers()).is_some_and(|left| left < TIME_LEFT_MIN);
        let answer = inner.oneshot(request).await;
        let now = Instant::now();
        let outcome = match answer.as_ref().map_or(Code::Unavailable, |answer| code_of(answer.headers())) {
            Code::Unavailable => Some(Outcome::Failure),
            Code::DeadlineExceeded if short_of_time || self.has_answered_since(started_at) => None,
            Code::DeadlineExceeded => Some(Outcome::Failure),
            _ => {
                *self.answered_at.lock() = Some(now);
                Some(Outcome::Success)
            }
        };
        // Without an outcome the call says nothing about the service. A probe then passes its place on.
        if let Some(outcome) = outcome {
            permit.record(outcome, now);
        }
        answer
    }
}

impl FailFast {
    fn has_answered_since(&self, time: Instant) -> bool {
        self.answered_at.lock().is_some_and(|answered_at| answered_at >= time)
    }
}

/// Builds the answer to a rejected call. The negative pushback stops [`Retry`](crate::retry::Retry):
/// another attempt would be rejected too.
fn rejection() -> Response<Body> {
    let mut answer = Status::unavailable("the service is unavailable").into_http();
    answer.headers_mut().insert(PUSHBACK, HeaderValue::from_static("-1"));
    answer
}

fn report(service: &'static str, calls: Calls, state: State) {
    set_gauge(service, calls, state);
    match state {
        State::Open => tracing::warn!(service, ?calls, "circuit breaker opened: the service is failing"),
        State::Closed => tracing::info!(service, ?calls, "circuit breaker closed: the service answers again"),
        State::HalfOpen => {}
    }
}

fn set_gauge(service: &'static str, calls: Calls, state: State) {
    let value = match state {
        State::Closed => 0,
        State::HalfOpen => 1,
        State::Open => 2,
    };
    match calls {
        Calls::Reads => metrics::gauge!("upstream_breaker_state", "service" => service).set(value),
        Calls::Writes => metrics::gauge!("upstream_write_breaker_state", "service" => service).set(value),
    }
}

#[cfg(test)]
mod tests {
    use telemetry::recorder;

    use super::*;
    use crate::{
        policy::PolicyService,
        script::{FakeGrpc, Script, Step, call_method, metric},
    };

    const UNAVAILABLE: Step = Step::Fail(Code::Unavailable);
    const OK: Step = Step::Reply(Duration::ZERO);

    async fn calls(peer: &PolicyService<FailFast, FakeGrpc>, count: usize) -> Vec<Code> {
        let mut codes = Vec::new();
        for _ in 0..count {
            codes.push(call_method(peer, "Any", &[("grpc-timeout", "5S")]).await);
        }
        codes
    }

    fn guarded(service: &'static str, script: &Script) -> PolicyService<FailFast, FakeGrpc> {
        recorder::install();
        let target = Target { service, reads: &["Any"], hedged: &[] };
        PolicyService::new(FailFast::reads(target), script.service())
    }

    #[tokio::test(start_paused = true)]
    async fn failing_writes_do_not_stop_reads_and_are_tried_again_after_half_a_second() {
        let script = Script::always(UNAVAILABLE);
        let target = Target { service: "full", reads: &["Read"], hedged: &[] };
        let settings = crate::Settings { retries: 0, hedge: false, breaker: true };
        let peer = crate::around(script.service(), target, settings);
        recorder::install();
        for _ in 0..30 {
            call_method(&peer, "Write", &[]).await;
        }
        assert_eq!(script.started(), 10, "the breaker of the writes is open");
        script.set_default(OK);
        assert_eq!(call_method(&peer, "Read", &[]).await, Code::Ok);
        assert_eq!(call_method(&peer, "Write", &[]).await, Code::Unavailable);
        tokio::time::advance(WRITES_OPEN_FOR).await;
        assert_eq!(call_method(&peer, "Write", &[]).await, Code::Ok);
        script.set_default(UNAVAILABLE);
        for _ in 0..30 {
            call_method(&peer, "Read", &[]).await;
        }
        script.set_default(OK);
        assert_eq!(call_method(&peer, "Read", &[]).await, Code::Unavailable);
        assert_eq!(call_method(&peer, "Write", &[]).await, Code::Ok);
    }

    #[tokio::test(start_paused = true)]
    async fn half_of_the_last_twenty_calls_open_it_for_a_second() {
        let script = Script::new([]);
        let peer = guarded("half", &script);
        // Nine failures in every twenty calls keep it closed.
        for _ in 0..20 {
            script.push([UNAVAILABLE; 9].into_iter().chain([OK; 11]));
            calls(&peer, 20).await;
        }
        assert_eq!(script.started(), 400);
        script.push([UNAVAILABLE; 9].into_iter().chain([OK; 10]).chain([UNAVAILABLE]));
        calls(&peer, 20).await;
        script.set_default(OK);
        let opened_at = Instant::now();
        assert_eq!(calls(&peer, 100).await, [Code::Unavailable; 100]);
        assert_eq!(
            (script.started(), opened_at.elapsed()),
            (420, Duration::ZERO),
            "immediately, and without a call"
        );
        assert_eq!(metric(r#"upstream_breaker_state{service="half"}"#), Some(2.0));
        tokio::time::advance(OPEN_FOR - Duration::from_millis(1)).await;
        assert_eq!(calls(&peer, 1).await, [Code::Unavailable]);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(calls(&peer, 3).await, [Code::Ok; 3]);
        assert_eq!(metric(r#"upstream_breaker_state{service="half"}"#), Some(0.0));
    }

    #[tokio::test(start_paused = true)]
    async fn one_probe_is_sent_after_the_open_time() {
        let script = Script::always(UNAVAILABLE);
        let peer = guarded("probe", &script);
        calls(&peer, 10).await;
        tokio::time::advance(OPEN_FOR).await;
        script.push([Step::FailAfter(Duration::from_millis(300), Code::Unavailable)]);
        let (probe, others) = tokio::join!(calls(&peer, 1), async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert_eq!(metric(r#"upstream_breaker_state{service="probe"}"#), Some(1.0));
            calls(&peer, 5).await
        });
        assert_eq!((probe, others), (vec![Code::Unavailable], vec![Code::Unavailable; 5]));
        assert_eq!(script.started(), 11, "only the probe");
        tokio::time::advance(OPEN_FOR - Duration::from_millis(1)).await;
        calls(&peer, 1).await;
        assert_eq!(script.started(), 11, "a failed probe opens the breaker for another second");
        tokio::time::advance(Duration::from_millis(1)).await;
        script.set_default(OK);
        assert_eq!(calls(&peer, 2).await, [Code::Ok; 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_cancelled_probe_the_next_call_is_the_probe() {
        let script = Script::always(UNAVAILABLE);
        let peer = guarded("left", &script);
        calls(&peer, 10).await;
        tokio::time::advance(OPEN_FOR).await;
        script.push([Step::Reply(Duration::from_secs(60))]);
        tokio::time::timeout(Duration::from_millis(10), calls(&peer, 1)).await.expect_err("the probe hangs");
        script.set_default(OK);
        assert_eq!(calls(&peer, 1).await, [Code::Ok]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_missed_deadline_is_a_failure_if_the_call_had_500_ms() {
        let late = Step::FailAfter(Duration::from_millis(100), Code::DeadlineExceeded);
        for (timeout, started) in [("5S", 10), ("500m", 10), ("499m", 30)] {
            let script = Script::always(late);
            let peer = guarded("late", &script);
            for _ in 0..30 {
                call_method(&peer, "Any", &[("grpc-timeout", timeout)]).await;
            }
            assert_eq!(script.started(), started, "{timeout}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn missed_deadlines_are_no_failures_while_the_service_answers_other_calls() {
        let script = Script::new([]);
        let peer = guarded("slow", &script);
        for _ in 0..30 {
            script.push([Step::FailAfter(Duration::from_millis(600), Code::DeadlineExceeded), OK]);
            let (slow, quick) = tokio::join!(calls(&peer, 1), calls(&peer, 1));
            assert_eq!((slow, quick), (vec![Code::DeadlineExceeded], vec![Code::Ok]));
        }
        assert_eq!(metric(r#"upstream_breaker_state{service="slow"}"#), Some(0.0));
    }

    #[tokio::test(start_paused = true)]
    async fn other_codes_are_not_failures() {
        for number in 0..17 {
            let code = Code::from_i32(number);
            if matches!(code, Code::Ok | Code::Unavailable | Code::DeadlineExceeded) {
                continue;
            }
            let script = Script::always(Step::Fail(code));
            calls(&guarded("answers", &script), 30).await;
            assert_eq!(script.started(), 30, "{code:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_success_does_not_close_the_breaker() {
        let script = Script::new([Step::Reply(Duration::from_millis(1_500))]);
        script.set_default(UNAVAILABLE);
        let peer = guarded("before", &script);
        let (early, ()) = tokio::join!(calls(&peer, 1), async {
            tokio::time::sleep(Duration::from_millis(1_000)).await;
            calls(&peer, 10).await;
        });
        assert_eq!(
            (early, calls(&peer, 1).await),
            (vec![Code::Ok], vec![Code::Unavailable]),
            "it stays open"
        );
        assert_eq!(script.started(), 11);
    }
}
