//! Counter service: unread counts and read pointers, exact after every transaction.
//!
//! It consumes the events of auth and dialog from the event log, replies to the sagas of messages, and
//! publishes every change of a user's counts. [`kernel`] holds the counting rules; the store implements
//! them in SQL.

mod cache;
mod call;
mod count;
mod derived;
mod error;
pub mod event;
mod grpc;
mod heal;
pub mod kernel;
mod maintenance;
mod publish;
mod repair;
mod restore;
mod settle;
mod store;
mod unread;

use access::{Guard, ServiceToken};
use db::Db;
use events::{Consumer, Log, Stopped};
use proto::{DialogId, MessageId, Peer, counter::counters_server::CountersServer, topic};
use telemetry::readiness::Component;
use tokio_util::sync::CancellationToken;

use cache::loader::Loader;

pub use cache::{Cache, CacheError};
pub use derived::{Drift, Subject};
pub use error::Error;
pub use maintenance::{
    Explanation, Findings, Maintenance, Progress, Rebuilt, Report, Selection, UnreadMessage,
};

/// Rules without I/O, for the model of the saga (tests/saga_model) only.
#[doc(hidden)]
pub mod rules {
    pub use crate::{
        cache::{
            entry::{Delta, Entry},
            parse_delta,
        },
        publish::{saga_reply, unread_changed},
        settle::{Outcome, Request},
        store::Epoch,
        unread::{Row, Unread, Version},
    };
}

/// Migrations of the counter's database, to be applied after those of `db` and `events`.
pub static MIGRATIONS: db::Migrations = db::Migrations {
    sqlite: sqlx::migrate!("./migrations/sqlite"),
    postgres: sqlx::migrate!("./migrations/postgres"),
};

/// Counter service. Cheap to clone.
#[derive(Debug, Clone)]
pub struct App {
    db: Db,
    log: Log,
    cache: Cache,
    loader: Loader,
    guard: Guard,
    service_token: ServiceToken,
}

/// Returns the message that has a `seq` in the ledger, and its state: counted, refused or deleted.
///
/// # Errors
/// Any error of the database.
pub async fn ledger_entry(
    db: &Db,
    dialog_id: DialogId,
    seq: i64,
) -> Result<Option<(MessageId, String)>, db::Error> {
    store::maintenance::entry(db, dialog_id, seq).await
}

impl App {
    /// Creates the service on a migrated database. `guard` authenticates callers; `service_token`
    /// authenticates the service's own calls to dialog.
    pub fn new(db: Db, log: Log, cache: Cache, guard: Guard, service_token: ServiceToken) -> Self {
        let loader = Loader::new(db.clone(), cache.clone());
        Self { db, log, cache, loader, guard, service_token }
    }

    /// Returns the gRPC server.
    pub fn server(&self) -> CountersServer<Self> {
        CountersServer::new(self.clone())
            .max_decoding_message_size(proto::REQUEST_MAX_BYTES)
            .max_encoding_message_size(proto::RESPONSE_MAX_BYTES)
    }

    /// Runs the consumer, the cache's writer and the repair of gaps until shut down.
    ///
    /// # Errors
    /// [`Stopped`] if the log is not the one that was consumed before. Counting then stops at once, with
    /// an error line and a degraded `component`. Reads, cache and repair continue, so the error is
    /// returned only after the shutdown.
    pub async fn run(
        &self,
        dialog: Peer,
        component: Component,
        shutdown: CancellationToken,
    ) -> Result<(), Stopped> {
        component.ready();
        count_from_zero();
        let topics = &[topic::AUTH, topic::DIALOG];
        let handler = count::Handler { loader: self.loader.clone() };
        let consumer = Consumer::new(count::CONSUMER, topics, &self.log, &self.db, handler);
        let maintenance = Maintenance::new(self.db.clone(), None, dialog.clone(), self.service_token.clone());
        let comparison = Box::pin(maintenance::background::run(maintenance, shutdown.clone()));
        let repair = repair::Repair {
            db: self.db.clone(),
            loader: self.loader.clone(),
            dialog,
            service_token: self.service_token.clone(),
        };
        let counting = Box::pin(async {
            let stopped = consumer.run(shutdown.clone()).await;
            if let Err(stopped) = &stopped {
                tracing::error!(error = %stopped, "counting has stopped");
                component.degraded(format!("counting has stopped: {stopped}"));
            }
            stopped
        });
        let cache = Box::pin(self.cache.run(&self.log, &self.db, shutdown.clone()));
        let repair = Box::pin(repair.run(shutdown.clone()));
        let restore = Box::pin(restore::watch(&self.db, &self.loader, shutdown.clone()));
        let (stopped, (), (), (), ()) = tokio::join!(counting, cache, repair, restore, comparison);
        stopped
    }

    /// Recognises that the database may have been replaced by a copy since it was last used, and raises
    /// the epoch then. To be called once, before the service answers.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn recognise_restore(&self) -> Result<(), db::Error> {
        restore::recognise(&self.db, &self.loader).await
    }
}

/// Starts counters at 0, so that the first failure, and the first hit of the cache, is an increase.
fn count_from_zero() {
    for hit in ["yes", "no"] {
        metrics::counter!("counter_cache_total", "hit" => hit).increment(0);
    }
    metrics::counter!("dead_letters_total", "consumer" => count::CONSUMER).increment(0);
    metrics::counter!("counter_blocked_total").increment(0);
}
