//! The unread of people who were asked about lately, so that reading a badge costs no query. Promise: what is held at a
//! version is what the database had at that version. The order of rows is advisory: a row that grew comes first.
//!
//! A miss leaves a stub with a ticket before the database is read, and only the fill with that ticket replaces it. An event
//! applies only to rows of the version before it; anything else makes them a stub. Events come from a tail that begins
//! where this process began: before that, and after it has ended, nothing is held.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use events::{Log, Tail};
use moka::ops::compute::Op;
use proto::{UserId, events::event::Kind, topic};
use tokio_util::sync::CancellationToken;

use crate::{
    slot::{Delta, Slot},
    unread::Unread,
};

/// Rows held, about: some 50 bytes each.
const CAPACITY: u64 = 1_000_000;
/// How long to wait where the log could not be read.
const PAUSE: std::time::Duration = std::time::Duration::from_secs(1);

/// The cache of counters. Cheap to clone.
#[derive(Debug, Clone)]
pub enum Cache {
    /// A bounded map in this process.
    Map(Map),
}

/// The place that a miss has taken for its fill.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ticket(Option<u64>);

/// A bounded map.
#[derive(Debug, Clone)]
pub struct Map {
    slots: moka::future::Cache<UserId, Slot>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Whether events come in, without which nothing may be held.
    open: AtomicBool,
    tickets: AtomicU64,
}

impl Cache {
    /// A bounded map in this process, closed until events come in.
    pub fn in_process() -> Self {
        Self::holding(CAPACITY)
    }

    /// The same with room for so many rows, about.
    fn holding(rows_max: u64) -> Self {
        let slots = moka::future::Cache::builder();
        let slots = slots.max_capacity(rows_max).weigher(|_: &UserId, slot: &Slot| slot.weight()).build();
        Self::Map(Map { slots, shared: Arc::default() })
    }

    /// Whole states of a user, where they are held.
    pub(crate) async fn get(&self, user_id: UserId) -> Option<Unread> {
        let Self::Map(map) = self;
        let unread = map.slots.get(&user_id).await.and_then(|slot| slot.unread());
        metrics::counter!("counter_cache_total", "hit" => if unread.is_some() { "yes" } else { "no" }).increment(1);
        unread
    }

    /// Takes the place of a fill. To be called before the database is read.
    pub(crate) async fn miss(&self, user_id: UserId) -> Ticket {
        let Self::Map(map) = self;
        if !map.shared.open.load(Ordering::Acquire) {
            return Ticket(None);
        }
        let ticket = map.shared.tickets.fetch_add(1, Ordering::Relaxed);
        map.change(user_id, |slot| Some(Slot::miss(slot, ticket))).await;
        Ticket(Some(ticket))
    }

    /// Puts what the database had into the place that was taken, where it still is.
    pub(crate) async fn fill(&self, user_id: UserId, ticket: Ticket, unread: &Unread) {
        let Self::Map(map) = self;
        if let Ticket(Some(ticket)) = ticket {
            map.change(user_id, |slot| slot.and_then(|slot| slot.fill(ticket, unread))).await;
        }
    }

    /// Applies the steps of users' versions as they are told, until shut down.
    pub(crate) async fn run(&self, log: &Log, shutdown: CancellationToken) {
        let Self::Map(map) = self;
        let Some(mut tail) = shutdown.run_until_cancelled(begin(log)).await else { return };
        map.shared.open.store(true, Ordering::Release);
        while let Some(records) = shutdown.run_until_cancelled(tail.next()).await {
            match records {
                Ok(records) => {
                    for record in records {
                        self.apply(&record.payload).await;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "the cache could not read the log");
                    shutdown.run_until_cancelled(tokio::time::sleep(PAUSE)).await;
                }
            }
        }
        map.shared.open.store(false, Ordering::Release);
        map.slots.invalidate_all();
    }

    async fn apply(&self, payload: &[u8]) {
        let Self::Map(map) = self;
        // Our own outbox writes nothing else to this topic; what is of a later build is for a later build's cache.
        let Some(Kind::UnreadChanged(event)) = Kind::read(payload) else { return };
        let (Ok(user_id), Ok(delta)) = (UserId::parse(&event.user_id), Delta::try_from(&event)) else { return };
        map.change(user_id, |slot| slot.and_then(|slot| slot.apply(&delta))).await;
    }
}

async fn begin(log: &Log) -> Tail {
    loop {
        match log.tail(&[topic::UNREAD]).await {
            Ok(tail) => return tail,
            Err(error) => {
                tracing::warn!(%error, "the cache could not find the end of the log");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

impl Map {
    /// Changes a slot, one change at a time; `None` leaves it as it is.
    async fn change(&self, user_id: UserId, change: impl FnOnce(Option<&Slot>) -> Option<Slot> + Send) {
        let compute = |entry: Option<moka::Entry<UserId, Slot>>| {
            let next = change(entry.as_ref().map(moka::Entry::value));
            std::future::ready(next.map_or(Op::Nop, Op::Put))
        };
        self.slots.entry(user_id).and_compute_with(compute).await;
    }
}

#[cfg(test)]
mod tests {
    use proto::{
        DialogId,
        events::{UnreadChanged, UnreadRow},
    };

    use super::*;
    use crate::unread::{Row, Version};

    fn row(dialog_id: DialogId, unread: i64) -> Row {
        Row { dialog_id, unread, read_seq: 0, last_seq: unread }
    }

    fn unread(number: i64, rows: Vec<Row>) -> Unread {
        let total = rows.iter().map(|row| row.unread).sum();
        Unread { version: Version { epoch: 1, number }, total, rows, truncated: false }
    }

    fn event(user_id: UserId, version: i64, dialog_id: DialogId, was: i64, unread: i64) -> Vec<u8> {
        let row = UnreadRow { dialog_id: dialog_id.bytes(), unread, was, read_seq: 0, last_seq: unread };
        let change =
            UnreadChanged { user_id: user_id.bytes(), epoch: 1, version, previous: version - 1, rows: vec![row] };
        Kind::UnreadChanged(change).payload()
    }

    async fn open() -> Cache {
        let cache = Cache::in_process();
        let Cache::Map(map) = &cache;
        map.shared.open.store(true, Ordering::Release);
        cache
    }

    #[tokio::test]
    async fn events_keep_what_was_filled_up_to_date() {
        let (cache, user_id, dialog_id) = (open().await, UserId::now(), DialogId::now());
        assert_eq!(cache.get(user_id).await, None);
        let ticket = cache.miss(user_id).await;
        assert_eq!(cache.get(user_id).await, None, "a stub is no answer");
        cache.fill(user_id, ticket, &unread(3, vec![row(dialog_id, 1)])).await;
        cache.apply(&event(user_id, 4, dialog_id, 1, 2)).await;
        assert_eq!(cache.get(user_id).await, Some(unread(4, vec![row(dialog_id, 2)])));
        cache.apply(&event(user_id, 4, dialog_id, 1, 2)).await;
        assert_eq!(cache.get(user_id).await, Some(unread(4, vec![row(dialog_id, 2)])), "a repeated event is ignored");
        cache.apply(&event(user_id, 5, dialog_id, 2, 0)).await;
        assert_eq!(cache.get(user_id).await, Some(unread(5, vec![])));
        cache.apply(&event(user_id, 7, dialog_id, 0, 1)).await;
        assert_eq!(cache.get(user_id).await, None, "after a gap nobody knows");
    }

    #[tokio::test]
    async fn a_fill_that_comes_late_changes_nothing() {
        let (cache, user_id, dialog_id) = (open().await, UserId::now(), DialogId::now());
        let (early, late) = (cache.miss(user_id).await, cache.miss(user_id).await);
        cache.fill(user_id, early, &unread(1, vec![row(dialog_id, 1)])).await;
        assert_eq!(cache.get(user_id).await, None, "its place was taken by another");
        cache.apply(&event(user_id, 3, dialog_id, 1, 2)).await;
        cache.fill(user_id, late, &unread(2, vec![row(dialog_id, 1)])).await;
        assert_eq!(cache.get(user_id).await, None, "an event has told of a newer version");
    }

    #[tokio::test]
    async fn what_is_held_is_bounded_by_rows() {
        let cache = Cache::holding(1_000);
        let Cache::Map(map) = &cache;
        map.shared.open.store(true, Ordering::Release);
        for number in 1..=60 {
            let (user_id, rows) = (UserId::now(), (0..99).map(|_| row(DialogId::now(), number)).collect());
            let ticket = cache.miss(user_id).await;
            cache.fill(user_id, ticket, &unread(number, rows)).await;
            map.slots.run_pending_tasks().await;
            assert!(map.slots.weighted_size() <= 1_000, "{}", map.slots.weighted_size());
        }
        assert!(map.slots.entry_count() > 0, "there is room for some");
    }

    #[tokio::test]
    async fn nothing_is_held_before_events_come_in() {
        let (cache, user_id) = (Cache::in_process(), UserId::now());
        let ticket = cache.miss(user_id).await;
        cache.fill(user_id, ticket, &unread(1, vec![])).await;
        assert_eq!(cache.get(user_id).await, None);
    }
}
