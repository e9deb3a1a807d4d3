//! Drain schedule: spreads closes evenly over the drain window with a golden-ratio sequence.
//!
//! Each close is placed one golden section (modulo the window) after the one before. No part of the
//! window gets more than its share, however many connections there are, so the other gateways receive
//! the reconnecting clients at an even rate. Random times would cluster.

use std::sync::atomic::{AtomicU32, Ordering};

/// 2^32 divided by the golden ratio: the step of the sequence, as a fraction of the window in 32 bits.
const STEP: u32 = 0x9E37_79B9;

/// The sequence of one drain window. It starts at a random offset, so that two gateways that stop
/// together do not close in step.
#[derive(Debug)]
pub struct DrainSchedule(AtomicU32);

impl DrainSchedule {
    /// Creates a schedule with a random offset.
    pub fn new() -> Self {
        Self(AtomicU32::new(getrandom::u32().unwrap_or_default()))
    }

    /// Returns the next point of the window, as a fraction from 0 to 1.
    pub fn next(&self) -> f64 {
        f64::from(self.0.fetch_add(STEP, Ordering::Relaxed)) / f64::from(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tenth_of_the_window_gets_a_tenth_of_the_closes() {
        for count in [10, 500, 2_000] {
            let schedule = DrainSchedule::new();
            let mut points: Vec<f64> = (0..count).map(|_| schedule.next()).collect();
            points.sort_by(f64::total_cmp);
            assert!(points.iter().all(|point| (0.0..=1.0).contains(point)));
            let closes_after =
                |start: &f64| points.iter().filter(|it| (0.0..0.1).contains(&(**it - start))).count();
            let busiest = points.iter().map(closes_after).max().expect("points");
            assert!(busiest <= count / 10 + 2, "{busiest} of {count} in a tenth of the window");
        }
    }
}
