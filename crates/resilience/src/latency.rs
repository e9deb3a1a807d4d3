//! Recent latency of a method: one time window is filled while the 95th percentile of the previous one
//! is in use.

use std::time::Duration;

use tokio::time::Instant;

/// Maximum length of a window.
pub const WINDOW: Duration = Duration::from_secs(10);
/// Number of answers that end a window early. It also limits the memory of a window, to 16 kB.
const ANSWERS_MAX: usize = 1_000;
/// Minimum number of answers for a percentile: with 20, the 95th percentile is the slowest one.
const ANSWERS_MIN: usize = 20;
/// Lower limit of the percentile. Tokio's timer has a resolution of 1 ms, and a hedge within it gains
/// nothing.
const P95_MIN: Duration = Duration::from_millis(2);

/// Window that is being filled, and the percentile of the previous one.
#[derive(Debug, Default)]
pub(crate) struct LatencyWindow {
    started: Option<Instant>,
    latencies: Vec<Duration>,
    p95: Option<Duration>,
}

impl LatencyWindow {
    /// Returns the 95th percentile of the previous window; `None` if it held too few answers.
    pub(crate) fn p95(&mut self, now: Instant) -> Option<Duration> {
        let started = *self.started.get_or_insert(now);
        let age = now.saturating_duration_since(started);
        if age >= WINDOW || self.latencies.len() >= ANSWERS_MAX {
            // Latencies from before a long idle time do not describe the present.
            self.p95 = if age < 2 * WINDOW { percentile_95(&mut self.latencies) } else { None };
            self.latencies.clear();
            self.started = Some(now);
        }
        self.p95
    }

    /// Adds the latency of an answer. A full window drops it.
    pub(crate) fn record(&mut self, latency: Duration) {
        if self.latencies.len() < ANSWERS_MAX {
            self.latencies.push(latency);
        }
    }
}

fn percentile_95(latencies: &mut [Duration]) -> Option<Duration> {
    if latencies.len() < ANSWERS_MIN {
        return None;
    }
    let index = latencies.len() * 95 / 100;
    let (_, p95, _) = latencies.select_nth_unstable(index);
    Some((*p95).max(P95_MIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Returns a window of answers that took 1 ms, 2 ms and so on, and its start.
    fn filled(answers: u32) -> (LatencyWindow, Instant) {
        let mut window = LatencyWindow::default();
        let now = Instant::now();
        assert_eq!(window.p95(now), None);
        (1..=answers).for_each(|number| window.record(number * MS));
        (window, now)
    }

    #[test]
    fn the_percentile_is_that_of_the_previous_window() {
        let (mut window, now) = filled(100);
        assert_eq!(window.p95(now + WINDOW - MS), None, "the first window has not ended");
        assert_eq!(window.p95(now + WINDOW), Some(96 * MS));
        (0..50).for_each(|_| window.record(7 * MS));
        assert_eq!(window.p95(now + 2 * WINDOW - MS), Some(96 * MS));
        assert_eq!(window.p95(now + 2 * WINDOW), Some(7 * MS));
    }

    #[test]
    fn a_full_window_ends_early_and_drops_further_answers() {
        let (mut window, now) = filled(3_000);
        assert_eq!(window.latencies.len(), ANSWERS_MAX);
        assert_eq!(window.p95(now + MS), Some(951 * MS));
        assert!(window.latencies.is_empty());
    }

    #[test]
    fn too_few_and_too_old_answers_give_no_percentile() {
        let (mut window, now) = filled(ANSWERS_MIN as u32 - 1);
        assert_eq!(window.p95(now + WINDOW), None);
        let (mut window, now) = filled(ANSWERS_MIN as u32);
        assert_eq!(window.p95(now + WINDOW), Some(20 * MS));
        let (mut window, now) = filled(100);
        assert_eq!(window.p95(now + 2 * WINDOW), None);
    }

    #[test]
    fn the_percentile_is_at_least_two_milliseconds() {
        let (mut window, now) = filled(0);
        (0..100).for_each(|_| window.record(Duration::from_micros(30)));
        assert_eq!(window.p95(now + WINDOW), Some(P95_MIN));
    }
}
