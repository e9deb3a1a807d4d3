//! Room for a number of bytes that operations share. One that finds too little waits in a queue, first
//! come, first served.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

/// Size of one permit. A semaphore counts permits in 32 bits, so bytes would limit the room to 4 GB.
pub const UNIT_BYTES: usize = 1024;
/// Waiting time of the oldest operation in the queue above which the room is overloaded.
pub const OVERLOADED_ABOVE: Duration = Duration::from_millis(250);

/// Converts bytes to permits, at least one.
pub fn units(bytes: usize) -> usize {
    bytes.div_ceil(UNIT_BYTES).max(1)
}

/// Room of a fixed size.
#[derive(Debug)]
pub struct Room {
    units: usize,
    free: Arc<Semaphore>,
    waiting: Mutex<Queue>,
}

/// Operations that wait.
#[derive(Debug, Default)]
struct Queue {
    /// Start of each wait, with a number that tells those of one instant apart.
    places: BTreeSet<(Instant, u64)>,
    number: u64,
}

impl Room {
    /// Creates an empty room for this many bytes.
    pub fn new(bytes: usize) -> Self {
        let units = units(bytes);
        Self { units, free: Arc::new(Semaphore::new(units)), waiting: Mutex::default() }
    }

    /// Waits until this many units are free and takes them. More than the size of the room are never free.
    pub async fn acquire(&self, units: usize) -> OwnedSemaphorePermit {
        if let Some(permit) = self.try_acquire(units) {
            return permit;
        }
        let _place = Place::new(&self.waiting);
        let units = u32::try_from(units).expect("a reservation is at most the budget of a client");
        self.free.clone().acquire_many_owned(units).await.expect("the semaphore is never closed")
    }

    /// Takes units if they are free.
    pub fn try_acquire(&self, units: usize) -> Option<OwnedSemaphorePermit> {
        self.free.clone().try_acquire_many_owned(u32::try_from(units).ok()?).ok()
    }

    /// Returns true if this many units are not free and the oldest operation in the queue has waited for
    /// longer than [`OVERLOADED_ABOVE`].
    pub fn is_overloaded(&self, units: usize) -> bool {
        let is_late = |(since, _): &(Instant, u64)| since.elapsed() > OVERLOADED_ABOVE;
        self.free.available_permits() < units && self.waiting.lock().places.first().is_some_and(is_late)
    }

    /// Returns true while an operation waits.
    pub fn has_waiting(&self) -> bool {
        !self.waiting.lock().places.is_empty()
    }

    /// Returns the bytes that are taken.
    pub fn taken_bytes(&self) -> usize {
        (self.units - self.free.available_permits()) * UNIT_BYTES
    }
}

/// Place of an operation in the queue until it is dropped.
struct Place<'a> {
    queue: &'a Mutex<Queue>,
    place: (Instant, u64),
}

impl<'a> Place<'a> {
    fn new(queue: &'a Mutex<Queue>) -> Self {
        let mut locked = queue.lock();
        locked.number += 1;
        let place = (Instant::now(), locked.number);
        locked.places.insert(place);
        Self { queue, place }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.queue.lock().places.remove(&self.place);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::time::{advance, timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_room_is_overloaded_while_its_oldest_operation_waits_for_too_long() {
        let room = Room::new(10 * UNIT_BYTES);
        let held = room.acquire(8).await;
        let mut oldest = Box::pin(room.acquire(3));
        assert!(timeout(OVERLOADED_ABOVE, oldest.as_mut()).await.is_err());
        let mut second = Box::pin(room.acquire(1));
        assert!(second.as_mut().now_or_never().is_none(), "first come, first served");
        assert!(!room.is_overloaded(1));
        advance(Duration::from_millis(1)).await;
        assert!(room.is_overloaded(1));
        drop(oldest);
        assert!(!room.is_overloaded(1), "the second began to wait later");
        drop(held);
        drop(second.await);
        assert_eq!((room.has_waiting(), room.taken_bytes()), (false, 0));
    }
}
