//! How far a consumer has come, and whether the log it finds is the one it read before.

use db::{Db, Error, Tx, query};
use uuid::Uuid;

use crate::Record;

/// A consumer stopped for good: applying on would count from the wrong place. An operator decides.
#[derive(Debug, thiserror::Error)]
#[error(
    "{consumer} stopped at {topic}/{partition} before offset {next}: {why}; restore the log or the database so that they fit, and start it again"
)]
pub struct Stopped {
    /// Who.
    pub consumer: &'static str,
    /// In which topic.
    pub topic: &'static str,
    /// In which part of it.
    pub partition: i64,
    /// The first offset not applied yet.
    pub next: i64,
    /// What is wrong with the log.
    pub why: Mismatch,
}

impl Stopped {
    /// Moves the consumer's place to where it can go on, over whatever is missing between: for one whose effect wants no
    /// continuity. The database is the one that it keeps its offsets in.
    ///
    /// # Errors
    /// Where the database cannot be written.
    pub async fn skip(&self, db: &Db) -> Result<(), Error> {
        let next = match self.why {
            Mismatch::BeginsAt(place) | Mismatch::EndsAt(place) | Mismatch::CommittedAt(place) => place,
            Mismatch::Foreign => self.next,
        };
        let mut tx = db.begin().await?;
        let place = query(
            "insert into consumer_offset (consumer, topic, partition, next_offset) values ($1, $2, $3, $4)
             on conflict (consumer, topic, partition) do update set next_offset = $4, last_event_id = null",
        );
        place.bind(self.consumer).bind(self.topic).bind(self.partition).bind(next).execute(&mut tx).await?;
        tx.commit().await
    }
}

/// How a log shows that it is not the one that was read before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// It ends before our offset: it lost its data, or our database is of another log.
    #[error("the log ends at {0}")]
    EndsAt(i64),
    /// It begins after our offset: events were removed that nobody here applied.
    #[error("the log begins at {0}")]
    BeginsAt(i64),
    /// The record below our offset is not the one we applied.
    #[error("the record before it is another one")]
    Foreign,
    /// Kafka has seen us further than our database knows: the database was restored from an older day.
    #[error("Kafka remembers that we applied up to {0}: our database is older than that")]
    CommittedAt(i64),
}

/// A consumer's place in one part of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Offset {
    /// The first offset not applied yet.
    pub next: i64,
    /// The record applied last.
    pub last_event_id: Option<Uuid>,
}

impl Offset {
    /// The place after a record.
    pub(crate) fn after(last: &Record) -> Self {
        Self { next: last.offset + 1, last_event_id: Some(last.event_id) }
    }
}

/// The stored offset, where the consumer has been here before.
pub(crate) async fn load(
    db: &Db,
    consumer: &str,
    topic: &str,
    partition: i64,
) -> Result<Option<Offset>, Error> {
    let row = query(
        "select next_offset, last_event_id from consumer_offset where consumer = $1 and topic = $2 and partition = $3",
    );
    let Some(row) = row.bind(consumer).bind(topic).bind(partition).optional(db).await? else {
        return Ok(None);
    };
    Ok(Some(Offset { next: row.get("next_offset")?, last_event_id: row.get("last_event_id")? }))
}

/// Stores where a new consumer begins.
pub(crate) async fn begin(
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

/// Moves the offset inside the effect's transaction. `false`: another process has moved it meanwhile, and this one is a
/// zombie that must roll back.
pub(crate) async fn advance(
    tx: &mut Tx,
    (consumer, topic, partition): (&str, &str, i64),
    from: Offset,
    to: Offset,
) -> Result<bool, Error> {
    let update = query(
        "update consumer_offset set next_offset = $5, last_event_id = $6
         where consumer = $1 and topic = $2 and partition = $3 and next_offset = $4",
    );
    let update = update
        .bind(consumer)
        .bind(topic)
        .bind(partition)
        .bind(from.next)
        .bind(to.next)
        .bind(to.last_event_id);
    Ok(update.execute(tx).await? == 1)
}
