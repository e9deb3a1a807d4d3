//! Stored offset of a consumer, and the errors of a log that does not match it.

use db::{Db, Error, Tx, query};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::Record;

/// A consumer stopped permanently, because log and database do not match and the next record could be
/// the wrong one. An operator must resolve it.
#[derive(Debug, thiserror::Error)]
#[error(
    "{consumer} stopped at {topic}/{partition} before offset {next}: {reason}; \
     restore the log or the database so that they match, then restart"
)]
pub struct Stopped {
    /// Name of the consumer.
    pub consumer: &'static str,
    /// Topic.
    pub topic: &'static str,
    /// Partition of the topic.
    pub partition: i64,
    /// First offset that is not applied.
    pub next: i64,
    /// Difference between log and database.
    pub reason: Mismatch,
}

impl Stopped {
    /// Moves the stored offset to the next one that the log can deliver. Records in between are skipped,
    /// so this is only for consumers that tolerate gaps. `db` is the database with the consumer's
    /// offsets.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn skip(&self, db: &Db) -> Result<(), Error> {
        let next = match self.reason {
            Mismatch::StartsAt(offset) | Mismatch::EndsAt(offset) | Mismatch::CommittedAt(offset) => offset,
            Mismatch::DifferentRecord => self.next,
        };
        let mut tx = db.begin().await?;
        let update = query(
            "insert into consumer_offset (consumer, topic, partition, next_offset) values ($1, $2, $3, $4)
             on conflict (consumer, topic, partition) do update set next_offset = $4, last_event_id = null",
        );
        update.bind(self.consumer).bind(self.topic).bind(self.partition).bind(next).execute(&mut tx).await?;
        tx.commit().await
    }
}

/// Sign that the log is not the one that the consumer read before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// The log ends before the stored offset: it lost records, or the database belongs to another log.
    #[error("the log ends at {0}")]
    EndsAt(i64),
    /// The log starts after the stored offset: records were deleted before they were applied.
    #[error("the log starts at {0}")]
    StartsAt(i64),
    /// The record before the stored offset is not the one that was applied.
    #[error("the record before the position differs")]
    DifferentRecord,
    /// The offset committed to Kafka is ahead of the stored one: the database was restored from an older
    /// backup.
    #[error("Kafka's committed offset is higher: {0}")]
    CommittedAt(i64),
}

/// Position of a consumer in one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Offset {
    /// First offset that is not applied.
    pub next: i64,
    /// Identity of the last applied record.
    pub last_event_id: Option<Uuid>,
}

impl Offset {
    /// Returns the position after a record.
    pub(crate) fn after(last: &Record) -> Self {
        Self { next: last.offset + 1, last_event_id: Some(last.event_id) }
    }
}

/// Loads the stored offset; `None` if the consumer is new.
pub(crate) async fn load(
    db: &Db,
    consumer: &str,
    topic: &str,
    partition: i64,
) -> Result<Option<Offset>, Error> {
    let row = query(
        "select next_offset, last_event_id from consumer_offset
         where consumer = $1 and topic = $2 and partition = $3",
    );
    let Some(row) = row.bind(consumer).bind(topic).bind(partition).optional(db).await? else {
        return Ok(None);
    };
    Ok(Some(Offset { next: row.get("next_offset")?, last_event_id: row.get("last_event_id")? }))
}

/// Stores the start offset of a new consumer.
pub(crate) async fn create(
    db: &Db,
    consumer: &str,
    topic: &str,
    partition: i64,
    next: i64,
) -> Result<Offset, Error> {
    let mut tx = db.begin().await?;
    let insert = query(
        "insert into consumer_offset (consumer, topic, partition, next_offset) values ($1, $2, $3, $4)
         on conflict (consumer, topic, partition) do nothing",
    );
    insert.bind(consumer).bind(topic).bind(partition).bind(next).execute(&mut tx).await?;
    tx.commit().await?;
    Ok(Offset { next, last_event_id: None })
}

/// Deletes the positions of all consumers of a database, which then start at the beginning of the log: for
/// a log that was lost or replaced, once the state was made again. Returns their number.
///
/// # Errors
/// Any error of the database.
pub async fn forget_positions(tx: &mut Tx) -> Result<u64, Error> {
    query("delete from consumer_offset").execute(tx).await
}

/// Moves the offset of a partition over records that are not applied, or stores the first one. Returns
/// `false` if another process has moved it, in which case the caller must roll back.
pub(crate) async fn reset(
    tx: &mut Tx,
    (consumer, topic, partition): (&str, &str, i64),
    from: i64,
    to: i64,
) -> Result<bool, Error> {
    let upsert = query(
        "insert into consumer_offset (consumer, topic, partition, next_offset) values ($1, $2, $3, $5)
         on conflict (consumer, topic, partition) do update set next_offset = $5, last_event_id = null
         where consumer_offset.next_offset = $4",
    );
    let upsert = upsert.bind(consumer).bind(topic).bind(partition).bind(from).bind(to);
    Ok(upsert.execute(tx).await? == 1)
}

/// Move of the offset of one partition.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Move {
    pub topic: &'static str,
    pub partition: i64,
    pub from: Offset,
    pub to: Offset,
}

/// Moves the offsets of partitions in the transaction that applies the records. Returns `false` if
/// another process has moved one of them, in which case the caller must roll back.
pub(crate) async fn advance(tx: &mut Tx, consumer: &str, moves: &[Move]) -> Result<bool, Error> {
    let update = query(
        "update consumer_offset set next_offset = r.next_offset, last_event_id = r.last_event_id
         from rows($2: topic text, partition bigint, from_offset bigint, next_offset bigint, \
                       last_event_id uuid) as r
         where consumer_offset.consumer = $1 and consumer_offset.topic = r.topic
             and consumer_offset.partition = r.partition and consumer_offset.next_offset = r.from_offset",
    );
    let row = |Move { topic, partition, from, to }: &Move| {
        json!({
            "topic": topic,
            "partition": partition,
            "from_offset": from.next,
            "next_offset": to.next,
            "last_event_id": to.last_event_id,
        })
    };
    let rows: Value = moves.iter().map(row).collect();
    Ok(update.bind(consumer).bind(rows).execute(tx).await? == moves.len() as u64)
}
