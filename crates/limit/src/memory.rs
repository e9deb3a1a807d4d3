//! Store of one process, in limited memory: two generations of keys. When the young generation is full, or
//! when every key of the old generation has recovered its full burst, the old generation is removed and
//! the young one becomes the old one. A key from which a charge is taken is written to the young
//! generation, so it stays.

use std::{collections::HashMap, time::Duration};

use parking_lot::Mutex;

use crate::Charge;

/// Maximum number of keys in a generation. With about 200 bytes per key, both use up to 13 MB.
const GENERATION_MAX: usize = 32_768;

#[derive(Debug, Default)]
pub(crate) struct MemoryStore(Mutex<Generations>);

/// Theoretical arrival times (TATs, see [`Rate`](crate::Rate)) by key, and the largest TAT of each
/// generation.
#[derive(Debug, Default)]
struct Generations {
    young: HashMap<String, Duration>,
    old: HashMap<String, Duration>,
    young_tat_max: Duration,
    old_tat_max: Duration,
}

impl MemoryStore {
    /// Takes the charges at `now`, as [`crate::Limiter::take`] does.
    pub(crate) fn take(&self, charges: &[Charge], now: Duration) -> Result<(), Duration> {
        let mut keys = self.0.lock();
        keys.rotate(now);
        let taken = charges.iter().map(|charge| charge.rate.take(keys.tat(&charge.key), now));
        let taken: Vec<Result<Duration, Duration>> = taken.collect();
        if let Some(wait) = taken.iter().filter_map(|taken| taken.as_ref().err()).max() {
            return Err(*wait);
        }
        for (charge, tat) in charges.iter().zip(taken.into_iter().flatten()) {
            keys.set(&charge.key, tat);
        }
        Ok(())
    }

    /// Gives back charges, as [`crate::Limiter::give_back`] does.
    pub(crate) fn give_back(&self, charges: &[Charge]) {
        let mut keys = self.0.lock();
        for Charge { key, rate } in charges {
            let tat = rate.give_back(keys.tat(key));
            keys.set(key, tat);
        }
    }
}

impl Generations {
    fn tat(&self, key: &str) -> Duration {
        self.young.get(key).or_else(|| self.old.get(key)).copied().unwrap_or_default()
    }

    fn set(&mut self, key: &str, tat: Duration) {
        self.young_tat_max = self.young_tat_max.max(tat);
        match self.young.get_mut(key) {
            Some(known) => *known = tat,
            None => _ = self.young.insert(key.to_owned(), tat),
        }
    }

    /// Removes the old generation and makes the young generation the old one, if the young generation is
    /// full, or if every TAT of the old generation has passed and removing it therefore loses nothing.
    fn rotate(&mut self, now: Duration) {
        let full = self.young.len() >= GENERATION_MAX;
        let expired = self.old_tat_max <= now && !(self.young.is_empty() && self.old.is_empty());
        if full || expired {
            self.old = std::mem::take(&mut self.young);
            self.old_tat_max = self.young_tat_max;
            self.young_tat_max = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rate;

    fn charge(key: impl ToString, rate: Rate) -> Charge {
        Charge { key: key.to_string(), rate }
    }

    fn size(store: &MemoryStore) -> usize {
        let keys = store.0.lock();
        keys.young.len() + keys.old.len()
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn charges_are_taken_together_or_not_at_all() {
        let store = MemoryStore::default();
        let rate = Rate::new(2, SECOND, 2);
        let wide = Rate::new(10, SECOND, 10);
        for _ in 0..2 {
            assert_eq!(store.take(&[charge("a", rate), charge("b", wide)], SECOND), Ok(()));
        }
        for _ in 0..20 {
            assert_eq!(store.take(&[charge("a", rate), charge("b", wide)], SECOND), Err(SECOND / 2));
        }
        for _ in 0..8 {
            assert_eq!(store.take(&[charge("b", wide)], SECOND), Ok(()), "rejected charges take nothing");
        }
        assert_eq!(store.take(&[charge("b", wide)], SECOND), Err(SECOND / 10));
        assert_eq!(store.take(&[charge("c", rate)], SECOND), Ok(()));
    }

    #[test]
    fn charges_that_are_given_back_can_be_taken_again() {
        let store = MemoryStore::default();
        let rate = Rate::new(2, 60 * SECOND, 2);
        for _ in 0..10 {
            assert_eq!(store.take(&[charge("a", rate), charge("b", rate)], SECOND), Ok(()));
            store.give_back(&[charge("a", rate)]);
            store.give_back(&[charge("b", rate)]);
        }
        assert_eq!(store.take(&[charge("a", rate)], SECOND), Ok(()));
        assert_eq!(store.take(&[charge("a", rate)], SECOND), Ok(()));
        assert!(store.take(&[charge("a", rate)], SECOND).is_err());
        store.give_back(&[charge("other", rate)]);
        assert_eq!(store.take(&[charge("other", rate)], SECOND), Ok(()), "an unused key stays full");
    }

    #[test]
    fn the_number_of_keys_is_limited_and_expired_keys_are_removed() {
        let store = MemoryStore::default();
        let rate = Rate::new(1, SECOND, 1);
        for number in 0..3 * GENERATION_MAX {
            assert_eq!(store.take(&[charge(number, rate)], SECOND), Ok(()));
        }
        assert!(size(&store) <= 2 * GENERATION_MAX, "{}", size(&store));
        assert_eq!(
            store.take(&[charge(3 * GENERATION_MAX - 1, rate)], SECOND),
            Err(SECOND),
            "the newest keys are kept"
        );
        assert_eq!(store.take(&[charge("x", rate)], 10 * SECOND), Ok(()));
        assert_eq!(store.take(&[charge("x", rate)], 10 * SECOND), Err(SECOND));
        assert_eq!(store.take(&[charge("y", rate)], 20 * SECOND), Ok(()));
        assert_eq!(store.take(&[charge("y", rate)], 30 * SECOND), Ok(()));
        assert!(size(&store) <= 3, "{}", size(&store));
    }

    #[test]
    fn a_key_in_use_survives_the_rotation_of_generations() {
        let store = MemoryStore::default();
        let slow = Rate::new(1, 60 * SECOND, 1);
        let quick = Rate::new(10, SECOND, 1);
        assert_eq!(store.take(&[charge("slow", slow)], SECOND), Ok(()));
        for second in 2..60 {
            assert_eq!(store.take(&[charge("quick", quick)], second * SECOND), Ok(()));
            assert!(store.take(&[charge("slow", slow)], second * SECOND).is_err(), "{second}");
        }
        assert_eq!(store.take(&[charge("slow", slow)], 61 * SECOND), Ok(()));
    }
}
