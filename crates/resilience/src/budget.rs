//! How many calls may be made again: a share of those that are made anyway, so that a service that is ill is not drowned
//! in repetitions. A bucket: every call puts its share in, every repetition takes a whole one out. It begins full, and
//! what it holds is bounded, so that quiet hours do not pay for a storm.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

/// A repetition, in the units of the bucket.
const WHOLE: u32 = 100;
/// So many repetitions can be saved up.
pub const SAVED_MAX: u32 = 10;

/// A budget. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Budget {
    percent: u32,
    saved: Arc<AtomicU32>,
}

impl Budget {
    /// For so many repetitions a hundred calls, and [`SAVED_MAX`] to begin with.
    pub fn of_percent(percent: u32) -> Self {
        Self { percent, saved: Arc::new(AtomicU32::new(SAVED_MAX * WHOLE)) }
    }

    /// A call is made.
    pub fn deposit(&self) {
        let more = |saved: u32| Some((saved + self.percent).min(SAVED_MAX * WHOLE));
        let _ = self.saved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }

    /// Takes one repetition out. False where there is none.
    pub fn withdraw(&self) -> bool {
        let less = |saved: u32| saved.checked_sub(WHOLE);
        self.saved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetitions_are_a_share_of_the_calls() {
        for (percent, calls, allowed) in
            [(10, 0, 10), (10, 1_000, 110), (5, 1_000, 60), (10, 9, 10), (0, 1_000, 10)]
        {
            let budget = Budget::of_percent(percent);
            let mut taken = (0..=SAVED_MAX).filter(|_| budget.withdraw()).count();
            for _ in 0..calls {
                budget.deposit();
                taken += usize::from(budget.withdraw());
            }
            assert_eq!(taken, allowed, "{percent} % of {calls}");
        }
    }

    #[test]
    fn quiet_hours_do_not_pay_for_a_storm() {
        let budget = Budget::of_percent(10);
        (0..100_000).for_each(|_| budget.deposit());
        assert_eq!((0..1_000).filter(|_| budget.withdraw()).count(), SAVED_MAX as usize);
    }
}
