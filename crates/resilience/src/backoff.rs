//! Growing delay between retries. The caller sleeps; this type only computes the delays, so it needs no
//! runtime.

use std::time::Duration;

/// Exponential backoff: the first delay, then twice the previous one, up to a maximum.
///
/// It adds no jitter. A caller whose retries could synchronize with those of other callers adds its own.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    /// Creates a backoff that starts at `first` and never exceeds `max`.
    pub const fn new(first: Duration, max: Duration) -> Self {
        Self { first, max, next: first }
    }

    /// Returns the delay before the next retry and doubles the one after it.
    pub fn next_delay(&mut self) -> Duration {
        let delay = self.next.min(self.max);
        self.next = delay.saturating_mul(2);
        delay
    }

    /// Starts again at the first delay. Call it after a success.
    pub const fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delays_ms(backoff: &mut Backoff, count: usize) -> Vec<u128> {
        (0..count).map(|_| backoff.next_delay().as_millis()).collect()
    }

    #[test]
    fn delays_double_up_to_the_maximum_and_start_again_after_a_reset() {
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
        assert_eq!(delays_ms(&mut backoff, 8), [20, 40, 80, 160, 320, 640, 1_000, 1_000]);
        backoff.reset();
        assert_eq!(delays_ms(&mut backoff, 2), [20, 40]);
    }

    #[test]
    fn a_first_delay_above_the_maximum_is_cut_and_no_delay_overflows() {
        let mut backoff = Backoff::new(Duration::from_secs(2), Duration::from_secs(1));
        assert_eq!(delays_ms(&mut backoff, 2), [1_000, 1_000]);
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::MAX);
        for _ in 0..200 {
            backoff.next_delay();
        }
        assert_eq!(backoff.next_delay(), Duration::MAX);
    }
}
