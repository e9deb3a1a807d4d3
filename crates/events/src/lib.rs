//! Transactional outbox, event log and consumers. An event is applied exactly once.
//!
//! A producer writes events to its [`outbox`] in the transaction that causes them. A [`Log`] carries
//! them; to Kafka they are copied by a [`Relay`]. A [`Consumer`] applies a batch and moves its offset in
//! one transaction, so that a crash repeats both or neither. A [`Tail`] follows the log without a stored
//! offset. The crate is independent of the domain: payloads are bytes.

mod consumer;
pub mod epoch;
mod error;
mod kafka;
mod lease;
mod local;
mod offset;
pub mod outbox;
mod pace;
mod record;
mod relay;
mod spans;
mod tail;

pub use consumer::{Apply, BoxError, Consumer, Loss, LossKind};
pub use error::Error;
pub use kafka::{Kafka, Topic};
pub use local::{Local, UnconsumedTopic};
pub use offset::{Mismatch, Stopped, forget_positions};
pub use record::{Event, Headers, Record};
pub use relay::Relay;
pub use spans::process;
pub use tail::{Tail, TailBatch};

/// Event log: carries events from outboxes to consumers.
#[derive(Debug, Clone)]
pub enum Log {
    /// Outbox tables of SQLite databases in this process, read by cursor.
    Local(Local),
    /// Kafka topics, filled by one relay per outbox.
    Kafka(Kafka),
}

impl Log {
    /// Follows topics from their current ends, without a stored offset.
    ///
    /// # Errors
    /// [`Error::Database`] or [`Error::Kafka`] if the log cannot be read or a topic does not exist.
    pub async fn tail(&self, topics: &[&'static str]) -> Result<Tail, Error> {
        match self {
            Self::Local(local) => local.tail(topics).await,
            Self::Kafka(kafka) => kafka.tail(topics).await,
        }
    }

    /// Reads the records of topics that were written at `since_us` or later, microseconds since the Unix
    /// epoch, up to the end of the log at the time of this call. The records of a key are in order. Stops
    /// when `visit` returns false.
    ///
    /// # Errors
    /// [`Error::Database`] or [`Error::Kafka`] if the log cannot be read or a topic does not exist.
    pub async fn read(
        &self,
        topics: &[&'static str],
        since_us: i64,
        visit: impl FnMut(Record) -> bool + Send,
    ) -> Result<(), Error> {
        match self {
            Self::Local(local) => Ok(local.read_since(topics, since_us, visit).await?),
            Self::Kafka(kafka) => kafka.read(topics, since_us, visit).await,
        }
    }
}

/// Migrations of the tables `outbox`, `consumer_offset` and `lease`.
pub static MIGRATIONS: db::Migrations = db::Migrations {
    sqlite: sqlx::migrate!("./migrations/sqlite"),
    postgres: sqlx::migrate!("./migrations/postgres"),
};
