//! Retry budget: limits the extra calls (retries and hedges) to a percentage of the first attempts, so that
//! they do not overload a failing service.
//!
//! It is a token bucket. Each first attempt deposits a fraction of a token; each extra call withdraws a
//! whole token. The bucket starts full and holds at most [`SAVED_MAX`] tokens, so that a long time without
//! extra calls does not permit a burst of them.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

/// Price of one extra call in units of the bucket. One unit is one percent of a call, because a deposit is
/// given in percent.
const EXTRA_CALL: u32 = 100;
/// Maximum number of extra calls in the bucket.
pub const SAVED_MAX: u32 = 10;

/// Budget of extra calls. Cheap to clone; all clones share one bucket.
#[derive(Clone, Debug)]
pub struct Budget {
    percent: u32,
    saved: Arc<AtomicU32>,
}

impl Budget {
    /// Creates a full budget that earns `percent` extra calls per 100 first attempts.
    pub fn from_percent(percent: u32) -> Self {
        Self { percent, saved: Arc::new(AtomicU32::new(SAVED_MAX * EXTRA_CALL)) }
    }

    /// Adds the deposit of one first attempt.
    pub fn deposit(&self) {
        let more = |saved: u32| Some((saved + self.percent).min(SAVED_MAX * EXTRA_CALL));
        let _ = self.saved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }

    /// Takes the price of one extra call. Returns false, and takes nothing, if the budget is exhausted.
    pub fn withdraw(&self) -> bool {
        let less = |saved: u32| saved.checked_sub(EXTRA_CALL);
        self.saved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extra_calls_are_limited_to_a_percentage_of_the_first_attempts() {
        for (percent, calls, allowed) in
            [(10, 0, 10), (10, 1_000, 110), (5, 1_000, 60), (10, 9, 10), (0, 1_000, 10)]
        {
            let budget = Budget::from_percent(percent);
            let mut taken = (0..=SAVED_MAX).filter(|_| budget.withdraw()).count();
            for _ in 0..calls {
                budget.deposit();
                taken += usize::from(budget.withdraw());
            }
            assert_eq!(taken, allowed, "{percent} % of {calls}");
        }
    }

    #[test]
    fn the_saved_budget_is_limited() {
        let budget = Budget::from_percent(10);
        (0..100_000).for_each(|_| budget.deposit());
        assert_eq!((0..1_000).filter(|_| budget.withdraw()).count(), SAVED_MAX as usize);
    }
}
