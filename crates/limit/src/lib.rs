//! Rate limits per key: a sustained rate and a burst.
//!
//! The algorithm, GCRA, is a pure function ([`Rate`]). Its state is kept in this process, or in a Redis
//! that several processes share. In Redis a Lua script implements the same algorithm, and a test compares
//! the two. A request waits for Redis at most 50 ms; while Redis is unavailable, each process counts by
//! itself.

mod gcra;
mod memory;
mod redis;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

pub use gcra::{Admission, InvalidLimit, Limit, Rate};
use memory::MemoryStore;
use redis::RedisStore;
pub use redis_link::InvalidUrl;

/// One unit to take from the limit of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Charge {
    /// Kind of the limit and the user, address or name that it applies to.
    pub key: String,
    /// Limit of this key. All charges of a key must have the same rate.
    pub rate: Rate,
}

/// Rate limiter. Cheap to clone; all clones share their counts.
#[derive(Debug, Clone)]
pub struct Limiter(Arc<Stores>);

#[derive(Debug)]
struct Stores {
    /// Origin of the times in `memory`.
    started: Instant,
    memory: MemoryStore,
    redis: Option<RedisStore>,
}

impl Limiter {
    /// Creates a limiter that counts in this process.
    pub fn local() -> Self {
        Self::with_redis(None)
    }

    /// Creates a limiter that counts in the Redis at `url`, together with all limiters of the same key
    /// prefix.
    ///
    /// # Errors
    /// [`InvalidUrl`] if `url` is not a Redis URL. The server need not answer yet.
    pub fn shared(url: &str, prefix: &'static str) -> Result<Self, InvalidUrl> {
        RedisStore::new(url, prefix).map(|redis| Self::with_redis(Some(redis)))
    }

    fn with_redis(redis: Option<RedisStore>) -> Self {
        Self(Arc::new(Stores { started: Instant::now(), memory: MemoryStore::default(), redis }))
    }

    /// Takes all of the charges, or none of them if one exceeds its limit.
    ///
    /// # Errors
    /// The time to wait until all of the charges are within their limits.
    pub async fn take(&self, charges: &[Charge]) -> Result<(), Duration> {
        if charges.is_empty() {
            return Ok(());
        }
        if let Some(redis) = &self.0.redis
            && let Some(answer) = redis.take(charges).await
        {
            return answer;
        }
        self.0.memory.take(charges, self.0.started.elapsed())
    }

    /// Gives back charges that were taken, as if they had not been. If the store in which they were taken
    /// does not answer, they stay taken.
    pub async fn give_back(&self, charges: &[Charge]) {
        if charges.is_empty() {
            return;
        }
        match &self.0.redis {
            Some(redis) => redis.give_back(charges).await,
            None => self.0.memory.give_back(charges),
        }
    }
}
