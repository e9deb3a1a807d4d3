//! How many sockets a person has at this gateway, and how many there are of nobody yet: each takes a seat, and gives it
//! back when it is gone.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use proto::UserId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The seats of everyone. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Seats(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    each_max: usize,
    anonymous: Arc<Semaphore>,
    taken: Mutex<HashMap<UserId, usize>>,
}

impl Seats {
    /// So many for each person, and so many for all of whom nobody knows yet who they are.
    pub fn new(each_max: usize, anonymous_max: usize) -> Self {
        let anonymous = Arc::new(Semaphore::new(anonymous_max));
        Self(Arc::new(Shared { each_max, anonymous, taken: Mutex::default() }))
    }

    /// A seat for somebody unknown, where one is free; it is free again when dropped.
    pub fn take_anonymous(&self) -> Option<OwnedSemaphorePermit> {
        self.0.anonymous.clone().try_acquire_owned().ok()
    }

    /// A seat for a person, where one is free.
    pub fn take(&self, user: UserId) -> Option<Seat> {
        let mut taken = self.taken();
        if taken.get(&user).is_some_and(|taken| *taken >= self.0.each_max) {
            return None;
        }
        *taken.entry(user).or_default() += 1;
        Some(Seat { seats: self.clone(), user })
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<UserId, usize>> {
        self.0.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A seat that is taken until dropped.
#[derive(Debug)]
pub struct Seat {
    seats: Seats,
    user: UserId,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.taken();
        if let Some(count) = taken.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seat_that_is_given_back_is_free_again() {
        let (seats, user) = (Seats::new(2, 1), UserId::now());
        let first = seats.take(user).expect("free");
        let second = seats.take(user).expect("free");
        assert!(seats.take(user).is_none());
        let other = seats.take(UserId::now()).expect("everyone has seats");
        drop(first);
        let third = seats.take(user).expect("free again");
        drop((second, third, other));
        assert!(seats.taken().is_empty());
        let unknown = seats.take_anonymous().expect("free");
        assert!(seats.take_anonymous().is_none());
        drop(unknown);
        assert!(seats.take_anonymous().is_some());
    }
}
