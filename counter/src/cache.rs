//! The unread of people who were asked about lately, so that reading a badge costs no query. Promise: what is held at a
//! version is what the database had at that version. The order of rows is advisory: a row that grew comes first.
//!
//! A miss leaves a stub with a ticket before the database is read, and only the fill with that ticket replaces it. An event
//! applies only to rows of the version before it; anything else makes them a stub ([`crate::slot`]).

mod hash;
#[cfg(test)]
pub(crate) mod histories;
mod map;
mod remote;

use std::time::Instant;

use db::Db;
use events::Log;
use proto::{UserId, events::event::Kind};
use tokio_util::sync::CancellationToken;

pub use map::Map;
pub use remote::Redis;

use crate::{event::MAX, slot::Delta, unread::Unread};

/// The cache of counters. Cheap to clone.
#[derive(Debug, Clone)]
pub enum Cache {
    /// A bounded map in this process.
    Map(Map),
    /// Redis, which all processes of the counter share.
    Redis(Redis),
}

/// What is wrong with a cache; the counters are read from the database meanwhile.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// A URL that names no Redis.
    #[error(transparent)]
    Url(#[from] redis_link::InvalidUrl),
    /// Redis is away, slow or refuses.
    #[error(transparent)]
    Redis(#[from] redis::RedisError),
    /// The cache's writer has lost its place in the log: what was held before is not read, until it is gone.
    #[error("the cache is closed: its writer has lost its place in the log")]
    Closed,
}

/// The place that a miss has taken for its fill.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ticket(Option<u64>);

impl Cache {
    /// A bounded map in this process, closed until events come in.
    pub fn in_process() -> Self {
        Self::Map(Map::new())
    }

    /// The Redis at a `redis:` URL, which need not be there yet. One Redis, or one numbered database of it, belongs to one
    /// counter database.
    ///
    /// # Errors
    /// [`Trouble::Url`], which does not repeat the URL: there may be a password in it.
    pub fn redis(url: &str) -> Result<Self, Trouble> {
        Redis::open(url).map(Self::Redis)
    }

    /// Whether it can be used.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub async fn check(&self) -> Result<(), Trouble> {
        match self {
            Self::Map(_) => Ok(()),
            Self::Redis(redis) => redis.check().await,
        }
    }

    /// The whole state of a user, where it is held.
    pub(crate) async fn get(&self, user_id: UserId) -> Option<Unread> {
        let begun = Instant::now();
        let unread = match self {
            Self::Map(map) => map.get(user_id).await,
            Self::Redis(redis) => redis.get(user_id).await,
        };
        metrics::histogram!("counter_cache_seconds").record(begun.elapsed());
        metrics::counter!("counter_cache_total", "hit" => if unread.is_some() { "yes" } else { "no" })
            .increment(1);
        unread
    }

    /// Takes the place of a fill. To be called before the database is read.
    pub(crate) async fn miss(&self, user_id: UserId) -> Ticket {
        Ticket(match self {
            Self::Map(map) => map.miss(user_id).await,
            Self::Redis(redis) => redis.miss(user_id).await,
        })
    }

    /// Puts what the database had into the place that was taken, where it still is.
    pub(crate) async fn fill(&self, user_id: UserId, ticket: Ticket, unread: &Unread) {
        let Ticket(Some(ticket)) = ticket else { return };
        match self {
            Self::Map(map) => map.fill(user_id, ticket, unread).await,
            Self::Redis(redis) => redis.fill(user_id, ticket, unread).await,
        }
    }

    /// Applies the steps of users' versions as they are told, until shut down.
    pub(crate) async fn run(&self, log: &Log, db: &Db, shutdown: CancellationToken) {
        match self {
            Self::Map(map) => map.run(log, shutdown).await,
            Self::Redis(redis) => redis.run(log, db, shutdown).await,
        }
    }
}

/// The step of a user's version that a record tells. Our own outbox writes nothing else to this topic; what is of a later
/// build, or out of its bounds, is for a later build's cache.
fn step(payload: &[u8]) -> Option<(UserId, Delta)> {
    let Some(Kind::UnreadChanged(event)) = Kind::read(payload) else { return None };
    let bounded = |number: i64| (0..=MAX).contains(&number);
    let bounds = [event.epoch, event.version, event.previous].into_iter().all(bounded);
    let step = (UserId::parse(&event.user_id).ok()?, Delta::try_from(&event).ok()?);
    bounds.then_some(step)
}
