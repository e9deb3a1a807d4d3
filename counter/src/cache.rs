//! Cache of unread counts, so that reading a user's counts takes no SQL query.
//!
//! Invariant I8 (ARCHITECTURE.md): the rows cached at a version are the rows that the database had at that
//! version. The order of the rows is not part of the invariant; rows whose count grew come first.
//!
//! On a miss, the reader first stores a placeholder (a stub) with a ticket in the cache, then reads the
//! database, then fills the entry. The fill succeeds only if the stub with its ticket is still there and
//! the cache has seen no newer version. The writer applies each UnreadChanged event to an entry that has
//! exactly the version before it; otherwise the entry becomes a stub. [`entry`] holds these rules,
//! [`memory`] and [`redis`] the two stores.
//!
//! Stale counts (events are missing) are not cached. An entry of an earlier epoch is never returned
//! ([`loader`]).

pub(crate) mod entry;
mod hash;
#[cfg(test)]
pub(crate) mod histories;
pub(crate) mod loader;
mod memory;
mod redis;

use std::time::Instant;

use db::Db;
use events::Log;
use proto::{UserId, events::event::Kind};
use tokio_util::sync::CancellationToken;

pub use memory::MemoryCache;
pub use redis::RedisCache;

use crate::{
    event::NUMBER_MAX,
    unread::{Unread, Version},
};
use entry::Delta;

/// Cache of unread counts. Cheap to clone.
#[derive(Debug, Clone)]
pub enum Cache {
    /// Bounded map in this process.
    Memory(MemoryCache),
    /// Redis, shared by all processes of the counter.
    Redis(RedisCache),
}

/// Error of a cache. Requests never see it: they read the database instead.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The URL is not a valid Redis URL.
    #[error(transparent)]
    Url(#[from] redis_link::InvalidUrl),
    /// Redis is unavailable, did not answer in time, or returned an error.
    #[error(transparent)]
    Redis(#[from] ::redis::RedisError),
    /// The writer missed events of the log. The cache is not used until every entry that was filled
    /// before that has expired.
    #[error("cache closed: its writer missed events; it opens again when the older entries have expired")]
    Closed,
}

/// Permission of one miss to fill its stub; `None` if the cache is not in use. (Memcache calls this a
/// lease token.)
#[derive(Debug, Clone, Copy)]
pub(crate) struct FillTicket(Option<u64>);

impl Cache {
    /// Creates a bounded map in this process. It stays empty until [`crate::App::run`] follows the log.
    pub fn in_process() -> Self {
        Self::Memory(MemoryCache::new())
    }

    /// Creates a cache in the Redis at a `redis:` URL. Connects on first use, so Redis may be
    /// unavailable now.
    ///
    /// One Redis, or one numbered database of it, belongs to one counter database. Two counters would
    /// take each other's versions for their own.
    ///
    /// # Errors
    /// [`CacheError::Url`] if the URL is invalid. The error does not repeat the URL, which may hold a
    /// password.
    pub fn redis(url: &str) -> Result<Self, CacheError> {
        RedisCache::open(url).map(Self::Redis)
    }

    /// Checks that the cache is in use, for readiness.
    ///
    /// # Errors
    /// [`CacheError::Redis`] if Redis does not answer; [`CacheError::Closed`] after missed events.
    pub async fn check(&self) -> Result<(), CacheError> {
        match self {
            Self::Memory(_) => Ok(()),
            Self::Redis(redis) => redis.check().await,
        }
    }

    /// Returns all unread rows of a user, if cached.
    pub(crate) async fn get(&self, user_id: UserId) -> Option<Unread> {
        let start = Instant::now();
        let unread = match self {
            Self::Memory(memory) => memory.get(user_id).await,
            Self::Redis(redis) => redis.get(user_id).await,
        };
        metrics::histogram!("counter_cache_seconds").record(start.elapsed());
        metrics::counter!("counter_cache_total", "hit" => if unread.is_some() { "yes" } else { "no" })
            .increment(1);
        unread
    }

    /// Stores a stub for a fill. Call it before the database is read: an event that arrives between the two
    /// raises the stub's minimum version, and the fill with the stale rows is refused.
    pub(crate) async fn miss(&self, user_id: UserId) -> FillTicket {
        FillTicket(match self {
            Self::Memory(memory) => memory.miss(user_id).await,
            Self::Redis(redis) => redis.miss(user_id).await,
        })
    }

    /// Replaces a user's entry by a stub, so that the next reader sees what the database has now, whether
    /// the event has arrived or not.
    pub(crate) async fn forget(&self, user_id: UserId) {
        let _unused_ticket = self.miss(user_id).await;
    }

    /// Replaces the stub that [`Cache::miss`] stored with rows from the database, if the stub is still
    /// there.
    pub(crate) async fn fill(&self, user_id: UserId, ticket: FillTicket, unread: &Unread) {
        let FillTicket(Some(ticket)) = ticket else { return };
        match self {
            Self::Memory(memory) => memory.fill(user_id, ticket, unread).await,
            Self::Redis(redis) => redis.fill(user_id, ticket, unread).await,
        }
    }

    /// Runs the writer, which applies UnreadChanged events to the cache, until shut down.
    pub(crate) async fn run(&self, log: &Log, db: &Db, shutdown: CancellationToken) {
        match self {
            Self::Memory(memory) => memory.run(log, shutdown).await,
            Self::Redis(redis) => redis.run(log, db, shutdown).await,
        }
    }
}

/// Decodes the payload of a record into a change of one user's rows. Returns `None` for other events, and
/// for invalid values, which only a newer build writes. An entry that misses a change becomes a stub at
/// the user's next change, because the versions then have a gap.
pub fn parse_delta(payload: &[u8]) -> Option<(UserId, Delta)> {
    let Some(Kind::UnreadChanged(event)) = Kind::decode(payload) else { return None };
    let within_limit = |number: i64| (0..=NUMBER_MAX).contains(&number);
    if ![event.epoch, event.version, event.previous].into_iter().all(within_limit) {
        return None;
    }
    let mut delta = Delta::try_from(&event).ok()?;
    if event.stale {
        // Counts that may be wrong are not cached: a delta that follows no version makes any entry a stub.
        delta = Delta { version: delta.version, previous: Version::default(), rows: Vec::new() };
    }
    Some((UserId::parse(&event.user_id).ok()?, delta))
}
