//! Events from one service's transaction to another's, each applied exactly once. The producer writes them to its outbox
//! together with their cause ([`outbox`]); a [`Log`] carries them; a [`Consumer`] applies a batch and moves its offset in
//! one transaction, so that a crash repeats both or neither. A [`Tail`] follows the log without keeping an offset.
//!
//! Nothing here knows what the events mean: a payload is bytes.

mod consumer;
mod local;
mod offset;
pub mod outbox;
mod record;

pub use consumer::{Apply, BoxError, Consumer};
pub use local::{Local, Tail};
pub use offset::{Mismatch, Stopped};
pub use record::{Event, Headers, Record};

/// The log that carries events from outboxes to consumers.
#[derive(Debug, Clone)]
pub enum Log {
    /// The outbox tables of SQLite databases in this process, read by cursor.
    Local(Local),
}

/// This crate's migrations: `outbox` and `consumer_offset`.
pub static MIGRATIONS: db::Migrations =
    db::Migrations { sqlite: sqlx::migrate!("./migrations/sqlite"), postgres: sqlx::migrate!("./migrations/postgres") };
