//! The newest version of each person's counters that this gateway has shown: pushed to a socket, or answered. What is read
//! afterwards is never older, so that a query that follows a push agrees with it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use proto::UserId;

use crate::version::Version;

/// How many people each of the two generations holds; who has seen nothing for that many others is forgotten.
const GENERATION_MAX: usize = 50_000;

/// The newest versions shown. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub struct Floor(Arc<Mutex<Generations>>);

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<UserId, Version>,
    old: HashMap<UserId, Version>,
}

impl Floor {
    /// The newest version that this person has been shown, where it is still known.
    pub fn get(&self, user: UserId) -> Option<Version> {
        self.generations().get(user)
    }

    /// This version has been shown to this person. An older one than before changes nothing.
    pub fn raise(&self, user: UserId, version: Version) {
        let mut generations = self.generations();
        let newest = generations.get(user).map_or(version, |before| before.max(version));
        if generations.young.len() >= GENERATION_MAX && !generations.young.contains_key(&user) {
            generations.old = std::mem::take(&mut generations.young);
        }
        generations.young.insert(user, newest);
    }

    fn generations(&self) -> MutexGuard<'_, Generations> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Generations {
    fn get(&self, user: UserId) -> Option<Version> {
        self.young.get(&user).or_else(|| self.old.get(&user)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_floor_only_rises() {
        let (floor, user) = (Floor::default(), UserId::now());
        assert_eq!(floor.get(user), None);
        floor.raise(user, Version::new(1, 5));
        floor.raise(user, Version::new(1, 3));
        assert_eq!(floor.get(user), Some(Version::new(1, 5)));
        floor.raise(user, Version::new(2, 0));
        assert_eq!(floor.get(user), Some(Version::new(2, 0)));
        assert_eq!(floor.get(UserId::now()), None);
    }

    #[test]
    fn the_map_is_bounded_and_keeps_who_came_last() {
        let (floor, first) = (Floor::default(), UserId::now());
        floor.raise(first, Version::new(1, 1));
        let users: Vec<_> = (0..2 * GENERATION_MAX).map(|_| UserId::now()).collect();
        for user in &users {
            floor.raise(*user, Version::new(1, 2));
        }
        assert_eq!(floor.get(first), None);
        assert_eq!(floor.get(users[users.len() - 1]), Some(Version::new(1, 2)));
        let generations = floor.generations();
        assert!(generations.young.len() + generations.old.len() <= 2 * GENERATION_MAX);
    }
}
