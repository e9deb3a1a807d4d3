//! The cache of many processes: a hash per user in Redis, changed by one script on the server, and fed by a durable consumer
//! whose cursor moves after the write. Away, slow or flushed, it slows and nothing else.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use db::{Db, Tx};
use events::{Apply, BoxError, Consumer, Log, Record};
use proto::{UserId, topic};
use redis::{Cmd, FromRedisValue, RedisError};
use redis_link::{Breaker, Link};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    Trouble,
    hash::{self, Fields, Hash},
    step,
};
use crate::unread::Unread;

/// How long a request waits for Redis, and how long nobody asks after that was in vain.
const PATIENCE: Duration = Duration::from_millis(50);
const MOMENT: Duration = Duration::from_millis(500);
/// How long a batch of events may take: no request waits for it.
const BATCH_PATIENCE: Duration = Duration::from_secs(1);
/// The writer's name: its offsets are kept under it, in the counter's database.
const CONSUMER: &str = "counter-cache";

/// A Redis. Cheap to clone.
#[derive(Clone)]
pub struct Redis(Arc<Shared>);

struct Shared {
    hash: Hash,
    requests: Link,
    /// A connection of its own: no request waits behind a batch.
    events: Link,
    breaker: Breaker,
    stopped: AtomicBool,
}

/// Nothing of the URL: there may be a password in it.
impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis").field("breaker", &self.0.breaker).field("stopped", &self.0.stopped).finish()
    }
}

impl Redis {
    pub(super) fn open(url: &str) -> Result<Self, Trouble> {
        Ok(Self(Arc::new(Shared {
            hash: Hash::new(),
            requests: Link::open(url, PATIENCE)?,
            events: Link::open(url, BATCH_PATIENCE)?,
            breaker: Breaker::new(MOMENT),
            stopped: AtomicBool::new(false),
        })))
    }

    pub(super) async fn check(&self) -> Result<(), Trouble> {
        let ping = redis::cmd("PING");
        self.0.events.ask::<String>(&ping, &ping).await?;
        if self.0.stopped.load(Ordering::Acquire) { Err(Trouble::Stopped) } else { Ok(()) }
    }

    pub(super) async fn get(&self, user_id: UserId) -> Option<Unread> {
        let fields: Fields = self.ask("get", &self.0.hash.read(user_id)).await?;
        hash::decode(&fields)?.unread()
    }

    pub(super) async fn miss(&self, user_id: UserId) -> Option<u64> {
        // All processes draw from the same numbers: nobody else has this one.
        let (ticket, _) = Uuid::new_v4().as_u64_pair();
        self.ask::<()>("miss", &self.0.hash.miss(user_id, ticket)).await.map(|()| ticket)
    }

    pub(super) async fn fill(&self, user_id: UserId, ticket: u64, unread: &Unread) {
        self.ask::<()>("fill", &self.0.hash.fill(user_id, ticket, unread)).await;
    }

    /// Applies the steps of users' versions as they are told, until shut down. Where the log is not the known one, what is
    /// held is of no use any more.
    pub(super) async fn run(&self, log: &Log, db: &Db, shutdown: CancellationToken) {
        let consumer = Consumer::new(CONSUMER, &[topic::UNREAD], log, db, Writer(self.clone()));
        if let Err(stopped) = consumer.run(shutdown).await {
            tracing::error!(error = %stopped, "the cache is not used any more");
            self.0.stopped.store(true, Ordering::Release);
        }
    }

    /// `None` where there is no answer, which is measured and otherwise of no account.
    async fn ask<T: FromRedisValue>(&self, call: &'static str, command: &Cmd) -> Option<T> {
        let Shared { hash, requests, breaker, stopped, .. } = &*self.0;
        if stopped.load(Ordering::Acquire) || !breaker.allows() {
            return None;
        }
        let begun = Instant::now();
        let answer = requests.ask(command, &hash.load()).await;
        measure(call, begun, &answer);
        breaker.saw(answer.is_ok());
        answer.ok()
    }
}

fn measure<T>(call: &'static str, begun: Instant, answer: &Result<T, RedisError>) {
    metrics::histogram!("counter_redis_call_seconds", "call" => call).record(begun.elapsed());
    if let Err(error) = answer {
        metrics::counter!("counter_redis_errors_total", "call" => call).increment(1);
        tracing::debug!(call, %error, "Redis gave no answer");
    }
}

/// What feeds the cache.
struct Writer(Redis);

impl Apply for Writer {
    async fn before(&self, records: &[Record]) -> Result<(), BoxError> {
        let Shared { hash, events, .. } = &*self.0.0;
        let steps: Vec<_> = records.iter().filter_map(|record| step(&record.payload)).collect();
        let begun = Instant::now();
        let sent = events.send(&hash.apply_all(steps.iter())).await;
        measure("apply", begun, &sent);
        Ok(sent?)
    }

    /// The effect is not in the database: here the offsets move, and nothing else.
    async fn apply(&self, _: &mut Tx, _: &[Record]) -> Result<(), BoxError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Cache;

    #[test]
    fn a_url_names_a_redis_and_is_never_shown() {
        for url in
            ["redis://127.0.0.1:6379", "redis://:secret@cache/3", "redis://me:secret@[::1]:7000", "redis://cache"]
        {
            let shown = format!("{:?}", Cache::redis(url).expect(url));
            assert!(!shown.contains("secret") && !shown.contains("cache/"), "{shown}");
        }
        for url in [
            "",
            "redis",
            "redis://",
            "rediss://:secret@cache",
            "http://secret",
            "redis://cache/secret",
            "redis://:secret@x:y",
        ] {
            let error = Cache::redis(url).map(drop).expect_err(url);
            assert!(matches!(error, Trouble::Url(_)), "{url}: {error:?}");
            assert!(!format!("{error} {error:?}").contains("secret"), "{url}");
        }
    }
}
