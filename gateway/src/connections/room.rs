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

/// Waiting time of an operation in the queue above which the room is overloaded.
pub const OVERLOADED_ABOVE: Duration = Duration::from_millis(250);

/// Number of operations in the queue up to which the room is not overloaded, however slow they are: a client
/// that sends some slow queries at the same time is not refused for it.
pub const FEW: usize = 4;

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
    /// Time of the last admission since the queue was empty.
    admitted_at: Option<Instant>,
    /// Mean time between two admissions since then. Older ones weigh less and less.
    interval: Option<Duration>,
}

impl Queue {
    /// Returns true if more than a few operations wait, and a new one would wait for too long.
    fn is_overloaded(&self) -> bool {
        self.places.len() >= FEW && self.expected_wait() > OVERLOADED_ABOVE
    }

    /// Returns how long a new operation will wait, judged by those before it: at least as long as the oldest
    /// has waited already, and as long as it takes to admit all of them.
    fn expected_wait(&self) -> Duration {
        let waited = self.places.first().map_or(Duration::ZERO, |(since, _)| since.elapsed());
        let ahead = u32::try_from(self.places.len()).unwrap_or(u32::MAX);
        let to_admit = self.interval.map_or(Duration::ZERO, |interval| interval.saturating_mul(ahead));
        waited.max(to_admit)
    }

    fn count_admission(&mut self) {
        let now = Instant::now();
        if let Some(former) = self.admitted_at.replace(now) {
            let interval = now - former;
            self.interval = Some(self.interval.map_or(interval, |mean| (mean * 7 + interval) / 8));
        }
    }

    fn remove(&mut self, place: &(Instant, u64)) {
        self.places.remove(place);
        if self.places.is_empty() {
            self.admitted_at = None;
            self.interval = None;
        }
    }
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
        let place = Place::new(&self.waiting);
        let units = u32::try_from(units).expect("a reservation is at most the budget of a client");
        let permit =
            self.free.clone().acquire_many_owned(units).await.expect("the semaphore is never closed");
        place.queue.lock().count_admission();
        permit
    }

    /// Takes units if they are free.
    pub fn try_acquire(&self, units: usize) -> Option<OwnedSemaphorePermit> {
        self.free.clone().try_acquire_many_owned(u32::try_from(units).ok()?).ok()
    }

    /// Returns true if this many units are not free, [`FEW`] operations wait already, and a new one would
    /// wait for longer than [`OVERLOADED_ABOVE`].
    pub fn is_overloaded(&self, units: usize) -> bool {
        self.free.available_permits() < units && self.waiting.lock().is_overloaded()
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
        self.queue.lock().remove(&self.place);
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
        let mut others: Vec<_> = (0..FEW).map(|_| Box::pin(room.acquire(1))).collect();
        for other in &mut others {
            assert!(other.as_mut().now_or_never().is_none(), "first come, first served");
        }
        assert!(!room.is_overloaded(1));
        advance(Duration::from_millis(1)).await;
        assert!(room.is_overloaded(1));
        drop(oldest);
        assert!(!room.is_overloaded(1), "the others began to wait later");
        drop(held);
        for other in others {
            drop(other.await);
        }
        assert_eq!((room.has_waiting(), room.taken_bytes()), (false, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_few_slow_operations_at_the_same_time_are_not_an_overload() {
        let room = Arc::new(Room::new(UNIT_BYTES));
        let client = async |room: Arc<Room>| {
            for _ in 0..20 {
                assert!(!room.is_overloaded(1));
                let permit = room.acquire(1).await;
                tokio::time::sleep(Duration::from_millis(400)).await;
                drop(permit);
            }
        };
        let clients: tokio::task::JoinSet<()> = (0..FEW).map(|_| client(room.clone())).collect();
        clients.join_all().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_room_is_overloaded_as_soon_as_its_queue_takes_too_long_to_admit() {
        let room = Arc::new(Room::new(UNIT_BYTES));
        let operation = async |room: Arc<Room>| {
            let permit = room.acquire(1).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
            drop(permit);
        };
        let mut operations = tokio::task::JoinSet::new();
        let mut refused = 0;
        // 500 a second, of which the room admits 50.
        for _ in 0..1_000 {
            if room.is_overloaded(1) {
                refused += 1;
            } else {
                operations.spawn(operation(room.clone()));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
            let waiting = room.waiting.lock().places.len();
            assert!(waiting <= 30, "{waiting} operations wait for more than 600 ms");
        }
        assert!((850..=900).contains(&refused), "{refused}");
        operations.join_all().await;
        assert!(!room.is_overloaded(1));
        assert_eq!(room.waiting.lock().interval, None, "the next queue has another pace");
    }
}
