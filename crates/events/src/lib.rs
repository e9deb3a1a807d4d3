//! Events from one service's transaction to another's, each applied exactly once. The producer writes them to its outbox
//! together with their cause ([`outbox`]); a [`Log`] carries them (to Kafka by a [`Relay`]); a [`Consumer`] applies a batch
//! and moves its offset in one transaction, so that a crash repeats both or neither. A [`Tail`] follows the log without
//! keeping an offset.
//!
//! Nothing here knows what the events mean: a payload is bytes.

mod consumer;
mod error;
mod kafka;
mod lease;
mod local;
mod offset;
pub mod outbox;
mod record;
mod relay;
mod tail;

pub use consumer::{Apply, BoxError, Consumer};
pub use error::Error;
pub use kafka::{Kafka, Topic};
pub use local::{Aside, Local};
pub use offset::{Mismatch, Stopped};
pub use record::{Event, Headers, Record};
pub use relay::Relay;
pub use tail::{Next, Tail};

/// The log that carries events from outboxes to consumers.
#[derive(Debug, Clone)]
pub enum Log {
    /// The outbox tables of SQLite databases in this process, read by cursor.
    Local(Local),
    /// Kafka, filled by a relay beside each outbox.
    Kafka(Kafka),
}

impl Log {
    /// Follows topics from their ends, without keeping an offset.
    ///
    /// # Errors
    /// Where the log cannot be read, or a topic is not there.
    pub async fn tail(&self, topics: &[&'static str]) -> Result<Tail, Error> {
        match self {
            Self::Local(local) => local.tail(topics).await,
            Self::Kafka(kafka) => kafka.tail(topics).await,
        }
    }
}

/// This crate's migrations: `outbox`, `consumer_offset` and `lease`.
pub static MIGRATIONS: db::Migrations = db::Migrations {
    sqlite: sqlx::migrate!("./migrations/sqlite"),
    postgres: sqlx::migrate!("./migrations/postgres"),
};
