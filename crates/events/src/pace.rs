//! Pace of batches. A batch costs about the same for one record as for many. As long as records arrive soon
//! after they were written, there is CPU to spare, and each batch starts at once. When they arrive late, all
//! processes wait for each other, and the next batch waits until some time after the start of the former one
//! and gathers what arrives until then: fewer batches leave more CPU to every process.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// Age of a record at which it is late. A record takes a few milliseconds from its transaction to a batch.
const LATE_ABOVE: Duration = Duration::from_millis(20);
/// Minimum time between the starts of two batches while records are late.
const INTERVAL: Duration = Duration::from_millis(10);

/// Time before which no batch should start; `None` if one may start at once.
#[derive(Debug, Default)]
pub(crate) struct Pace(Option<Instant>);

impl Pace {
    /// Notes that a batch starts now. `oldest_us` is the time at which its oldest record was written, by the
    /// clock of the database in microseconds since the Unix epoch: while the clocks differ, batches wait
    /// without need, or do not wait.
    pub(crate) fn start(&mut self, oldest_us: Option<i64>) {
        let is_late = oldest_us.is_some_and(|oldest_us| age(oldest_us) > LATE_ABOVE);
        self.0 = is_late.then(|| Instant::now() + INTERVAL);
    }

    /// Returns the time before which no batch should start; `None` if one may start at once.
    pub(crate) fn next_start(&self) -> Option<Instant> {
        self.0
    }

    /// Waits until the next batch may start.
    pub(crate) async fn wait(&self) {
        if let Some(at) = self.0 {
            tokio::time::sleep_until(at).await;
        }
    }
}

/// Returns the time since then, zero if it is in the future.
pub(crate) fn age(at_us: i64) -> Duration {
    let now_us = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    let now_us = i64::try_from(now_us).unwrap_or(i64::MAX);
    Duration::from_micros(u64::try_from(now_us.saturating_sub(at_us)).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the time at which a record was written that has this age.
    fn written(ago: Duration) -> Option<i64> {
        let now_us = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_micros();
        i64::try_from(now_us - ago.as_micros()).ok()
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_batch_waits_only_while_records_are_late() {
        let begin = Instant::now();
        let mut pace = Pace::default();
        pace.wait().await;
        assert_eq!(begin.elapsed(), Duration::ZERO, "the first one");
        pace.start(written(Duration::from_millis(2)));
        pace.wait().await;
        assert_eq!(begin.elapsed(), Duration::ZERO, "in time");
        pace.start(written(Duration::from_millis(200)));
        tokio::time::sleep(Duration::from_millis(4)).await;
        pace.wait().await;
        assert_eq!(begin.elapsed(), INTERVAL, "counted from the start of the former one");
        pace.start(written(Duration::from_millis(200)));
        tokio::time::sleep(INTERVAL * 2).await;
        pace.wait().await;
        assert_eq!(begin.elapsed(), INTERVAL * 3, "after a pause, none waits");
    }

    #[test]
    fn a_clock_that_is_ahead_makes_no_record_late() {
        assert_eq!(age(i64::MAX), Duration::ZERO);
        assert!(age(0) > LATE_ABOVE);
        assert!(age(i64::MIN) > LATE_ABOVE);
    }
}
