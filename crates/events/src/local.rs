//! The log of one process: the outbox tables of its SQLite databases, read by cursor. One writer at a time commits there,
//! so ids appear in order and a cursor over them loses nothing (over a Postgres outbox it would).

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use db::{Db, Error, Row, query};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    Headers, Record,
    offset::{Mismatch, Offset},
};

/// How often old rows are removed.
const PRUNE_EVERY: Duration = Duration::from_secs(600);
/// Rows that are removed in one transaction: writers wait for it.
const PRUNE_BATCH: u64 = 1_000;
/// How long an event stays although everyone has applied it: people look back a day.
const KEEP: Duration = Duration::from_secs(24 * 3600);
/// Where nothing wakes a reader, it looks by itself this often.
const POLL: Duration = Duration::from_secs(1);

/// The outboxes of this process, by topic.
#[derive(Debug, Clone)]
pub struct Local(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    producers: Vec<(&'static str, Db)>,
    asides: Vec<Aside>,
    cursors: Mutex<Vec<Cursor>>,
}

/// What an outbox holds for people, and no reader of the log: it goes by its age alone.
#[derive(Debug, Clone)]
pub struct Aside {
    /// Its topic.
    pub topic: &'static str,
    /// Where it is.
    pub db: Db,
    /// How long it stays.
    pub keep: Duration,
}

/// A durable consumer: what it has not applied yet must stay.
#[derive(Debug, Clone)]
struct Cursor {
    consumer: &'static str,
    topic: &'static str,
    db: Db,
}

impl Local {
    /// A log over the outboxes of these databases, each with a topic that it holds.
    pub fn new(producers: Vec<(&'static str, Db)>) -> Self {
        Self::with_asides(producers, Vec::new())
    }

    /// The same, where these outboxes hold also what nobody here reads.
    pub fn with_asides(producers: Vec<(&'static str, Db)>, asides: Vec<Aside>) -> Self {
        Self(Arc::new(Shared { producers, asides, cursors: Mutex::default() }))
    }

    /// Follows topics from their ends, without keeping an offset.
    ///
    /// # Errors
    /// Where an outbox cannot be read.
    pub async fn tail(&self, topics: &[&'static str]) -> Result<crate::Tail, crate::Error> {
        let wake = self.wake(topics);
        let mut cursors = Vec::new();
        for topic in topics {
            cursors.push((*topic, self.bounds(topic).await?.1));
        }
        Ok(crate::Tail::local(Tail { log: self.clone(), cursors, wake }))
    }

    /// Removes old rows from time to time, until shut down.
    pub async fn run(&self, shutdown: CancellationToken) {
        while shutdown.run_until_cancelled(tokio::time::sleep(PRUNE_EVERY)).await.is_some() {
            if let Err(error) = self.prune(KEEP).await {
                tracing::warn!(%error, "outboxes were not pruned");
            }
        }
    }

    /// Removes rows that are older than `keep` and that every durable consumer has applied; the row that a consumer
    /// applied last stays, so that it can be recognised. An [`Aside`] goes when it is older than it is to stay.
    ///
    /// # Errors
    /// Where an outbox or a consumer's offset cannot be read or written.
    pub async fn prune(&self, keep: Duration) -> Result<u64, Error> {
        let mut pruned = 0;
        for (topic, producer) in &self.0.producers {
            let cursors =
                self.cursors().iter().filter(|cursor| cursor.topic == *topic).cloned().collect::<Vec<_>>();
            let mut lowest = i64::MAX;
            for cursor in &cursors {
                let offset = crate::offset::load(&cursor.db, cursor.consumer, topic, 0).await?;
                lowest = lowest.min(offset.map_or(0, |offset| offset.next - 1));
            }
            pruned += remove(producer, topic, lowest, keep).await?;
        }
        for Aside { topic, db, keep } in &self.0.asides {
            pruned += remove(db, topic, i64::MAX, *keep).await?;
        }
        Ok(pruned)
    }

    /// Registers a durable consumer, so that pruning waits for it.
    pub(crate) fn register(&self, consumer: &'static str, topic: &'static str, db: &Db) {
        let mut cursors = self.cursors();
        if !cursors.iter().any(|cursor| (cursor.consumer, cursor.topic) == (consumer, topic)) {
            cursors.push(Cursor { consumer, topic, db: db.clone() });
        }
    }

    fn cursors(&self) -> std::sync::MutexGuard<'_, Vec<Cursor>> {
        self.0.cursors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn producer(&self, topic: &str) -> &Db {
        let producer = self.0.producers.iter().find(|(name, _)| *name == topic);
        &producer.expect("the log is made with every topic that is read").1
    }

    /// A signal for commits of the databases that hold these topics.
    pub(crate) fn wake(&self, topics: &[&'static str]) -> Wake {
        Wake(topics.iter().map(|topic| self.producer(topic).commits()).collect())
    }

    /// The first offset that is there, and the one after the last.
    pub(crate) async fn bounds(&self, topic: &'static str) -> Result<(i64, i64), Error> {
        let row = query("select min(id) as low, max(id) as high from outbox where topic = $1").bind(topic);
        let row = row.one(self.producer(topic)).await?;
        let (low, high): (Option<i64>, Option<i64>) = (row.get("low")?, row.get("high")?);
        Ok((low.unwrap_or(0), high.map_or(0, |high| high + 1)))
    }

    /// At most `limit` records at and after an offset, in order.
    pub(crate) async fn read(
        &self,
        topic: &'static str,
        from: i64,
        limit: i64,
    ) -> Result<Vec<Record>, Error> {
        let rows = query("select * from outbox where topic = $1 and id >= $2 order by id limit $3");
        let rows = rows.bind(topic).bind(from).bind(limit).all(self.producer(topic)).await?;
        rows.iter().map(|row| record(topic, row)).collect()
    }

    /// What is wrong with the log for a consumer that has read it before: its low, its high, the record applied last
    /// (DESIGN §5).
    pub(crate) async fn mismatch(&self, topic: &'static str, at: Offset) -> Result<Option<Mismatch>, Error> {
        let Some(last) = at.last_event_id else { return Ok(None) };
        let (low, high) = self.bounds(topic).await?;
        if at.next > high {
            return Ok(Some(Mismatch::EndsAt(high)));
        }
        if at.next < low {
            return Ok(Some(Mismatch::BeginsAt(low)));
        }
        let below = self.read(topic, at.next - 1, 1).await?;
        let foreign =
            below.first().is_some_and(|record| record.offset == at.next - 1 && record.event_id != last);
        Ok(foreign.then_some(Mismatch::Foreign))
    }
}

/// Removes a topic's rows below an id that are older than `keep`; how many.
async fn remove(db: &Db, topic: &'static str, below: i64, keep: Duration) -> Result<u64, Error> {
    let keep_us = i64::try_from(keep.as_micros()).unwrap_or(i64::MAX);
    let mut removed = 0;
    loop {
        let mut tx = db.begin().await?;
        let delete = query(
            "delete from outbox where id in (
                select id from outbox
                where topic = $1 and id < $2 and created_at_us < (select now_us from clock) - $3
                order by id limit $4)",
        );
        let delete = delete.bind(topic).bind(below).bind(keep_us).bind(PRUNE_BATCH as i64);
        let batch = delete.execute(&mut tx).await?;
        tx.commit().await?;
        removed += batch;
        if batch < PRUNE_BATCH {
            return Ok(removed);
        }
    }
}

fn record(topic: &'static str, row: &Row) -> Result<Record, Error> {
    Ok(Record {
        topic,
        partition: 0,
        offset: row.get("id")?,
        event_id: row.get("event_id")?,
        key: row.get("key")?,
        version: row.get("version")?,
        kind: row.get("type")?,
        payload: row.get::<Vec<u8>>("payload")?.into(),
        headers: Headers { request_id: row.get("request_id")?, traceparent: row.get("traceparent")? },
        created_at_us: row.get("created_at_us")?,
    })
}

/// Wakes a reader after a commit of one of the producers.
#[derive(Debug)]
pub(crate) struct Wake(Vec<watch::Receiver<u64>>);

impl Wake {
    /// Everything committed so far is about to be read.
    pub(crate) fn reset(&mut self) {
        for commits in &mut self.0 {
            commits.mark_unchanged();
        }
    }

    /// Waits for a commit since the last reset, a second at most.
    pub(crate) async fn woken(&mut self) {
        let any =
            futures_util::future::select_all(self.0.iter_mut().map(|commits| Box::pin(commits.changed())));
        drop(tokio::time::timeout(POLL, any).await);
    }
}

/// A cursor for each topic, in memory.
#[derive(Debug)]
pub(crate) struct Tail {
    log: Local,
    cursors: Vec<(&'static str, i64)>,
    wake: Wake,
}

impl Tail {
    /// Records of one read, at most 500 a topic.
    const LIMIT: i64 = 500;

    /// The next records of one topic.
    pub(crate) async fn next(&mut self) -> Result<Vec<Record>, Error> {
        loop {
            self.wake.reset();
            for index in 0..self.cursors.len() {
                let (topic, from) = self.cursors[index];
                let records = self.log.read(topic, from, Self::LIMIT).await?;
                if let Some(last) = records.last() {
                    self.cursors[index].1 = last.offset + 1;
                    self.cursors[index..].rotate_left(1);
                    return Ok(records);
                }
            }
            self.wake.woken().await;
        }
    }
}
