//! The counter: unread counts, exact after every transaction, and the pointers of who has read up to where. It counts what
//! auth and dialog tell through the log, replies to the sagas of messages, and tells every change of a person's numbers.
//!
//! The rules are in [`kernel`]; the store does the same in SQL.

mod cache;
mod count;
mod error;
pub mod event;
mod fills;
mod grpc;
pub mod kernel;
mod publish;
pub mod read;
mod repair;
pub mod settle;
mod slot;
mod store;
pub mod unread;

use access::{Guard, ServiceToken};
use db::Db;
use events::{Consumer, Log, Stopped};
use proto::{Peer, counter::counters_server::CountersServer, topic};
use telemetry::readiness::Component;
use tokio_util::sync::CancellationToken;

pub use cache::{Cache, Trouble};
pub use error::Error;
use fills::Fills;

/// This service's migrations; its database needs those of `db` and `events` too.
pub static MIGRATIONS: db::Migrations = db::Migrations {
    sqlite: sqlx::migrate!("./migrations/sqlite"),
    postgres: sqlx::migrate!("./migrations/postgres"),
};

/// The counter service. Cheap to clone.
#[derive(Debug, Clone)]
pub struct App {
    db: Db,
    log: Log,
    cache: Cache,
    fills: Fills,
    guard: Guard,
    service_token: ServiceToken,
}

impl App {
    /// The service over its migrated database; the guard knows who calls, and the token is shown to dialog.
    pub fn new(db: Db, log: Log, cache: Cache, guard: Guard, service_token: ServiceToken) -> Self {
        let fills = Fills::new(db.clone(), cache.clone());
        Self { db, log, cache, fills, guard, service_token }
    }

    /// The generated server.
    pub fn server(&self) -> CountersServer<Self> {
        CountersServer::new(self.clone())
            .max_decoding_message_size(proto::REQUEST_MAX_BYTES)
            .max_encoding_message_size(proto::ANSWER_MAX_BYTES)
    }

    /// Counts the events of the log, keeps the cache and asks dialog for what is missing, until shut down.
    ///
    /// # Errors
    /// [`Stopped`] where the log is not the one that was counted before: counting has stopped, told in one log line and
    /// by the component at that time, while everything else went on until shut down.
    pub async fn run(
        &self,
        dialog: Peer,
        component: Component,
        shutdown: CancellationToken,
    ) -> Result<(), Stopped> {
        component.ready();
        let topics = &[topic::AUTH, topic::DIALOG];
        let consumer = Consumer::new(count::CONSUMER, topics, &self.log, &self.db, count::Count);
        let repair =
            repair::Repair { db: self.db.clone(), dialog, service_token: self.service_token.clone() };
        let counting = Box::pin(async {
            let stopped = consumer.run(shutdown.clone()).await;
            if let Err(stopped) = &stopped {
                tracing::error!(error = %stopped, "counting has stopped");
                component.degraded(format!("counting has stopped: {stopped}"));
            }
            stopped
        });
        let cache = Box::pin(self.cache.run(&self.log, &self.db, shutdown.clone()));
        let (stopped, (), ()) = tokio::join!(counting, cache, Box::pin(repair.run(shutdown.clone())));
        stopped
    }
}
