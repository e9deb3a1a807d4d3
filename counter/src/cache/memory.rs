//! Cache of one process: a bounded map that follows the log from its end with a volatile position. It is
//! empty before the process has found the end of the log, and after it has stopped following it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use events::{Log, Tail, TailBatch};
use moka::ops::compute::Op;
use proto::{UserId, topic};
use tokio_util::sync::CancellationToken;

use super::{
    entry::{Delta, Entry},
    parse_delta,
};
use crate::unread::Unread;

/// Maximum weight of all entries in rows of about 50 bytes: some 50 MB.
const ROWS_CAPACITY: u64 = 1_000_000;
/// Delay before the next attempt after the log could not be read.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Bounded map in this process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct MemoryCache {
    entries: moka::future::Cache<UserId, Entry>,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    /// True while the cache follows the log. Otherwise nothing may be filled, since no event would
    /// update it.
    open: AtomicBool,
    next_ticket: AtomicU64,
}

impl MemoryCache {
    pub(super) fn new() -> Self {
        Self::with_capacity(ROWS_CAPACITY)
    }

    fn with_capacity(rows_max: u64) -> Self {
        let entries = moka::future::Cache::builder();
        let entries =
            entries.max_capacity(rows_max).weigher(|_: &UserId, entry: &Entry| entry.weight()).build();
        Self { entries, state: Arc::default() }
    }

    pub(super) async fn get(&self, user_id: UserId) -> Option<Unread> {
        self.entries.get(&user_id).await.and_then(|entry| entry.unread())
    }

    pub(super) async fn miss(&self, user_id: UserId) -> Option<u64> {
        if !self.state.open.load(Ordering::Acquire) {
            return None;
        }
        let ticket = self.state.next_ticket.fetch_add(1, Ordering::Relaxed);
        self.update(user_id, |entry| Some(Entry::miss(entry, ticket))).await;
        Some(ticket)
    }

    pub(super) async fn fill(&self, user_id: UserId, ticket: u64, unread: &Unread) {
        self.update(user_id, |entry| entry.and_then(|entry| entry.fill(ticket, unread))).await;
    }

    async fn apply(&self, (user_id, delta): (UserId, Delta)) {
        self.update(user_id, |entry| entry.and_then(|entry| entry.apply(&delta))).await;
    }

    /// Applies UnreadChanged events until shut down.
    pub(super) async fn run(&self, log: &Log, shutdown: CancellationToken) {
        let Some(mut tail) = shutdown.run_until_cancelled(open_tail(log)).await else { return };
        self.state.open.store(true, Ordering::Release);
        while let Some(next) = shutdown.run_until_cancelled(tail.next()).await {
            match next {
                Ok(next) => self.apply_batch(&next).await,
                Err(error) => {
                    tracing::warn!(%error, "cache could not read the log");
                    shutdown.run_until_cancelled(tokio::time::sleep(RETRY_DELAY)).await;
                }
            }
        }
        self.state.open.store(false, Ordering::Release);
        self.entries.invalidate_all();
    }

    /// Applies a batch. If records were skipped before it, the map is cleared first: one of them may
    /// have changed any row, and a later delta of that user would be the only sign of it.
    async fn apply_batch(&self, next: &TailBatch) {
        if next.skipped {
            self.entries.invalidate_all();
        }
        for delta in next.records.iter().filter_map(|record| parse_delta(&record.payload)) {
            self.apply(delta).await;
        }
    }

    /// Updates one entry atomically; `None` leaves it unchanged.
    async fn update(&self, user_id: UserId, update: impl FnOnce(Option<&Entry>) -> Option<Entry> + Send) {
        let compute = |entry: Option<moka::Entry<UserId, Entry>>| {
            let next = update(entry.as_ref().map(moka::Entry::value));
            std::future::ready(next.map_or(Op::Nop, Op::Put))
        };
        self.entries.entry(user_id).and_compute_with(compute).await;
    }
}

/// Opens a tail at the end of the log; retries until the log answers.
async fn open_tail(log: &Log) -> Tail {
    loop {
        match log.tail(&[topic::UNREAD]).await {
            Ok(tail) => return tail,
            Err(error) => {
                tracing::warn!(%error, "cache could not find the end of the log");
                tokio::time::sleep(RETRY_DELAY).await;
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
    use crate::unread::{Row, Version};

    fn row(dialog_id: DialogId, unread: i64) -> Row {
        Row { dialog_id, unread, read_seq: 0, last_seq: unread, stale: false }
    }

    fn unread(number: i64, rows: Vec<Row>) -> Unread {
        let total = rows.iter().map(|row| row.unread).sum();
        Unread { version: Version { epoch: 1, number }, total, rows, truncated: false, stale: false }
    }

    fn event(user_id: UserId, version: i64, dialog_id: DialogId, was: i64, unread: i64) -> Vec<u8> {
        let row = UnreadRow {
            dialog_id: dialog_id.bytes(),
            unread,
            was,
            read_seq: 0,
            last_seq: unread,
            stale: false,
        };
        let change = UnreadChanged {
            user_id: user_id.bytes(),
            epoch: 1,
            version,
            previous: version - 1,
            rows: vec![row],
            stale: false,
        };
        Kind::UnreadChanged(change).payload()
    }

    fn open_cache() -> MemoryCache {
        let cache = MemoryCache::new();
        cache.state.open.store(true, Ordering::Release);
        cache
    }

    impl MemoryCache {
        async fn apply_event(&self, payload: Vec<u8>) {
            self.apply(parse_delta(&payload).expect("a valid event")).await;
        }
    }

    #[tokio::test]
    async fn events_update_a_filled_entry() {
        let cache = open_cache();
        let user_id = UserId::now();
        let dialog_id = DialogId::now();
        assert_eq!(cache.get(user_id).await, None);
        let ticket = cache.miss(user_id).await.expect("the cache is open");
        assert_eq!(cache.get(user_id).await, None, "a stub has no rows");
        cache.fill(user_id, ticket, &unread(3, vec![row(dialog_id, 1)])).await;
        cache.apply_event(event(user_id, 4, dialog_id, 1, 2)).await;
        assert_eq!(cache.get(user_id).await, Some(unread(4, vec![row(dialog_id, 2)])));
        cache.apply_event(event(user_id, 4, dialog_id, 1, 2)).await;
        assert_eq!(
            cache.get(user_id).await,
            Some(unread(4, vec![row(dialog_id, 2)])),
            "a repeated event is ignored"
        );
        cache.apply_event(event(user_id, 5, dialog_id, 2, 0)).await;
        assert_eq!(cache.get(user_id).await, Some(unread(5, vec![])));
        cache.apply_event(event(user_id, 7, dialog_id, 0, 1)).await;
        assert_eq!(cache.get(user_id).await, None, "an event is missing, so the rows are unknown");
    }

    #[tokio::test]
    async fn a_late_fill_changes_nothing() {
        let cache = open_cache();
        let user_id = UserId::now();
        let dialog_id = DialogId::now();
        let early = cache.miss(user_id).await.expect("the cache is open");
        let late = cache.miss(user_id).await.expect("the cache is open");
        cache.fill(user_id, early, &unread(1, vec![row(dialog_id, 1)])).await;
        assert_eq!(cache.get(user_id).await, None, "another miss has replaced its stub");
        cache.apply_event(event(user_id, 3, dialog_id, 1, 2)).await;
        cache.fill(user_id, late, &unread(2, vec![row(dialog_id, 1)])).await;
        assert_eq!(cache.get(user_id).await, None, "an event has raised the minimum version");
    }

    #[tokio::test]
    async fn skipped_records_clear_the_cache_and_invalidate_pending_fills() {
        let cache = open_cache();
        let user_id = UserId::now();
        let other = UserId::now();
        let ticket = cache.miss(user_id).await.expect("the cache is open");
        cache.fill(user_id, ticket, &unread(1, vec![row(DialogId::now(), 1)])).await;
        let late = cache.miss(other).await.expect("the cache is open");
        cache.apply_batch(&TailBatch::default()).await;
        assert!(cache.get(user_id).await.is_some(), "the entry stays if no record was skipped");
        cache.apply_batch(&TailBatch { skipped: true, records: Vec::new() }).await;
        assert_eq!(cache.get(user_id).await, None);
        cache.fill(other, late, &unread(1, vec![])).await;
        assert_eq!(cache.get(other).await, None, "the rows were read before the records were skipped");
        let ticket = cache.miss(user_id).await.expect("the cache is open");
        cache.fill(user_id, ticket, &unread(2, vec![])).await;
        assert_eq!(cache.get(user_id).await, Some(unread(2, vec![])), "later reads are cached");
    }

    #[tokio::test]
    async fn the_capacity_limits_rows() {
        let cache = MemoryCache::with_capacity(1_000);
        cache.state.open.store(true, Ordering::Release);
        for number in 1..=60 {
            let user_id = UserId::now();
            let rows = (0..99).map(|_| row(DialogId::now(), number)).collect();
            let ticket = cache.miss(user_id).await.expect("the cache is open");
            cache.fill(user_id, ticket, &unread(number, rows)).await;
            cache.entries.run_pending_tasks().await;
            assert!(cache.entries.weighted_size() <= 1_000, "{}", cache.entries.weighted_size());
        }
        assert!(cache.entries.entry_count() > 0, "some entries fit");
    }

    #[tokio::test]
    async fn nothing_is_cached_before_the_log_is_followed() {
        let cache = MemoryCache::new();
        let user_id = UserId::now();
        assert_eq!(cache.miss(user_id).await, None);
        assert_eq!(cache.get(user_id).await, None);
    }
}
