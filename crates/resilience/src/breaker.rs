//! A service that fails is left alone for a moment: where half of its last 20 calls failed, calls are refused at once, as
//! UNAVAILABLE, for a second; then one goes out to see. Answered, everything goes on; failed, it is another second. A call
//! has failed where the service was UNAVAILABLE, or had time enough and did not answer in it.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::{HeaderValue, Request, Response};
use telemetry::{call, grpc::code_of};
use tokio::time::Instant;
use tonic::{Code, Status, body::Body};
use tower::{Service, ServiceExt};

use crate::{retry::PUSHBACK, rule::Rule};

/// How long calls are refused before one is let out.
pub const OPEN: Duration = Duration::from_secs(1);
/// How many calls are remembered, and how many failures among them are too many.
const REMEMBERED: u32 = 20;
const FAILURES_MAX: u32 = REMEMBERED / 2;
/// A call that had less time than this when it went out says nothing about the service: others have used it up.
const TIME_ENOUGH: Duration = Duration::from_millis(500);

/// A service is left alone while it fails: what is known about it.
#[derive(Clone, Debug)]
pub struct Breaker {
    service: &'static str,
    state: Arc<Mutex<State>>,
}

impl Rule for Breaker {
    async fn call<S>(self, inner: S, request: Request<Body>) -> Result<Response<Body>, S::Error>
    where
        S: Service<Request<Body>, Response = Response<Body>, Future: Send, Error: Send>
            + Clone
            + Send
            + 'static,
    {
        let Some(pass) = self.enter(Instant::now()) else { return Ok(refused()) };
        let hasty = call::time_left(request.headers()).is_some_and(|left| left < TIME_ENOUGH);
        let answer = inner.oneshot(request).await;
        pass.end(match &answer {
            Err(_) => Some(Told::Failed),
            Ok(answer) => match code_of(answer.headers()) {
                Code::Unavailable => Some(Told::Failed),
                Code::DeadlineExceeded => (!hasty).then_some(Told::Failed),
                _ => Some(Told::Well),
            },
        });
        answer
    }
}

/// At once, and not worth another try.
fn refused() -> Response<Body> {
    let mut answer = Status::unavailable("a service is away").into_http();
    answer.headers_mut().insert(PUSHBACK, HeaderValue::from_static("-1"));
    answer
}

#[derive(Debug)]
enum State {
    /// Calls go out. A bit for each of the last ones, set where it failed.
    Closed { failures: u32 },
    /// Calls are refused until then; the first one after it is the probe.
    Open { until: Instant },
    /// The probe is out.
    HalfOpen,
}

/// What a call has told about the service.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    Well,
    Failed,
}

/// A call that was let out.
struct Pass {
    breaker: Breaker,
    probe: bool,
}

impl Breaker {
    /// For this service, of which nothing is known yet.
    pub fn new(service: &'static str) -> Self {
        let breaker = Self { service, state: Arc::new(Mutex::new(State::Closed { failures: 0 })) };
        breaker.show(0);
        breaker
    }

    /// `None` while calls are refused.
    fn enter(&self, now: Instant) -> Option<Pass> {
        let mut state = self.state();
        let probe = match *state {
            State::Closed { .. } => false,
            State::Open { until } if now >= until => {
                *state = State::HalfOpen;
                self.show(1);
                true
            }
            State::Open { .. } | State::HalfOpen => return None,
        };
        drop(state);
        Some(Pass { breaker: self.clone(), probe })
    }

    fn told(&self, probe: bool, told: Told, now: Instant) {
        let mut state = self.state();
        match *state {
            State::Closed { failures } => {
                let remembered =
                    ((failures << 1) | u32::from(told == Told::Failed)) & ((1 << REMEMBERED) - 1);
                *state = State::Closed { failures: remembered };
                if remembered.count_ones() >= FAILURES_MAX {
                    self.open(&mut state, now);
                }
            }
            State::HalfOpen if probe && told == Told::Well => {
                *state = State::Closed { failures: 0 };
                self.show(0);
                tracing::info!(service = self.service, "a service answers again");
            }
            State::HalfOpen if probe => self.open(&mut state, now),
            // A call of before.
            State::HalfOpen | State::Open { .. } => {}
        }
    }

    fn open(&self, state: &mut State, now: Instant) {
        *state = State::Open { until: now + OPEN };
        self.show(2);
        tracing::warn!(service = self.service, "a service fails and is left alone for a moment");
    }

    /// Closed is 0, half-open 1, open 2.
    fn show(&self, state: u8) {
        metrics::gauge!("upstream_breaker_state", "service" => self.service).set(state);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pass {
    fn end(mut self, told: Option<Told>) {
        if let Some(told) = told {
            self.breaker.told(self.probe, told, Instant::now());
            self.probe = false;
        }
    }
}

impl Drop for Pass {
    /// A probe that told nothing, or that nobody waited for: the next call is the probe.
    fn drop(&mut self) {
        if self.probe {
            *self.breaker.state() = State::Open { until: Instant::now() };
        }
    }
}

#[cfg(test)]
mod tests {
    use telemetry::recorder;

    use super::*;
    use crate::{
        rule::Ruled,
        script::{Played, Script, Step, ask, metric},
    };

    const AWAY: Step = Step::Fails(Code::Unavailable);
    const WELL: Step = Step::Answers(Duration::ZERO);

    async fn calls(peer: &Ruled<Breaker, Played>, count: usize) -> Vec<Code> {
        let mut codes = Vec::new();
        for _ in 0..count {
            codes.push(ask(peer, "Any", &[("grpc-timeout", "5S")]).await);
        }
        codes
    }

    fn broken(service: &'static str, script: &Script) -> Ruled<Breaker, Played> {
        recorder::install();
        Ruled::new(Breaker::new(service), script.service())
    }

    #[tokio::test(start_paused = true)]
    async fn half_of_the_last_twenty_calls_open_it_for_a_second() {
        let script = Script::new([]);
        let peer = broken("half", &script);
        // Nine of twenty, for long.
        for _ in 0..20 {
            script.next([AWAY; 9].into_iter().chain([WELL; 11]));
            calls(&peer, 20).await;
        }
        assert_eq!(script.begun(), 400);
        script.next([AWAY; 9].into_iter().chain([WELL; 10]).chain([AWAY]));
        calls(&peer, 20).await;
        script.then(WELL);
        let refused = Instant::now();
        assert_eq!(calls(&peer, 100).await, [Code::Unavailable; 100]);
        assert_eq!((script.begun(), refused.elapsed()), (420, Duration::ZERO), "at once, and without a call");
        assert_eq!(metric(r#"upstream_breaker_state{service="half"}"#), Some(2.0));
        tokio::time::advance(OPEN - Duration::from_millis(1)).await;
        assert_eq!(calls(&peer, 1).await, [Code::Unavailable]);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(calls(&peer, 3).await, [Code::Ok; 3]);
        assert_eq!(metric(r#"upstream_breaker_state{service="half"}"#), Some(0.0));
    }

    #[tokio::test(start_paused = true)]
    async fn then_one_call_goes_out_to_see() {
        let script = Script::always(AWAY);
        let peer = broken("probe", &script);
        calls(&peer, 10).await;
        tokio::time::advance(OPEN).await;
        script.next([Step::FailsAfter(Duration::from_millis(300), Code::Unavailable)]);
        let (probe, others) = tokio::join!(calls(&peer, 1), async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert_eq!(metric(r#"upstream_breaker_state{service="probe"}"#), Some(1.0));
            calls(&peer, 5).await
        });
        assert_eq!((probe, others), (vec![Code::Unavailable], vec![Code::Unavailable; 5]));
        assert_eq!(script.begun(), 11, "the probe alone");
        tokio::time::advance(OPEN - Duration::from_millis(1)).await;
        calls(&peer, 1).await;
        assert_eq!(script.begun(), 11, "a probe that failed is another second");
        tokio::time::advance(Duration::from_millis(1)).await;
        script.then(WELL);
        assert_eq!(calls(&peer, 2).await, [Code::Ok; 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_nobody_waits_for_leaves_its_place_to_the_next() {
        let script = Script::always(AWAY);
        let peer = broken("left", &script);
        calls(&peer, 10).await;
        tokio::time::advance(OPEN).await;
        script.next([Step::Answers(Duration::from_secs(60))]);
        tokio::time::timeout(Duration::from_millis(10), calls(&peer, 1)).await.expect_err("it hangs");
        script.then(WELL);
        assert_eq!(calls(&peer, 1).await, [Code::Ok]);
    }

    #[tokio::test(start_paused = true)]
    async fn late_answers_are_failures_where_there_was_time_enough() {
        let late = Step::FailsAfter(Duration::from_millis(100), Code::DeadlineExceeded);
        for (timeout, begun) in [("5S", 10), ("500m", 10), ("499m", 30)] {
            let script = Script::always(late);
            let peer = broken("late", &script);
            for _ in 0..30 {
                ask(&peer, "Any", &[("grpc-timeout", timeout)]).await;
            }
            assert_eq!(script.begun(), begun, "{timeout}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_service_answers_is_no_failure() {
        for number in 0..17 {
            let code = Code::from_i32(number);
            if matches!(code, Code::Ok | Code::Unavailable | Code::DeadlineExceeded) {
                continue;
            }
            let script = Script::always(Step::Fails(code));
            calls(&broken("answers", &script), 30).await;
            assert_eq!(script.begun(), 30, "{code:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_a_call_of_before_changes_nothing() {
        let script = Script::new([Step::Answers(Duration::from_millis(1_500))]);
        script.then(AWAY);
        let peer = broken("before", &script);
        let (early, ()) = tokio::join!(calls(&peer, 1), async {
            tokio::time::sleep(Duration::from_millis(1_000)).await;
            calls(&peer, 10).await;
        });
        assert_eq!(
            (early, calls(&peer, 1).await),
            (vec![Code::Ok], vec![Code::Unavailable]),
            "it stays open"
        );
        assert_eq!(script.begun(), 11);
    }
}
