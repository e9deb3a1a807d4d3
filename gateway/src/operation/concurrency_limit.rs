//! Adaptive limit on the queries that run at the same time. When a gateway or its services receive more
//! than they can answer, queries beyond the limit are refused at once instead of all becoming slow.
//!
//! The limit follows the shortest duration of a query in an interval, as `CoDel` follows the shortest time
//! in a queue: if even the fastest query took long, the system is overloaded and the limit falls by a
//! quarter; otherwise it rises again while it is reached. As many queries may wait as may run, and more
//! while nothing says that the system is overloaded. Mutations are not limited here: sends and sign-ins
//! wait in queues of their own services.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{sync::oneshot, time::Instant};

use crate::error::Error;

/// Bounds of the limit.
const LIMIT_MIN: usize = 32;
const LIMIT_MAX: usize = 512;
/// Interval at which the limit is adapted.
const INTERVAL: Duration = Duration::from_millis(100);
/// Shortest duration in an interval above which the limit falls.
const OVERLOADED_ABOVE: Duration = Duration::from_millis(200);
/// Waiting time of the oldest waiting query at which new ones are refused.
const WAIT_MAX: Duration = Duration::from_millis(250);
/// Maximum number of waiting queries while the limit is at its maximum. More are refused.
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
    interval_start: Instant,
    /// Shortest duration of the queries that ended in this interval.
    shortest: Option<Duration>,
    /// A query has waited in this interval.
    is_reached: bool,
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
            limit: LIMIT_MAX,
            running: 0,
            waiting: VecDeque::new(),
            interval_start: Instant::now(),
            shortest: None,
            is_reached: false,
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
            state.is_reached = true;
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
        let waiting_max = if self.limit == LIMIT_MAX { WAITING_MAX } else { self.limit };
        is_late || self.waiting.len() >= waiting_max
    }

    /// Counts the duration of a query, and adapts the limit at the end of an interval.
    fn count(&mut self, duration: Duration, now: Instant) {
        let shortest = self.shortest.map_or(duration, |shortest| shortest.min(duration));
        self.shortest = Some(shortest);
        if now - self.interval_start < INTERVAL {
            return;
        }
        if shortest > OVERLOADED_ABOVE {
            self.limit = (self.limit - self.limit / 4).max(LIMIT_MIN);
        } else if self.is_reached {
            self.limit = (self.limit + self.limit / 8).min(LIMIT_MAX);
        }
        self.interval_start = now;
        self.shortest = None;
        self.is_reached = false;
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

    #[tokio::test(start_paused = true)]
    async fn an_overloaded_system_answers_what_it_can_and_refuses_the_rest_at_once() {
        let limit = ConcurrencyLimit::default();
        // The first seconds adapt the limit.
        load(&limit, 1_600, 3).await;
        let outcomes = load(&limit, 1_600, 10).await;
        let answered = outcomes.iter().flatten().count();
        assert!((3_600..4_500).contains(&answered), "400 a second for 10 s: {answered}");
        let refused_after = outcomes.iter().filter_map(|outcome| outcome.err()).max();
        assert!(refused_after.expect("3 of 4 are refused") <= 1, "{refused_after:?} ms");
        let slowest = outcomes.iter().flatten().max().expect("some are answered");
        assert!(*slowest <= 1_000, "{slowest} ms");
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
        for _ in 0..LIMIT_MAX + WAITING_MAX {
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
        for _ in 0..LIMIT_MAX {
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
