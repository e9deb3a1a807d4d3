//! Adaptive limit on the queries that run at the same time. When a gateway or its services receive more
//! than they can answer, queries beyond the limit are refused at once instead of all becoming slow.
//!
//! Every interval the limit is adapted by the durations of the queries that ended in it. If it was reached
//! and most of them were slow, the system is overloaded: as many may run as were answered in the interval,
//! so that the next ones take about as long as the interval, and as many may wait. Otherwise the limit rises
//! while it is reached, and falls slowly to where it started while it is not, so that an overload does not
//! begin with hundreds of running queries. Mutations are not limited here: sends and sign-ins wait in queues
//! of their own services.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{sync::oneshot, time::Instant};

use crate::error::Error;

/// Bounds of the limit.
const LIMIT_MIN: usize = 32;
const LIMIT_MAX: usize = 512;
/// Limit at the start, and while it is not reached. It keeps the CPUs of a large machine busy.
const LIMIT_IDLE: usize = 64;
/// Interval at which the limit is adapted.
const INTERVAL: Duration = Duration::from_millis(100);
/// Duration above which a query is slow. As long as the interval: queries that run at the same time and take
/// this long are those that are answered in an interval.
const SLOW_ABOVE: Duration = INTERVAL;
/// Waiting time of the oldest waiting query at which new ones are refused.
const WAIT_MAX: Duration = Duration::from_millis(100);
/// Maximum number of waiting queries while nothing is overloaded. More are refused.
const WAITING_MAX: usize = 2_048;
/// Time after which a refused client may try again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Limit of one process. Cheap to clone; clones share their state.
#[derive(Debug, Clone, Default)]
pub struct ConcurrencyLimit(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    limit: usize,
    running: usize,
    /// Queries that wait for a permit, oldest first.
    waiting: VecDeque<Waiting>,
    interval: Interval,
    /// Most queries of an interval were slow, and the limit was reached in every interval since.
    is_overloaded: bool,
}

/// What has happened since the limit was adapted.
#[derive(Debug)]
struct Interval {
    start: Instant,
    /// Queries that ended, and how many of them were slow.
    ended: usize,
    slow: usize,
    /// A query has waited.
    is_reached: bool,
}

impl Interval {
    fn new(start: Instant) -> Self {
        Self { start, ended: 0, slow: 0, is_reached: false }
    }
}

#[derive(Debug)]
struct Waiting {
    since: Instant,
    permit: oneshot::Sender<Permit>,
}

/// Permission to run a query, until it is dropped.
#[derive(Debug)]
pub struct Permit {
    limit: ConcurrencyLimit,
    /// Start of the query; `None` until its caller has received the permit.
    start: Option<Instant>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            limit: LIMIT_IDLE,
            running: 0,
            waiting: VecDeque::new(),
            interval: Interval::new(Instant::now()),
            is_overloaded: false,
        }
    }
}

impl ConcurrencyLimit {
    /// Waits until a query may run, for little more than [`WAIT_MAX`].
    ///
    /// # Errors
    /// RATE_LIMITED at once if more queries arrive than can be answered.
    pub async fn acquire(&self) -> Result<Permit, Error> {
        let receiver = {
            let mut state = self.0.lock();
            let now = Instant::now();
            if state.running < state.limit && state.waiting.is_empty() {
                state.running += 1;
                return Ok(Permit { limit: self.clone(), start: Some(now) });
            }
            state.interval.is_reached = true;
            if state.refuses(now) {
                metrics::counter!("gateway_queries_refused_total").increment(1);
                return Err(Error::rate_limited(RETRY_AFTER));
            }
            let (permit, receiver) = oneshot::channel();
            state.waiting.push_back(Waiting { since: now, permit });
            receiver
        };
        // The sender is dropped only together with the limit.
        let mut permit = receiver.await.map_err(|_| Error::rate_limited(RETRY_AFTER))?;
        permit.start = Some(Instant::now());
        Ok(permit)
    }
}

impl State {
    /// Returns true if a new query is refused. Those that were given up are not counted as waiting.
    fn refuses(&mut self, now: Instant) -> bool {
        while self.waiting.front().is_some_and(|oldest| oldest.permit.is_closed()) {
            self.waiting.pop_front();
        }
        let is_late = self.waiting.front().is_some_and(|oldest| now - oldest.since > WAIT_MAX);
        // Each waits for as long as those before it run, so fewer wait in an overloaded system.
        let waiting_max = if self.is_overloaded { self.limit } else { WAITING_MAX };
        is_late || self.waiting.len() >= waiting_max
    }

    /// Counts the duration of a query, and adapts the limit at the end of an interval.
    fn count(&mut self, duration: Duration, now: Instant) {
        let interval = &mut self.interval;
        interval.ended += 1;
        interval.slow += usize::from(duration > SLOW_ABOVE);
        let elapsed = now - interval.start;
        if elapsed < INTERVAL {
            return;
        }
        let is_slow = interval.slow * 2 > interval.ended;
        self.is_overloaded = interval.is_reached && (is_slow || self.is_overloaded);
        if interval.is_reached && is_slow {
            let in_interval = interval.ended as u128 * INTERVAL.as_micros() / elapsed.as_micros();
            let answered = usize::try_from(in_interval).unwrap_or(LIMIT_MAX);
            self.limit = answered.clamp(LIMIT_MIN, self.limit);
        } else if interval.is_reached {
            let rise = if self.is_overloaded { self.limit / 8 } else { self.limit };
            self.limit = (self.limit + rise).min(LIMIT_MAX);
        } else if self.limit > LIMIT_IDLE {
            self.limit = (self.limit - self.limit / 8).max(LIMIT_IDLE);
        }
        self.interval = Interval::new(now);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        // Permits whose callers gave up just now. Their drop locks the state.
        let mut unused = Vec::new();
        let mut state = self.limit.0.lock();
        state.running -= 1;
        if let Some(start) = self.start {
            let now = Instant::now();
            state.count(now - start, now);
        }
        while state.running < state.limit
            && let Some(next) = state.waiting.pop_front()
        {
            if next.permit.is_closed() {
                continue;
            }
            state.running += 1;
            let permit = Permit { limit: self.limit.clone(), start: None };
            unused.extend(next.permit.send(permit).err());
        }
        drop(state);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;
    use tokio::{sync::Semaphore, task::JoinSet, time::sleep};

    use super::*;

    /// Result of a query: refused, or its duration in milliseconds.
    type Outcome = Result<u128, u128>;

    /// Sends queries at a rate to a system that works on four at a time, 10 ms each: 400 a second.
    async fn load(limit: &ConcurrencyLimit, a_second: u64, seconds: u64) -> Vec<Outcome> {
        let system = Arc::new(Semaphore::new(4));
        let mut queries = JoinSet::new();
        let start = Instant::now();
        // The clock of the tests counts milliseconds.
        for tick in 0..seconds * 100 {
            for _ in 0..a_second / 100 {
                let limit = limit.clone();
                let system = system.clone();
                queries.spawn(async move {
                    let start = Instant::now();
                    let Ok(_permit) = limit.acquire().await else { return Err(start.elapsed().as_millis()) };
                    let _worker = system.acquire().await.expect("it is never closed");
                    sleep(Duration::from_millis(10)).await;
                    Ok(start.elapsed().as_millis())
                });
            }
            tokio::time::sleep_until(start + Duration::from_millis(10) * (tick as u32 + 1)).await;
        }
        queries.join_all().await
    }

    /// Returns the durations of the answered queries, shortest first.
    fn sorted(outcomes: Vec<Outcome>) -> Vec<u128> {
        let mut durations: Vec<u128> = outcomes.into_iter().flatten().collect();
        durations.sort_unstable();
        durations
    }

    fn percentile(sorted: &[u128], percent: usize) -> u128 {
        sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
    }

    #[tokio::test(start_paused = true)]
    async fn an_overloaded_system_answers_what_it_can_and_refuses_the_rest_at_once() {
        let limit = ConcurrencyLimit::default();
        let outcomes = load(&limit, 1_600, 10).await;
        let answered = outcomes.iter().flatten().count();
        assert!((3_600..4_500).contains(&answered), "400 a second for 10 s: {answered}");
        let refused_after = outcomes.iter().filter_map(|outcome| outcome.err()).max();
        assert!(refused_after.expect("3 of 4 are refused") <= 1, "{refused_after:?} ms");
        let durations = sorted(outcomes);
        assert!(percentile(&durations, 90) <= 300, "{} ms", percentile(&durations, 90));
        // The limit follows within the first second.
        assert!(percentile(&durations, 100) <= 700, "{} ms", percentile(&durations, 100));
    }

    #[tokio::test(start_paused = true)]
    async fn an_overload_does_not_begin_with_hundreds_of_running_queries() {
        let limit = ConcurrencyLimit::default();
        // The limit rises to its maximum as long as queries are fast.
        for _ in 0..30 {
            let burst = join_all((0..LIMIT_MAX * 2).map(|_| async {
                let permit = limit.acquire().await;
                sleep(Duration::from_millis(10)).await;
                permit.map(drop)
            }));
            assert!(burst.await.iter().all(Result::is_ok));
            sleep(Duration::from_millis(70)).await;
        }
        assert_eq!(limit.0.lock().limit, LIMIT_MAX);
        load(&limit, 300, 3).await;
        assert_eq!(limit.0.lock().limit, LIMIT_IDLE, "it falls while it is not reached");
        let outcomes = load(&limit, 1_600, 2).await;
        let durations = sorted(outcomes);
        assert!(percentile(&durations, 100) <= 700, "{} ms", percentile(&durations, 100));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_refused_below_the_capacity_also_after_an_overload() {
        let limit = ConcurrencyLimit::default();
        for round in 0..2 {
            let outcomes = load(&limit, 300, 5).await;
            assert!(outcomes.iter().all(Result::is_ok), "round {round}");
            load(&limit, 2_000, 5).await;
        }
        let idle = limit.0.lock();
        assert_eq!((idle.running, idle.waiting.len()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_of_fast_queries_waits_and_is_answered() {
        let limit = ConcurrencyLimit::default();
        let mut queries = JoinSet::new();
        for _ in 0..LIMIT_IDLE + WAITING_MAX {
            let limit = limit.clone();
            queries.spawn(async move {
                let _permit = limit.acquire().await?;
                sleep(Duration::from_millis(40)).await;
                Ok::<_, Error>(())
            });
        }
        assert!(queries.join_all().await.iter().all(Result::is_ok));
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_waiting_query_decides_and_given_up_ones_are_skipped() {
        let limit = ConcurrencyLimit::default();
        let mut permits = Vec::new();
        for _ in 0..LIMIT_IDLE {
            permits.push(limit.acquire().await.expect("below the limit"));
        }
        let given_up = tokio::time::timeout(WAIT_MAX * 2, limit.acquire()).await;
        assert!(given_up.is_err(), "it waits");
        let first = tokio::spawn({
            let limit = limit.clone();
            async move { limit.acquire().await.map(drop) }
        });
        sleep(WAIT_MAX + Duration::from_millis(1)).await;
        let refused = limit.acquire().await.expect_err("the first waits too long");
        assert_eq!(refused.code(), crate::error::Code::RateLimited);
        permits.clear();
        first.await.expect("it does not panic").expect("it gets the permit");
    }
}
