//! Pace of batches. A batch costs about the same for one record as for many, so under load the next one
//! waits until the former one began some time ago, and gathers what arrives until then. A batch that
//! follows no other starts at once.

use std::time::Duration;

use tokio::time::Instant;

/// Minimum time between the starts of two batches.
const INTERVAL: Duration = Duration::from_millis(10);

/// Start of the last batch.
#[derive(Debug, Default)]
pub(crate) struct Pace(Option<Instant>);

impl Pace {
    /// Notes that a batch starts now.
    pub(crate) fn start(&mut self) {
        self.0 = Some(Instant::now());
    }

    /// Returns the time before which no batch should start; `None` before the first one.
    pub(crate) fn next_start(&self) -> Option<Instant> {
        self.0.map(|started| started + INTERVAL)
    }

    /// Waits until the next batch may start.
    pub(crate) async fn wait(&self) {
        if let Some(at) = self.next_start() {
            tokio::time::sleep_until(at).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_a_batch_that_follows_another_one_waits() {
        let begin = Instant::now();
        let mut pace = Pace::default();
        pace.wait().await;
        assert_eq!(begin.elapsed(), Duration::ZERO, "the first one");
        pace.start();
        tokio::time::sleep(Duration::from_millis(4)).await;
        pace.wait().await;
        assert_eq!(begin.elapsed(), INTERVAL, "counted from the start of the former one");
        pace.start();
        tokio::time::sleep(INTERVAL * 2).await;
        pace.wait().await;
        assert_eq!(begin.elapsed(), INTERVAL * 3, "after a pause, none waits");
    }
}
