//! Circuit breaker: stops calls to a failing target. It only keeps the state; the caller makes the calls
//! and passes the time in.
//!
//! While closed, every call is permitted. Enough failures open it: no call is permitted for a fixed
//! time. Then it is half-open: one call, the probe, is permitted, and its result closes the breaker or
//! opens it again.

use std::{fmt, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

/// Circuit breaker of one target. Share it between callers by reference or in an `Arc`.
pub struct CircuitBreaker {
    /// Number of recent calls that are remembered.
    window: u32,
    /// Number of failures among them that opens the breaker.
    failures_max: u32,
    open_for: Duration,
    late_results: LateResults,
    on_change: Box<dyn Fn(State) + Send + Sync>,
    state: Mutex<Phase>,
}

/// State of a circuit breaker, as passed to the observer of [`CircuitBreaker::on_change`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Every call is permitted.
    Closed,
    /// The probe is running; no other call is permitted.
    HalfOpen,
    /// No call is permitted.
    Open,
}

/// Result of a permitted call, as far as it concerns the target's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The target answered.
    Success,
    /// The target did not answer.
    Failure,
}

impl Outcome {
    /// Returns the outcome of a call for which every error means that the target did not answer.
    pub fn of<T, E>(result: &Result<T, E>) -> Self {
        if result.is_ok() { Self::Success } else { Self::Failure }
    }
}

/// Effect of the result of a call that started before the breaker opened.
#[derive(Clone, Copy, Debug)]
enum LateResults {
    /// Only the result of the probe counts.
    Ignored,
    /// A success closes the breaker, a failure opens it for the full time again.
    Counted,
}

#[derive(Debug)]
enum Phase {
    /// One bit per remembered call, set if it failed; the newest call is the lowest bit.
    Closed {
        failures: u32,
    },
    /// The first call at or after `until` is the probe.
    Open {
        until: Instant,
    },
    HalfOpen,
}

/// Permission for one call. Report its result with [`Permit::record`].
///
/// A permit that is dropped without a result does not change the remembered calls. If it belonged to the
/// probe, the next call becomes the probe.
#[derive(Debug)]
#[must_use = "the breaker learns the result of the call from its permit"]
pub struct Permit<'a> {
    breaker: &'a CircuitBreaker,
    acquired_at: Instant,
    probe: bool,
}

impl CircuitBreaker {
    /// Creates a breaker that opens for `open_for` when `failures_max` of the last `window` calls
    /// failed. Results of calls that started before it opened are ignored.
    ///
    /// # Panics
    /// If `failures_max` is 0 or more than `window`, or if `window` is more than 32.
    pub fn by_failure_rate(window: u32, failures_max: u32, open_for: Duration) -> Self {
        Self::new(window, failures_max, open_for, LateResults::Ignored)
    }

    /// Creates a breaker that opens for `open_for` at the first failure. If a call that started before
    /// the breaker opened succeeds, the breaker closes again: one timeout among many concurrent calls
    /// must not block the other calls.
    pub fn on_first_failure(open_for: Duration) -> Self {
        Self::new(1, 1, open_for, LateResults::Counted)
    }

    fn new(window: u32, failures_max: u32, open_for: Duration, late_results: LateResults) -> Self {
        assert!(window <= u32::BITS, "the window must be at most 32");
        assert!((1..=window).contains(&failures_max), "failures_max must be between 1 and the window");
        let on_change = Box::new(|_| ());
        let state = Mutex::new(Phase::Closed { failures: 0 });
        Self { window, failures_max, open_for, late_results, on_change, state }
    }

    /// Calls `observer` with the new state at each change. It runs under the breaker's lock, so that the
    /// changes arrive in order: it must not block or use the breaker.
    #[must_use]
    pub fn on_change(mut self, observer: impl Fn(State) + Send + Sync + 'static) -> Self {
        self.on_change = Box::new(observer);
        self
    }

    /// Permits a call, or returns `None`: the call is rejected and must not be made.
    pub fn try_acquire(&self, now: Instant) -> Option<Permit<'_>> {
        let mut state = self.state.lock();
        let probe = match *state {
            Phase::Closed { .. } => false,
            Phase::Open { until } if now >= until => {
                *state = Phase::HalfOpen;
                (self.on_change)(State::HalfOpen);
                true
            }
            Phase::Open { .. } | Phase::HalfOpen => return None,
        };
        Some(Permit { breaker: self, acquired_at: now, probe })
    }

    fn record(&self, outcome: Outcome, probe: bool, now: Instant) {
        let mut state = self.state.lock();
        match (&mut *state, self.late_results) {
            (Phase::Closed { failures }, _) => {
                let mask = u32::MAX >> (u32::BITS - self.window);
                *failures = ((*failures << 1) | u32::from(outcome == Outcome::Failure)) & mask;
                if failures.count_ones() >= self.failures_max {
                    self.open(&mut state, now);
                }
            }
            (Phase::HalfOpen, _) if probe => self.decide(&mut state, outcome, now),
            (Phase::HalfOpen | Phase::Open { .. }, LateResults::Counted) => {
                self.decide(&mut state, outcome, now);
            }
            (Phase::HalfOpen | Phase::Open { .. }, LateResults::Ignored) => {}
        }
    }

    fn decide(&self, state: &mut Phase, outcome: Outcome, now: Instant) {
        match outcome {
            Outcome::Success => {
                *state = Phase::Closed { failures: 0 };
                (self.on_change)(State::Closed);
            }
            Outcome::Failure => self.open(state, now),
        }
    }

    fn open(&self, state: &mut Phase, now: Instant) {
        *state = Phase::Open { until: now + self.open_for };
        (self.on_change)(State::Open);
    }
}

impl fmt::Debug for CircuitBreaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CircuitBreaker").field(&*self.state.lock()).finish()
    }
}

impl Permit<'_> {
    /// Reports the result of the call.
    pub fn record(mut self, outcome: Outcome, now: Instant) {
        self.breaker.record(outcome, self.probe, now);
        self.probe = false;
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if !self.probe {
            return;
        }
        let mut state = self.breaker.state.lock();
        // A late result may have moved the state on.
        if matches!(*state, Phase::HalfOpen) {
            *state = Phase::Open { until: self.acquired_at };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const OPEN_FOR: Duration = Duration::from_secs(1);
    const MS: Duration = Duration::from_millis(1);

    fn call(breaker: &CircuitBreaker, outcome: Outcome, now: Instant) -> bool {
        breaker.try_acquire(now).map(|permit| permit.record(outcome, now)).is_some()
    }

    #[test]
    fn failures_within_the_window_open_it_and_older_ones_do_not_count() {
        let now = Instant::now();
        for (window, failures_max) in [(20, 10), (32, 32), (1, 1)] {
            let breaker = CircuitBreaker::by_failure_rate(window, failures_max, OPEN_FOR);
            for _ in 0..3 {
                (1..failures_max).for_each(|_| assert!(call(&breaker, Outcome::Failure, now)));
                (failures_max..=window).for_each(|_| assert!(call(&breaker, Outcome::Success, now)));
            }
            (0..failures_max).for_each(|_| assert!(call(&breaker, Outcome::Failure, now)));
            assert!(!call(&breaker, Outcome::Success, now + OPEN_FOR - MS), "{window}");
        }
    }

    #[test]
    fn one_probe_decides_after_the_open_time() {
        let breaker = CircuitBreaker::on_first_failure(OPEN_FOR);
        let mut now = Instant::now();
        call(&breaker, Outcome::Failure, now);
        now += OPEN_FOR;
        let probe = breaker.try_acquire(now).expect("half-open");
        assert!(breaker.try_acquire(now + 10 * OPEN_FOR).is_none(), "there is one probe at a time");
        probe.record(Outcome::Failure, now);
        assert!(breaker.try_acquire(now + OPEN_FOR - MS).is_none());
        now += OPEN_FOR;
        breaker.try_acquire(now).expect("half-open").record(Outcome::Success, now);
        let both = [breaker.try_acquire(now), breaker.try_acquire(now)];
        assert!(both.iter().all(Option::is_some), "closed");
    }

    #[test]
    fn dropping_the_probe_makes_the_next_call_the_probe() {
        let breaker = CircuitBreaker::on_first_failure(OPEN_FOR);
        let now = Instant::now();
        call(&breaker, Outcome::Failure, now);
        drop(breaker.try_acquire(now + OPEN_FOR).expect("half-open"));
        let _probe = breaker.try_acquire(now + OPEN_FOR).expect("half-open again");
        assert!(breaker.try_acquire(now + OPEN_FOR).is_none());
    }

    #[test]
    fn late_results_count_or_are_ignored() {
        let now = Instant::now();
        for (breaker, counted) in [
            (CircuitBreaker::by_failure_rate(1, 1, OPEN_FOR), false),
            (CircuitBreaker::on_first_failure(OPEN_FOR), true),
        ] {
            let late = || breaker.try_acquire(now).expect("closed");
            let [succeeds, fails, opens] = [late(), late(), late()];
            opens.record(Outcome::Failure, now);
            fails.record(Outcome::Failure, now + MS);
            assert_eq!(breaker.try_acquire(now + OPEN_FOR).is_none(), counted);
            succeeds.record(Outcome::Success, now + MS);
            assert_eq!(breaker.try_acquire(now + MS).is_some(), counted);
        }
    }

    #[test]
    fn the_observer_sees_every_change_in_order() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let observed = seen.clone();
        let breaker =
            CircuitBreaker::on_first_failure(OPEN_FOR).on_change(move |state| observed.lock().push(state));
        let now = Instant::now();
        call(&breaker, Outcome::Failure, now);
        call(&breaker, Outcome::Success, now + OPEN_FOR);
        assert_eq!(*seen.lock(), [State::Open, State::HalfOpen, State::Closed]);
    }
}
