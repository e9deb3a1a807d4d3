//! Rate limits: so many in a period and so many at once, for each key. The rule is one pure function (`gcra`), and a
//! script on a Redis that several processes share is tested against it. Promise: nobody waits for Redis longer than 50 ms,
//! and without it every process keeps the limits by itself.

mod gcra;
mod local;
mod shared;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

pub use gcra::{InvalidLimit, Limit, Rate};
use local::Local;
pub use redis_link::InvalidUrl;
use shared::Shared;

/// What somebody wants to do once more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Want {
    /// Whose limit of which kind it is.
    pub key: String,
    /// How often it may be done.
    pub rate: Rate,
}

/// Keeps count. Cheap to clone; all clones count together.
#[derive(Debug, Clone)]
pub struct Limiter(Arc<Places>);

#[derive(Debug)]
struct Places {
    begun: Instant,
    local: Local,
    shared: Option<Shared>,
}

impl Limiter {
    /// Counts in this process.
    pub fn local() -> Self {
        Self::of(None)
    }

    /// Counts in the Redis at this URL, under keys that begin so, together with all who do the same.
    ///
    /// # Errors
    /// Where the URL is none.
    pub fn shared(url: &str, prefix: &'static str) -> Result<Self, InvalidUrl> {
        Shared::open(url, prefix).map(|shared| Self::of(Some(shared)))
    }

    fn of(shared: Option<Shared>) -> Self {
        Self(Arc::new(Places { begun: Instant::now(), local: Local::default(), shared }))
    }

    /// Takes one of everything that is wanted, or nothing at all.
    ///
    /// # Errors
    /// How long to wait until all of it is to be had.
    pub async fn take(&self, wants: &[Want]) -> Result<(), Duration> {
        if wants.is_empty() {
            return Ok(());
        }
        if let Some(shared) = &self.0.shared
            && let Some(answer) = shared.take(wants).await
        {
            return answer;
        }
        self.0.local.take(wants, self.0.begun.elapsed())
    }
}
