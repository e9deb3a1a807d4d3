//! Limits in one process, in bounded memory: two generations of keys. What was not used while the younger one filled up, or
//! long enough to be paid for, goes with the older one.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::Want;

/// Keys of a generation: 200 bytes each are 13 MB for both.
const GENERATION_MAX: usize = 32_768;

#[derive(Debug, Default)]
pub(crate) struct Local(Mutex<Generations>);

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<String, Duration>,
    old: HashMap<String, Duration>,
    /// When everything that is in the old generation is paid for.
    old_until: Duration,
    /// The same of the young one.
    young_until: Duration,
}

impl Local {
    /// As [`crate::Limiter::take`], at this time.
    pub(crate) fn take(&self, wants: &[Want], now: Duration) -> Result<(), Duration> {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        keys.turn(now);
        let taken = wants.iter().map(|want| want.rate.take(keys.due(&want.key), now));
        let taken: Vec<Result<Duration, Duration>> = taken.collect();
        if let Some(wait) = taken.iter().filter_map(|taken| taken.as_ref().err()).max() {
            return Err(*wait);
        }
        for (want, due) in wants.iter().zip(taken.into_iter().flatten()) {
            keys.set(&want.key, due);
        }
        Ok(())
    }
}

impl Generations {
    fn due(&self, key: &str) -> Duration {
        self.young.get(key).or_else(|| self.old.get(key)).copied().unwrap_or_default()
    }

    fn set(&mut self, key: &str, due: Duration) {
        self.young_until = self.young_until.max(due);
        match self.young.get_mut(key) {
            Some(known) => *known = due,
            None => _ = self.young.insert(key.to_owned(), due),
        }
    }

    /// Lets the young generation grow old where it is full, or where nothing in the old one is owed any more.
    fn turn(&mut self, now: Duration) {
        let full = self.young.len() >= GENERATION_MAX;
        let paid = self.old_until <= now && !(self.young.is_empty() && self.old.is_empty());
        if full || paid {
            self.old = std::mem::take(&mut self.young);
            (self.old_until, self.young_until) = (self.young_until, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rate;

    fn want(key: impl ToString, rate: Rate) -> Want {
        Want { key: key.to_string(), rate }
    }

    fn size(local: &Local) -> usize {
        let keys = local.0.lock().expect("not poisoned");
        keys.young.len() + keys.old.len()
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn keys_are_counted_apart_and_all_or_nothing_is_taken() {
        let (local, rate, wide) = (Local::default(), Rate::new(2, SECOND, 2), Rate::new(10, SECOND, 10));
        for _ in 0..2 {
            assert_eq!(local.take(&[want("a", rate), want("b", wide)], SECOND), Ok(()));
        }
        for _ in 0..20 {
            assert_eq!(local.take(&[want("a", rate), want("b", wide)], SECOND), Err(SECOND / 2));
        }
        for _ in 0..8 {
            assert_eq!(local.take(&[want("b", wide)], SECOND), Ok(()), "the refused ones took nothing");
        }
        assert_eq!(local.take(&[want("b", wide)], SECOND), Err(SECOND / 10));
        assert_eq!(local.take(&[want("c", rate)], SECOND), Ok(()));
    }

    #[test]
    fn keys_are_bounded_and_those_that_owe_nothing_are_forgotten() {
        let (local, rate) = (Local::default(), Rate::new(1, SECOND, 1));
        for number in 0..3 * GENERATION_MAX {
            assert_eq!(local.take(&[want(number, rate)], SECOND), Ok(()));
        }
        assert!(size(&local) <= 2 * GENERATION_MAX, "{}", size(&local));
        assert_eq!(
            local.take(&[want(3 * GENERATION_MAX - 1, rate)], SECOND),
            Err(SECOND),
            "the last ones are known"
        );
        assert_eq!(local.take(&[want("x", rate)], 10 * SECOND), Ok(()));
        assert_eq!(local.take(&[want("x", rate)], 10 * SECOND), Err(SECOND));
        assert_eq!(local.take(&[want("y", rate)], 20 * SECOND), Ok(()));
        assert_eq!(local.take(&[want("y", rate)], 30 * SECOND), Ok(()));
        assert!(size(&local) <= 3, "{}", size(&local));
    }

    #[test]
    fn a_key_that_owes_is_not_forgotten_when_generations_turn() {
        let (local, slow, quick) = (Local::default(), Rate::new(1, 60 * SECOND, 1), Rate::new(10, SECOND, 1));
        assert_eq!(local.take(&[want("slow", slow)], SECOND), Ok(()));
        for second in 2..60 {
            assert_eq!(local.take(&[want("quick", quick)], second * SECOND), Ok(()));
            assert!(local.take(&[want("slow", slow)], second * SECOND).is_err(), "{second}");
        }
        assert_eq!(local.take(&[want("slow", slow)], 61 * SECOND), Ok(()));
    }
}
