//! Newest counter version that this gateway has shown to each user, pushed or in an answer. A later
//! query returns at least this version, so that a refetch after a push is never older than the push.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use proto::UserId;

use crate::version::Version;

/// Users in each of the two generations. A user is forgotten after this many others were shown a
/// version. At some 50 bytes an entry, both generations together stay below 10 MB.
const GENERATION_MAX: usize = 50_000;

/// The newest versions shown. Cheap to clone; clones share their state.
#[derive(Clone, Debug, Default)]
pub struct SeenVersions(Arc<Mutex<Generations>>);

/// A bounded map that evicts the least recently raised users, a generation at a time.
#[derive(Debug, Default)]
struct Generations {
    young: HashMap<UserId, Version>,
    old: HashMap<UserId, Version>,
}

impl SeenVersions {
    /// Returns the newest version that a user was shown, `None` if none is remembered.
    pub fn get(&self, user: UserId) -> Option<Version> {
        self.0.lock().get(user)
    }

    /// Records that a user was shown a version. A version older than the recorded one changes nothing.
    pub fn raise(&self, user: UserId, version: Version) {
        let mut generations = self.0.lock();
        let newest = generations.get(user).map_or(version, |before| before.max(version));
        if generations.young.len() >= GENERATION_MAX && !generations.young.contains_key(&user) {
            generations.old = std::mem::take(&mut generations.young);
        }
        generations.young.insert(user, newest);
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
    fn a_seen_version_only_rises() {
        let seen_versions = SeenVersions::default();
        let user = UserId::now();
        assert_eq!(seen_versions.get(user), None);
        seen_versions.raise(user, Version::new(1, 5));
        seen_versions.raise(user, Version::new(1, 3));
        assert_eq!(seen_versions.get(user), Some(Version::new(1, 5)));
        seen_versions.raise(user, Version::new(2, 0));
        assert_eq!(seen_versions.get(user), Some(Version::new(2, 0)));
        assert_eq!(seen_versions.get(UserId::now()), None);
    }

    #[test]
    fn the_map_is_bounded_and_keeps_the_most_recent_users() {
        let seen_versions = SeenVersions::default();
        let first = UserId::now();
        seen_versions.raise(first, Version::new(1, 1));
        let users: Vec<_> = (0..2 * GENERATION_MAX).map(|_| UserId::now()).collect();
        for user in &users {
            seen_versions.raise(*user, Version::new(1, 2));
        }
        assert_eq!(seen_versions.get(first), None);
        assert_eq!(seen_versions.get(users[users.len() - 1]), Some(Version::new(1, 2)));
        let generations = seen_versions.0.lock();
        assert!(generations.young.len() + generations.old.len() <= 2 * GENERATION_MAX);
    }
}
