//! Local event log: the outbox tables of the SQLite databases in this process, read by a cursor over
//! ids. SQLite has one writer at a time, so ids become visible in order and a cursor misses none. With
//! Postgres it would miss some.

use std::{sync::Arc, time::Duration};

use db::{Db, Error, Row, query};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    Headers, Record,
    offset::{Mismatch, Offset},
};

/// Interval between deletions of old rows.
const PRUNE_INTERVAL: Duration = Duration::from_secs(600);
/// Maximum number of rows deleted in one transaction, because writers wait for it.
const PRUNE_BATCH_MAX: u64 = 1_000;
/// Retention of events that every consumer has applied, for operators who inspect the last day.
const RETENTION: Duration = Duration::from_secs(24 * 3600);
/// Maximum number of records that a bounded read loads at a time.
const READ_MAX: i64 = 1_000;
/// Interval at which an idle reader polls, in addition to being woken by commits: another process, such as
/// an operator's, announces nothing.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Event log over the outboxes of this process. Clones share the state.
#[derive(Debug, Clone)]
pub struct Local(Arc<Outboxes>);

#[derive(Debug)]
struct Outboxes {
    producers: Vec<(&'static str, Db)>,
    unconsumed: Vec<UnconsumedTopic>,
    consumers: Mutex<Vec<Registration>>,
}

/// Topic of an outbox that no consumer reads, such as dead letters. Its events are deleted by age.
#[derive(Debug, Clone)]
pub struct UnconsumedTopic {
    /// Name of the topic.
    pub topic: &'static str,
    /// Database of the outbox.
    pub db: Db,
    /// Age at which events are deleted.
    pub retention: Duration,
}

/// Consumer of a topic. Events that it has not applied must not be deleted.
#[derive(Debug, Clone)]
struct Registration {
    consumer: &'static str,
    topic: &'static str,
    db: Db,
}

impl Local {
    /// Creates a log over these outboxes, each with the topic that it holds.
    pub fn new(producers: Vec<(&'static str, Db)>) -> Self {
        Self::with_unconsumed_topics(producers, Vec::new())
    }

    /// Creates a log over these outboxes, some of which also hold topics without a consumer.
    pub fn with_unconsumed_topics(
        producers: Vec<(&'static str, Db)>,
        unconsumed: Vec<UnconsumedTopic>,
    ) -> Self {
        Self(Arc::new(Outboxes { producers, unconsumed, consumers: Mutex::default() }))
    }

    /// Follows topics from their current ends, without a stored offset.
    ///
    /// # Errors
    /// [`Error::Database`](crate::Error::Database) if an outbox cannot be read.
    pub async fn tail(&self, topics: &[&'static str]) -> Result<crate::Tail, crate::Error> {
        // Before the ends are read, so that no commit in between is missed.
        let wake = self.follow(topics);
        let mut cursors = Vec::new();
        for topic in topics {
            cursors.push((*topic, self.watermarks(topic).await?.1));
        }
        Ok(crate::Tail::local(Tail { log: self.clone(), cursors, wake, first: 0 }))
    }

    /// Deletes old rows at regular intervals until shutdown.
    pub async fn run(&self, shutdown: CancellationToken) {
        while shutdown.run_until_cancelled(tokio::time::sleep(PRUNE_INTERVAL)).await.is_some() {
            if let Err(error) = self.prune(RETENTION).await {
                tracing::warn!(%error, "pruning the outboxes failed");
            }
        }
    }

    /// Deletes rows that are older than `retention` and that every consumer has applied. Returns the
    /// number of deleted rows. The row that a consumer applied last is kept, because the consumer
    /// recognises the log by it. Rows of an [`UnconsumedTopic`] are deleted after the topic's own
    /// retention.
    ///
    /// # Errors
    /// Any error of the databases with the outboxes and offsets.
    pub async fn prune(&self, retention: Duration) -> Result<u64, Error> {
        let mut pruned = 0;
        for (topic, producer) in &self.0.producers {
            let consumers = self.0.consumers.lock().clone();
            let mut lowest = i64::MAX;
            for Registration { consumer, db, .. } in consumers.iter().filter(|known| known.topic == *topic) {
                let offset = crate::offset::load(db, consumer, topic, 0).await?;
                lowest = lowest.min(offset.map_or(0, |offset| offset.next - 1));
            }
            pruned += delete(producer, topic, lowest, retention).await?;
        }
        for UnconsumedTopic { topic, db, retention } in &self.0.unconsumed {
            pruned += delete(db, topic, i64::MAX, *retention).await?;
        }
        Ok(pruned)
    }

    /// Registers a consumer, so that events are kept until it has applied them.
    pub(crate) fn register(&self, consumer: &'static str, topic: &'static str, db: &Db) {
        let mut consumers = self.0.consumers.lock();
        if !consumers.iter().any(|known| (known.consumer, known.topic) == (consumer, topic)) {
            consumers.push(Registration { consumer, topic, db: db.clone() });
        }
    }

    /// Reads the records of topics that were written at `since_us` or later, topic by topic, up to their
    /// present ends. Stops when `visit` returns false.
    pub(crate) async fn read_since(
        &self,
        topics: &[&'static str],
        since_us: i64,
        mut visit: impl FnMut(Record) -> bool + Send,
    ) -> Result<(), Error> {
        for topic in topics {
            let (low, high) = self.watermarks(topic).await?;
            let mut from = low;
            while from < high {
                let records = self.read(topic, from, READ_MAX).await?;
                let Some(last) = records.last() else { break };
                from = last.offset + 1;
                for record in records {
                    if record.offset < high && record.created_at_us >= since_us && !visit(record) {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    fn producer(&self, topic: &str) -> &Db {
        let producer = self.0.producers.iter().find(|(name, _)| *name == topic);
        &producer.expect("the log was created with every topic that is read").1
    }

    /// Follows topics: returns the signal that says which of them to read.
    pub(crate) fn follow(&self, topics: &[&'static str]) -> Wake {
        let followed = |topic: &&'static str| Followed {
            announcements: self.producer(topic).announcements(topic),
            is_due: true,
        };
        Wake(topics.iter().map(followed).collect())
    }

    /// Returns the low and high watermark: the first offset, and the one after the last.
    pub(crate) async fn watermarks(&self, topic: &'static str) -> Result<(i64, i64), Error> {
        let row = query("select min(id) as low, max(id) as high from outbox where topic = $1").bind(topic);
        let row = row.one(self.producer(topic)).await?;
        let (low, high): (Option<i64>, Option<i64>) = (row.get("low")?, row.get("high")?);
        Ok((low.unwrap_or(0), high.map_or(0, |high| high + 1)))
    }

    /// Reads at most `limit` records from an offset on, in order.
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

    /// Compares the log with the offset of a consumer, and the record before the offset with the one
    /// applied last (docs/design.md#start-of-a-consumer). Returns `None` if they match or if the
    /// consumer has not applied a record yet.
    pub(crate) async fn mismatch(
        &self,
        topic: &'static str,
        offset: Offset,
    ) -> Result<Option<Mismatch>, Error> {
        let Some(last) = offset.last_event_id else { return Ok(None) };
        let (low, high) = self.watermarks(topic).await?;
        if offset.next > high {
            return Ok(Some(Mismatch::EndsAt(high)));
        }
        if offset.next < low {
            return Ok(Some(Mismatch::StartsAt(low)));
        }
        let previous = self.read(topic, offset.next - 1, 1).await?;
        let differs = previous
            .first()
            .is_some_and(|record| record.offset == offset.next - 1 && record.event_id != last);
        Ok(differs.then_some(Mismatch::DifferentRecord))
    }
}

/// Deletes a topic's rows below an id that are older than `retention`. Returns their number.
async fn delete(db: &Db, topic: &'static str, below: i64, retention: Duration) -> Result<u64, Error> {
    let retention_us = i64::try_from(retention.as_micros()).unwrap_or(i64::MAX);
    let mut deleted = 0;
    loop {
        let mut tx = db.begin().await?;
        let delete = query(
            "delete from outbox where id in (
                select id from outbox
                where topic = $1 and id < $2 and created_at_us < (select now_us from clock) - $3
                order by id limit $4)",
        );
        let delete = delete.bind(topic).bind(below).bind(retention_us).bind(PRUNE_BATCH_MAX as i64);
        let batch = delete.execute(&mut tx).await?;
        tx.commit().await?;
        deleted += batch;
        if batch < PRUNE_BATCH_MAX {
            return Ok(deleted);
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

/// Signal that wakes a reader after commits that appended to its topics, so that it neither reads other
/// topics nor wakes for other commits.
#[derive(Debug)]
pub(crate) struct Wake(Vec<Followed>);

#[derive(Debug)]
struct Followed {
    announcements: watch::Receiver<u64>,
    /// The topic may have records that the reader has not read.
    is_due: bool,
}

impl Wake {
    /// Returns true if the topic with this index may have unread records. It stays due until
    /// [`Wake::is_read`], so a reader that fails or is cancelled reads it again.
    pub(crate) fn is_due(&mut self, index: usize) -> bool {
        let Followed { announcements, is_due } = &mut self.0[index];
        // Before the read, so that a commit during the read makes the topic due once more.
        *is_due |= announcements.has_changed().unwrap_or(true);
        announcements.mark_unchanged();
        *is_due
    }

    /// Reports that a topic was read to its end.
    pub(crate) fn is_read(&mut self, index: usize) {
        self.0[index].is_due = false;
    }

    /// Waits until a topic is due, for at most one second; then all are.
    pub(crate) async fn wait(&mut self) {
        if self.0.iter().any(|followed| followed.is_due) {
            return;
        }
        let changes = self.0.iter_mut().map(|followed| Box::pin(followed.announcements.changed()));
        let any = futures_util::future::select_all(changes);
        // The changes of other topics are not taken yet: the next `is_due` sees them.
        let changed = tokio::time::timeout(POLL_INTERVAL, any).await.ok().map(|(_, index, _)| index);
        match changed {
            Some(index) => self.0[index].is_due = true,
            None => self.0.iter_mut().for_each(|followed| followed.is_due = true),
        }
    }
}

/// Tail of the local log: one cursor per topic, in memory.
#[derive(Debug)]
pub(crate) struct Tail {
    log: Local,
    cursors: Vec<(&'static str, i64)>,
    wake: Wake,
    /// Index of the topic to read first, so that a busy one does not starve the others.
    first: usize,
}

impl Tail {
    /// Maximum number of records per batch.
    const BATCH_MAX: usize = 500;

    /// Waits for the next records. All records of a batch have the same topic.
    pub(crate) async fn next(&mut self) -> Result<Vec<Record>, Error> {
        loop {
            for step in 0..self.cursors.len() {
                let index = (self.first + step) % self.cursors.len();
                if !self.wake.is_due(index) {
                    continue;
                }
                let (topic, from) = self.cursors[index];
                let records = self.log.read(topic, from, Self::BATCH_MAX as i64).await?;
                if records.len() < Self::BATCH_MAX {
                    self.wake.is_read(index);
                }
                if let Some(last) = records.last() {
                    self.cursors[index].1 = last.offset + 1;
                    self.first = index + 1;
                    return Ok(records);
                }
            }
            self.wake.wait().await;
        }
    }
}
