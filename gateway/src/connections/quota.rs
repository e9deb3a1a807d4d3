//! Socket quota: limits the sockets and streams of each user at this gateway, and the sockets of
//! anonymous clients.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use proto::UserId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The quotas of a gateway. Cheap to clone; clones share their state.
#[derive(Debug, Clone)]
pub struct Quota(Arc<State>);

#[derive(Debug)]
struct State {
    per_user_max: usize,
    anonymous: Arc<Semaphore>,
    /// Open sockets and streams of each user. A user without any has no entry.
    open: Mutex<HashMap<UserId, usize>>,
}

impl Quota {
    /// Creates the quotas: the maximum for each user, and for all anonymous sockets together.
    pub fn new(per_user_max: usize, anonymous_max: usize) -> Self {
        let anonymous = Arc::new(Semaphore::new(anonymous_max));
        Self(Arc::new(State { per_user_max, anonymous, open: Mutex::default() }))
    }

    /// Takes a permit for an anonymous socket, `None` if the quota is used up. Dropping it returns it.
    pub fn take_anonymous(&self) -> Option<OwnedSemaphorePermit> {
        self.0.anonymous.clone().try_acquire_owned().ok()
    }

    /// Takes a permit for a socket or stream of a user, `None` if the user's quota is used up.
    pub fn take(&self, user: UserId) -> Option<QuotaPermit> {
        let mut open = self.0.open.lock();
        if open.get(&user).is_some_and(|count| *count >= self.0.per_user_max) {
            return None;
        }
        *open.entry(user).or_default() += 1;
        Some(QuotaPermit { quota: self.clone(), user })
    }
}

/// Permit for one socket or stream of a user. Dropping it returns it to the quota.
#[derive(Debug)]
pub struct QuotaPermit {
    quota: Quota,
    user: UserId,
}

impl Drop for QuotaPermit {
    fn drop(&mut self) {
        let mut open = self.quota.0.open.lock();
        if let Some(count) = open.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_permit_is_available_again() {
        let quota = Quota::new(2, 1);
        let user = UserId::now();
        let first = quota.take(user).expect("available");
        let second = quota.take(user).expect("available");
        assert!(quota.take(user).is_none());
        let other = quota.take(UserId::now()).expect("every user has a quota");
        drop(first);
        let third = quota.take(user).expect("available again");
        drop((second, third, other));
        assert!(quota.0.open.lock().is_empty());
        let anonymous = quota.take_anonymous().expect("available");
        assert!(quota.take_anonymous().is_none());
        drop(anonymous);
        assert!(quota.take_anonymous().is_some());
    }
}
