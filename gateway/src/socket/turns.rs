//! Moments of a window, one for each who asks, spread more evenly than chance does: each is a golden section further than the
//! one before, so that no part of the window has more than its share, however many ask.

use std::sync::atomic::{AtomicU32, Ordering};

/// 2^32 divided by the golden ratio.
const STEP: u32 = 0x9E37_79B9;

/// The moments of one window. It begins anywhere, so that two processes do not go in step.
#[derive(Debug)]
pub struct Turns(AtomicU32);

impl Turns {
    /// From a random place.
    pub fn new() -> Self {
        Self(AtomicU32::new(getrandom::u32().unwrap_or_default()))
    }

    /// The next moment, as a part of the window: from 0 to 1.
    pub fn next(&self) -> f64 {
        f64::from(self.0.fetch_add(STEP, Ordering::Relaxed)) / f64::from(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_the_window_has_its_share_and_hardly_more() {
        for count in [10, 500, 2_000] {
            let turns = Turns::new();
            let mut moments: Vec<f64> = (0..count).map(|_| turns.next()).collect();
            moments.sort_by(f64::total_cmp);
            assert!(moments.iter().all(|moment| (0.0..=1.0).contains(moment)));
            let busiest = moments
                .iter()
                .map(|begun| moments.iter().filter(|it| (0.0..0.1).contains(&(**it - begun))).count());
            let busiest = busiest.max().expect("some");
            assert!(busiest <= count / 10 + 2, "{busiest} of {count} in a tenth of the window");
        }
    }
}
