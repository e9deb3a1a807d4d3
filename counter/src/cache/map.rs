//! The cache of one process: a bounded map, fed by a tail of the log that begins where the process began. Before that, and
//! after it has ended, nothing is held.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use events::{Log, Next, Tail};
use moka::ops::compute::Op;
use proto::{UserId, topic};
use tokio_util::sync::CancellationToken;

use super::step;
use crate::{
    slot::{Delta, Slot},
    unread::Unread,
};

/// Rows held, about: some 50 bytes each.
const CAPACITY: u64 = 1_000_000;
/// How long to wait where the log could not be read.
const PAUSE: std::time::Duration = std::time::Duration::from_secs(1);

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

impl Map {
    pub(super) fn new() -> Self {
        Self::holding(CAPACITY)
    }

    /// With room for so many rows, about.
    fn holding(rows_max: u64) -> Self {
        let slots = moka::future::Cache::builder();
        let slots = slots.max_capacity(rows_max).weigher(|_: &UserId, slot: &Slot| slot.weight()).build();
        Self { slots, shared: Arc::default() }
    }

    pub(super) async fn get(&self, user_id: UserId) -> Option<Unread> {
        self.slots.get(&user_id).await.and_then(|slot| slot.unread())
    }

    pub(super) async fn miss(&self, user_id: UserId) -> Option<u64> {
        if !self.shared.open.load(Ordering::Acquire) {
            return None;
        }
        let ticket = self.shared.tickets.fetch_add(1, Ordering::Relaxed);
        self.change(user_id, |slot| Some(Slot::miss(slot, ticket))).await;
        Some(ticket)
    }

    pub(super) async fn fill(&self, user_id: UserId, ticket: u64, unread: &Unread) {
        self.change(user_id, |slot| slot.and_then(|slot| slot.fill(ticket, unread))).await;
    }

    async fn apply(&self, (user_id, delta): (UserId, Delta)) {
        self.change(user_id, |slot| slot.and_then(|slot| slot.apply(&delta))).await;
    }

    /// Applies the steps of users' versions as they are told, until shut down.
    pub(super) async fn run(&self, log: &Log, shutdown: CancellationToken) {
        let Some(mut tail) = shutdown.run_until_cancelled(begin(log)).await else { return };
        self.shared.open.store(true, Ordering::Release);
        while let Some(next) = shutdown.run_until_cancelled(tail.next()).await {
            match next {
                Ok(next) => self.hear(&next).await,
                Err(error) => {
                    tracing::warn!(%error, "the cache could not read the log");
                    shutdown.run_until_cancelled(tokio::time::sleep(PAUSE)).await;
                }
            }
        }
        self.shared.open.store(false, Ordering::Release);
        self.slots.invalidate_all();
    }

    /// Applies what the log tells. After a gap in it nothing that is held can be trusted: the step that would have changed
    /// a row may be among what is missing.
    async fn hear(&self, next: &Next) {
        if next.skipped {
            self.slots.invalidate_all();
        }
        for step in next.records.iter().filter_map(|record| step(&record.payload)) {
            self.apply(step).await;
        }
    }

    /// Changes a slot, one change at a time; `None` leaves it as it is.
    async fn change(&self, user_id: UserId, change: impl FnOnce(Option<&Slot>) -> Option<Slot> + Send) {
        let compute = |entry: Option<moka::Entry<UserId, Slot>>| {
            let next = change(entry.as_ref().map(moka::Entry::value));
            std::future::ready(next.map_or(Op::Nop, Op::Put))
        };
        self.slots.entry(user_id).and_compute_with(compute).await;
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

#[cfg(test)]
mod tests {
    use proto::{
        DialogId,
        events::{UnreadChanged, UnreadRow, event::Kind},
    };

    use super::*;
    use crate::{
        cache::step,
        unread::{Row, Version},
    };

    fn row(dialog_id: DialogId, unread: i64) -> Row {
        Row { dialog_id, unread, read_seq: 0, last_seq: unread }
    }

    fn unread(number: i64, rows: Vec<Row>) -> Unread {
        let total = rows.iter().map(|row| row.unread).sum();
        Unread { version: Version { epoch: 1, number }, total, rows, truncated: false }
    }

    fn event(user_id: UserId, version: i64, dialog_id: DialogId, was: i64, unread: i64) -> Vec<u8> {
        let row = UnreadRow { dialog_id: dialog_id.bytes(), unread, was, read_seq: 0, last_seq: unread };
        let change = UnreadChanged {
            user_id: user_id.bytes(),
            epoch: 1,
            version,
            previous: version - 1,
            rows: vec![row],
        };
        Kind::UnreadChanged(change).payload()
    }

    fn open() -> Map {
        let map = Map::new();
        map.shared.open.store(true, Ordering::Release);
        map
    }

    impl Map {
        async fn told(&self, payload: Vec<u8>) {
            self.apply(step(&payload).expect("a step")).await;
        }
    }

    #[tokio::test]
    async fn events_keep_what_was_filled_up_to_date() {
        let (map, user_id, dialog_id) = (open(), UserId::now(), DialogId::now());
        assert_eq!(map.get(user_id).await, None);
        let ticket = map.miss(user_id).await.expect("it is open");
        assert_eq!(map.get(user_id).await, None, "a stub is no answer");
        map.fill(user_id, ticket, &unread(3, vec![row(dialog_id, 1)])).await;
        map.told(event(user_id, 4, dialog_id, 1, 2)).await;
        assert_eq!(map.get(user_id).await, Some(unread(4, vec![row(dialog_id, 2)])));
        map.told(event(user_id, 4, dialog_id, 1, 2)).await;
        assert_eq!(
            map.get(user_id).await,
            Some(unread(4, vec![row(dialog_id, 2)])),
            "a repeated event is ignored"
        );
        map.told(event(user_id, 5, dialog_id, 2, 0)).await;
        assert_eq!(map.get(user_id).await, Some(unread(5, vec![])));
        map.told(event(user_id, 7, dialog_id, 0, 1)).await;
        assert_eq!(map.get(user_id).await, None, "after a gap nobody knows");
    }

    #[tokio::test]
    async fn a_fill_that_comes_late_changes_nothing() {
        let (map, user_id, dialog_id) = (open(), UserId::now(), DialogId::now());
        let (early, late) =
            (map.miss(user_id).await.expect("it is open"), map.miss(user_id).await.expect("it is open"));
        map.fill(user_id, early, &unread(1, vec![row(dialog_id, 1)])).await;
        assert_eq!(map.get(user_id).await, None, "its place was taken by another");
        map.told(event(user_id, 3, dialog_id, 1, 2)).await;
        map.fill(user_id, late, &unread(2, vec![row(dialog_id, 1)])).await;
        assert_eq!(map.get(user_id).await, None, "an event has told of a newer version");
    }

    #[tokio::test]
    async fn after_a_gap_in_the_log_nothing_is_held_and_no_fill_of_before_is_taken() {
        let (map, user_id, other) = (open(), UserId::now(), UserId::now());
        let ticket = map.miss(user_id).await.expect("it is open");
        map.fill(user_id, ticket, &unread(1, vec![row(DialogId::now(), 1)])).await;
        let late = map.miss(other).await.expect("it is open");
        map.hear(&Next::default()).await;
        assert!(map.get(user_id).await.is_some(), "where nothing is missing, it stays");
        map.hear(&Next { skipped: true, records: Vec::new() }).await;
        assert_eq!(map.get(user_id).await, None);
        map.fill(other, late, &unread(1, vec![])).await;
        assert_eq!(map.get(other).await, None, "it was read before the gap was known");
        let ticket = map.miss(user_id).await.expect("it is open");
        map.fill(user_id, ticket, &unread(2, vec![])).await;
        assert_eq!(map.get(user_id).await, Some(unread(2, vec![])), "what is read from now on is held");
    }

    #[tokio::test]
    async fn what_is_held_is_bounded_by_rows() {
        let map = Map::holding(1_000);
        map.shared.open.store(true, Ordering::Release);
        for number in 1..=60 {
            let (user_id, rows) = (UserId::now(), (0..99).map(|_| row(DialogId::now(), number)).collect());
            let ticket = map.miss(user_id).await.expect("it is open");
            map.fill(user_id, ticket, &unread(number, rows)).await;
            map.slots.run_pending_tasks().await;
            assert!(map.slots.weighted_size() <= 1_000, "{}", map.slots.weighted_size());
        }
        assert!(map.slots.entry_count() > 0, "there is room for some");
    }

    #[tokio::test]
    async fn nothing_is_held_before_events_come_in() {
        let (map, user_id) = (Map::new(), UserId::now());
        assert_eq!(map.miss(user_id).await, None);
        assert_eq!(map.get(user_id).await, None);
    }
}
