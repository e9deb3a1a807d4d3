//! Cache shared by many processes: a hash per user in Redis, changed by one script on the server, and
//! kept up to date by a durable consumer that stores its offset after the write.
//!
//! An unavailable, slow or flushed Redis costs time, never correctness. After missed events the process
//! does not use the cache until every entry that was filled before that has expired.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use ::redis::{Cmd, FromRedisValue, RedisError};
use db::{Db, Tx};
use events::{Apply, BoxError, Consumer, Log, Loss, LossKind, Record};
use parking_lot::Mutex;
use proto::{UserId, topic};
use redis_link::Connection;
use resilience::{CircuitBreaker, circuit_breaker::Outcome};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    CacheError,
    hash::{self, Commands, Fields, TTL},
    parse_delta,
};
use crate::unread::Unread;

/// Timeout of a request's call: above the p99 of a hit (20 ms, docs/decisions/0007-redis-cache.md), and
/// short enough that a request that then reads the database is not slow.
const REQUEST_TIMEOUT: Duration = Duration::from_millis(50);
/// Time that the circuit breaker stays open after a failed request.
const BREAKER_OPEN: Duration = Duration::from_millis(500);
/// Timeout of a batch of events; no request waits for it.
const BATCH_TIMEOUT: Duration = Duration::from_secs(1);
/// Delay before the writer starts again after a stop, and between attempts to move its offset.
const RESTART_DELAY: Duration = Duration::from_secs(1);
/// Name of the writer's consumer, under which the counter's database stores its offsets.
const CONSUMER: &str = "counter-cache";

/// Cache in Redis. Cheap to clone.
#[derive(Clone)]
pub struct RedisCache(Arc<State>);

struct State {
    commands: Commands,
    requests: Connection,
    /// Separate connection, so that no request queues behind a batch.
    batches: Connection,
    breaker: CircuitBreaker,
    /// Time to live of an entry.
    ttl: Duration,
    /// Time until which Redis may hold entries that missed an event.
    closed_until: Mutex<Option<Instant>>,
}

/// Does not show the URL, which may hold a password.
impl fmt::Debug for RedisCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisCache")
            .field("breaker", &self.0.breaker)
            .field("closed", &self.0.is_closed())
            .finish()
    }
}

impl State {
    fn is_closed(&self) -> bool {
        self.closed_until.lock().is_some_and(|until| Instant::now() < until)
    }

    /// Stops reads and fills until every entry filled before has expired. A fill may still be on its way
    /// to Redis, for at most a request's timeout.
    fn close(&self) {
        *self.closed_until.lock() = Some(Instant::now() + self.ttl + REQUEST_TIMEOUT);
    }
}

impl RedisCache {
    pub(super) fn open(url: &str) -> Result<Self, CacheError> {
        Self::with_commands(url, Commands::new(), TTL)
    }

    /// Opens a cache with another script and time to live.
    fn with_commands(url: &str, commands: Commands, ttl: Duration) -> Result<Self, CacheError> {
        Ok(Self(Arc::new(State {
            commands,
            requests: Connection::new(url, REQUEST_TIMEOUT)?,
            batches: Connection::new(url, BATCH_TIMEOUT)?,
            breaker: CircuitBreaker::on_first_failure(BREAKER_OPEN),
            ttl,
            closed_until: Mutex::new(None),
        })))
    }

    pub(super) async fn check(&self) -> Result<(), CacheError> {
        let ping = ::redis::cmd("PING");
        self.0.batches.call::<String>(&ping, &ping).await?;
        if self.0.is_closed() { Err(CacheError::Closed) } else { Ok(()) }
    }

    pub(super) async fn get(&self, user_id: UserId) -> Option<Unread> {
        let fields: Fields = self.call("get", &self.0.commands.read(user_id)).await?;
        hash::decode(&fields)?.unread()
    }

    pub(super) async fn miss(&self, user_id: UserId) -> Option<u64> {
        // Random, because all processes share the stubs: a counter would give two processes the same
        // ticket.
        let (ticket, _) = Uuid::new_v4().as_u64_pair();
        self.call::<()>("miss", &self.0.commands.miss(user_id, ticket)).await.map(|()| ticket)
    }

    pub(super) async fn fill(&self, user_id: UserId, ticket: u64, unread: &Unread) {
        self.call::<()>("fill", &self.0.commands.fill(user_id, ticket, unread)).await;
    }

    /// Runs the writer until shut down. If the log was replaced, or no longer has events that were not
    /// applied yet, the writer closes the cache and continues at the current end of the log.
    pub(super) async fn run(&self, log: &Log, db: &Db, shutdown: CancellationToken) {
        let write =
            || Consumer::new(CONSUMER, &[topic::UNREAD], log, db, Writer(self.clone())).run(shutdown.clone());
        while let Err(stopped) = write().await {
            let closed_for_s = self.0.ttl.as_secs();
            tracing::error!(error = %stopped, closed_for_s, "cache writer missed events, cache closed");
            loop {
                // Extended in each attempt: until the writer runs again, entries filled by other
                // processes miss events.
                self.0.close();
                let skipped = stopped.skip(db).await;
                if shutdown.run_until_cancelled(tokio::time::sleep(RESTART_DELAY)).await.is_none() {
                    return;
                }
                match skipped {
                    Ok(()) => break,
                    Err(error) => tracing::warn!(%error, "offset of the cache writer could not be moved"),
                }
            }
        }
    }

    /// Sends one command. Returns `None` if Redis did not answer; the failure is measured, and the
    /// caller continues without the cache. There is no retry: the database answers sooner.
    async fn call<T: FromRedisValue>(&self, name: &'static str, command: &Cmd) -> Option<T> {
        let State { commands, requests, breaker, .. } = &*self.0;
        if self.0.is_closed() {
            return None;
        }
        let permit = breaker.try_acquire(tokio::time::Instant::now())?;
        let start = Instant::now();
        let answer = requests.call(command, &commands.load()).await;
        measure(name, start, &answer);
        permit.record(Outcome::of(&answer), tokio::time::Instant::now());
        answer.ok()
    }
}

fn measure<T>(call: &'static str, start: Instant, answer: &Result<T, RedisError>) {
    metrics::histogram!("counter_redis_call_seconds", "call" => call).record(start.elapsed());
    if let Err(error) = answer {
        metrics::counter!("counter_redis_errors_total", "call" => call).increment(1);
        tracing::debug!(call, %error, "call to Redis failed");
    }
}

/// Consumer of UnreadChanged events that writes them to Redis.
struct Writer(RedisCache);

impl Apply for Writer {
    /// Writes to Redis before the transaction begins: SQLite's only writer must not wait for Redis, and
    /// a Postgres connection must not idle in a transaction. A repeated batch is harmless: the script
    /// ignores versions that an entry already has.
    async fn before(&self, records: &[Record]) -> Result<(), BoxError> {
        let State { commands, batches, .. } = &*self.0.0;
        let deltas: Vec<_> = records.iter().filter_map(|record| parse_delta(&record.payload)).collect();
        let start = Instant::now();
        let sent = batches.send(&commands.apply_all(deltas.iter())).await;
        measure("apply", start, &sent);
        Ok(sent?)
    }

    /// After a restore applies the events since then again, which changes no entry. Entries of the replaced
    /// past are excluded by the epoch that the restore raises.
    async fn recover(&self, _: &mut Tx, losses: &[Loss]) -> Result<bool, BoxError> {
        Ok(losses.iter().all(|loss| loss.kind == LossKind::Restored))
    }

    /// Does nothing: the transaction only moves the offsets.
    async fn apply(&self, _: &mut Tx, _: &[Record]) -> Result<(), BoxError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use db::query;
    use events::{Event, Headers, Local, outbox};
    use proto::{
        DialogId,
        events::{UnreadChanged, UnreadRow, event::Kind},
    };
    use testkit::{RedisServer, eventually};

    use super::*;
    use crate::{
        Cache,
        unread::{Row, Version},
    };

    /// Appends the event that moves a user to this version, with that many unread messages.
    async fn emit(db: &Db, user_id: UserId, dialog_id: DialogId, version: i64) {
        let row = UnreadRow {
            dialog_id: dialog_id.bytes(),
            unread: version,
            was: version - 1,
            read_seq: 0,
            last_seq: version,
            stale: false,
        };
        let kind = Kind::UnreadChanged(UnreadChanged {
            user_id: user_id.bytes(),
            epoch: 1,
            version,
            previous: version - 1,
            rows: vec![row],
            stale: false,
        });
        let event = Event {
            event_id: Uuid::now_v7(),
            topic: topic::UNREAD,
            key: "k".to_owned(),
            version,
            kind: "UnreadChanged",
            payload: kind.payload(),
            headers: Headers::default(),
        };
        let mut tx = db.begin().await.unwrap();
        outbox::append(&mut tx, &[event]).await.unwrap();
        tx.commit().await.unwrap();
    }

    async fn execute(db: &Db, sql: &'static str) {
        let mut tx = db.begin().await.unwrap();
        query(sql).execute(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
    }

    #[tokio::test]
    async fn after_missed_events_the_cache_is_closed_until_its_entries_have_expired() {
        let Some(server) = RedisServer::start() else { return };
        let test = testkit::sqlite(&[&db::MIGRATIONS, &events::MIGRATIONS]).await;
        let log = Log::Local(Local::new(vec![(topic::UNREAD, test.db.clone())]));
        let ttl = Duration::from_secs(2);
        let commands = Commands::with_script(include_str!("entry.lua"), ttl);
        let redis = RedisCache::with_commands(&server.url(), commands, ttl).unwrap();
        let ada = UserId::now();
        let bob = UserId::now();
        let dialog_id = DialogId::now();
        let unread = |number| Unread {
            version: Version { epoch: 1, number },
            total: number,
            rows: vec![Row { dialog_id, unread: number, read_seq: 0, last_seq: number, stale: false }],
            truncated: false,
            stale: false,
        };
        emit(&test.db, ada, dialog_id, 1).await;
        let offset = || async {
            let row = query("select max(next_offset) as next_offset from consumer_offset")
                .one(&test.db)
                .await
                .unwrap();
            row.get::<Option<i64>>("next_offset").unwrap().unwrap_or(0)
        };
        let run = |shutdown: &CancellationToken| {
            let redis = redis.clone();
            let log = log.clone();
            let db = test.db.clone();
            let shutdown = shutdown.clone();
            tokio::spawn(async move { redis.run(&log, &db, shutdown).await })
        };
        let shutdown = CancellationToken::new();
        let first = run(&shutdown);
        eventually("the first event is applied", || async { offset().await == 2 }).await;
        let ticket = redis.miss(ada).await.expect("the cache is open");
        redis.fill(ada, ticket, &unread(1)).await;
        assert_eq!(redis.get(ada).await, Some(unread(1)));
        shutdown.cancel();
        first.await.unwrap();

        // While no writer runs, the log removes events that were not applied.
        emit(&test.db, ada, dialog_id, 2).await;
        emit(&test.db, bob, dialog_id, 1).await;
        execute(&test.db, "delete from outbox where id < 3").await;
        let shutdown = CancellationToken::new();
        let second = run(&shutdown);
        eventually("the cache is closed", || async {
            matches!(redis.check().await, Err(CacheError::Closed))
        })
        .await;
        assert_eq!(
            (redis.get(ada).await, redis.miss(ada).await),
            (None, None),
            "entries have missed an event"
        );
        eventually("the cache is open again", || async { redis.check().await.is_ok() }).await;
        assert_eq!(redis.get(ada).await, None, "the entry has expired");
        eventually("the writer continues at the end of the log", || async { offset().await == 4 }).await;
        let ticket = redis.miss(ada).await.expect("the cache is open");
        redis.fill(ada, ticket, &unread(2)).await;
        emit(&test.db, ada, dialog_id, 3).await;
        eventually("the writer updates the entry", || async { redis.get(ada).await == Some(unread(3)) })
            .await;
        shutdown.cancel();
        second.await.unwrap();
    }

    #[test]
    fn a_url_is_checked_and_never_shown() {
        for url in [
            "redis://127.0.0.1:6379",
            "redis://:secret@cache/3",
            "redis://me:secret@[::1]:7000",
            "redis://cache",
        ] {
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
            assert!(matches!(error, CacheError::Url(_)), "{url}: {error:?}");
            assert!(!format!("{error} {error:?}").contains("secret"), "{url}");
        }
    }
}
