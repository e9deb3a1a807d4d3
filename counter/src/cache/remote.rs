//! The cache of many processes: a hash per user in Redis, changed by one script on the server, and fed by a durable consumer
//! whose cursor moves after the write. Away, slow or flushed, it slows and nothing else. Where the log has a gap, nothing from
//! before it is read again.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
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
    hash::{self, Fields, Hash, LIFE},
    step,
};
use crate::unread::Unread;

/// How long a request waits for Redis, and how long nobody asks after that was in vain.
const PATIENCE: Duration = Duration::from_millis(50);
const MOMENT: Duration = Duration::from_millis(500);
/// How long a batch of events may take: no request waits for it.
const BATCH_PATIENCE: Duration = Duration::from_secs(1);
/// How long to wait after the writer has lost its place, and after it could not be moved.
const PAUSE: Duration = Duration::from_secs(1);
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
    /// How long a slot lives.
    life: Duration,
    /// Until when there may be slots that have missed an event.
    closed_until: Mutex<Option<Instant>>,
}

/// Nothing of the URL: there may be a password in it.
impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis")
            .field("breaker", &self.0.breaker)
            .field("closed", &self.0.is_closed())
            .finish()
    }
}

impl Shared {
    fn is_closed(&self) -> bool {
        let closed_until = *self.closed_until.lock().unwrap_or_else(PoisonError::into_inner);
        closed_until.is_some_and(|until| Instant::now() < until)
    }

    /// Nothing is read or filled until all that was filled before is gone.
    fn close(&self) {
        let until = Instant::now() + self.life + PATIENCE;
        *self.closed_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
    }
}

impl Redis {
    pub(super) fn open(url: &str) -> Result<Self, Trouble> {
        Self::holding(url, Hash::new(), LIFE)
    }

    /// With slots of another life.
    fn holding(url: &str, hash: Hash, life: Duration) -> Result<Self, Trouble> {
        Ok(Self(Arc::new(Shared {
            hash,
            requests: Link::open(url, PATIENCE)?,
            events: Link::open(url, BATCH_PATIENCE)?,
            breaker: Breaker::new(MOMENT),
            life,
            closed_until: Mutex::new(None),
        })))
    }

    pub(super) async fn check(&self) -> Result<(), Trouble> {
        let ping = redis::cmd("PING");
        self.0.events.ask::<String>(&ping, &ping).await?;
        if self.0.is_closed() { Err(Trouble::Closed) } else { Ok(()) }
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

    /// Applies the steps of users' versions as they are told, until shut down. Where the log is not the known one, or has
    /// lost events that were not applied yet, what is held is of no use any more; what comes afterwards is.
    pub(super) async fn run(&self, log: &Log, db: &Db, shutdown: CancellationToken) {
        let write =
            || Consumer::new(CONSUMER, &[topic::UNREAD], log, db, Writer(self.clone())).run(shutdown.clone());
        while let Err(stopped) = write().await {
            let closed_for_s = self.0.life.as_secs();
            tracing::error!(error = %stopped, closed_for_s, "the cache is closed until what it holds is gone");
            loop {
                self.0.close();
                let skipped = stopped.skip(db).await;
                if shutdown.run_until_cancelled(tokio::time::sleep(PAUSE)).await.is_none() {
                    return;
                }
                match skipped {
                    Ok(()) => break,
                    Err(error) => tracing::warn!(%error, "the cache's writer could not be moved"),
                }
            }
        }
    }

    /// `None` where there is no answer, which is measured and otherwise of no account.
    async fn ask<T: FromRedisValue>(&self, call: &'static str, command: &Cmd) -> Option<T> {
        let Shared { hash, requests, breaker, .. } = &*self.0;
        if self.0.is_closed() || !breaker.allows() {
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

    /// Tells that a user's version is this.
    async fn tell(db: &Db, user_id: UserId, dialog_id: DialogId, version: i64) {
        let row = UnreadRow {
            dialog_id: dialog_id.bytes(),
            unread: version,
            was: version - 1,
            read_seq: 0,
            last_seq: version,
        };
        let (epoch, previous, user_id) = (1, version - 1, user_id.bytes());
        let kind = Kind::UnreadChanged(UnreadChanged { user_id, epoch, version, previous, rows: vec![row] });
        let (event_id, key, headers) = (Uuid::now_v7(), "k".to_owned(), Headers::default());
        let (topic, payload) = (topic::UNREAD, kind.payload());
        let event = Event { event_id, topic, key, version, kind: "UnreadChanged", payload, headers };
        let mut tx = db.begin().await.unwrap();
        outbox::append(&mut tx, &[event]).await.unwrap();
        tx.commit().await.unwrap();
    }

    async fn change(db: &Db, sql: &'static str) {
        let mut tx = db.begin().await.unwrap();
        query(sql).execute(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
    }

    #[tokio::test]
    async fn after_a_gap_in_the_log_the_cache_is_closed_until_what_it_held_is_gone() {
        let Some(server) = RedisServer::start() else { return };
        let test = testkit::sqlite(&[&db::MIGRATIONS, &events::MIGRATIONS]).await;
        let log = Log::Local(Local::new(vec![(topic::UNREAD, test.db.clone())]));
        let life = Duration::from_secs(2);
        let redis =
            Redis::holding(&server.url(), Hash::running(include_str!("slot.lua"), life), life).unwrap();
        let (ada, bob, dialog_id) = (UserId::now(), UserId::now(), DialogId::now());
        let unread = |number| Unread {
            version: Version { epoch: 1, number },
            total: number,
            rows: vec![Row { dialog_id, unread: number, read_seq: 0, last_seq: number }],
            truncated: false,
        };
        tell(&test.db, ada, dialog_id, 1).await;
        let place = || async {
            let row =
                query("select max(next_offset) as place from consumer_offset").one(&test.db).await.unwrap();
            row.get::<Option<i64>>("place").unwrap().unwrap_or(0)
        };
        let running = |shutdown: &CancellationToken| {
            let (redis, log, db, shutdown) = (redis.clone(), log.clone(), test.db.clone(), shutdown.clone());
            tokio::spawn(async move { redis.run(&log, &db, shutdown).await })
        };
        let shutdown = CancellationToken::new();
        let first = running(&shutdown);
        eventually("the first is applied", || async { place().await == 2 }).await;
        let ticket = redis.miss(ada).await.expect("it is open");
        redis.fill(ada, ticket, &unread(1)).await;
        assert_eq!(redis.get(ada).await, Some(unread(1)));
        shutdown.cancel();
        first.await.unwrap();

        // Nobody writes for longer than the log keeps what it is told.
        tell(&test.db, ada, dialog_id, 2).await;
        tell(&test.db, bob, dialog_id, 1).await;
        change(&test.db, "delete from outbox where id < 3").await;
        let shutdown = CancellationToken::new();
        let second = running(&shutdown);
        eventually("it is closed", || async { matches!(redis.check().await, Err(Trouble::Closed)) }).await;
        assert_eq!(
            (redis.get(ada).await, redis.miss(ada).await),
            (None, None),
            "what it holds has missed an event"
        );
        eventually("it is open again", || async { redis.check().await.is_ok() }).await;
        assert_eq!(redis.get(ada).await, None, "that is gone");
        eventually("the writer has gone on", || async { place().await == 4 }).await;
        let ticket = redis.miss(ada).await.expect("it is open");
        redis.fill(ada, ticket, &unread(2)).await;
        tell(&test.db, ada, dialog_id, 3).await;
        eventually("it keeps what it holds up to date", || async { redis.get(ada).await == Some(unread(3)) })
            .await;
        shutdown.cancel();
        second.await.unwrap();
    }

    #[test]
    fn a_url_names_a_redis_and_is_never_shown() {
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
            assert!(matches!(error, Trouble::Url(_)), "{url}: {error:?}");
            assert!(!format!("{error} {error:?}").contains("secret"), "{url}");
        }
    }
}
