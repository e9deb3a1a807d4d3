//! The dialog service: who talks with whom, what was said, and where each message stands in its saga. A message is visible
//! as soon as it is stored; the counters confirm it through the log, and whoever they do not answer for in time is asked
//! about directly. Every change of a dialog is one event and one step of the dialog's version.

mod change;
mod create;
mod delete;
mod dialog;
mod error;
mod grpc;
mod held;
mod history;
mod list;
mod membership;
mod message;
mod page;
mod participants;
mod replies;
mod saga;
mod send;
mod store;
mod sweeper;
mod text;
mod wire;

use std::time::Duration;

use access::{Guard, ServiceToken};
use db::Db;
use events::{Consumer, Log, Stopped};
use proto::{Peer, dialog::dialogs_server::DialogsServer, topic};
use telemetry::{grpc::client_layer, readiness::Component};
use tokio_util::sync::CancellationToken;
use tower::Layer;

pub use error::Error;

/// This crate's migrations; a dialog database also has those of `db` and `events`.
pub static MIGRATIONS: db::Migrations = db::Migrations {
    sqlite: sqlx::migrate!("./migrations/sqlite"),
    postgres: sqlx::migrate!("./migrations/postgres"),
};

/// What can be set.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// How long a message may be pending before the counters are asked what became of it.
    pub saga_deadline: Duration,
}

/// The dialog service. Clones share everything.
#[derive(Debug, Clone)]
pub struct App {
    db: Db,
    guard: Guard,
    auth: Peer,
    settings: Settings,
}

impl App {
    /// The service over its database; `auth` says who exists.
    pub fn new(db: Db, guard: Guard, auth: Peer, settings: Settings) -> Self {
        Self { db, guard, auth: seen("auth", auth), settings }
    }

    /// The server, to be called in this process or behind a port.
    pub fn server(&self) -> DialogsServer<Self> {
        DialogsServer::new(self.clone())
            .max_decoding_message_size(proto::REQUEST_MAX_BYTES)
            .max_encoding_message_size(proto::ANSWER_MAX_BYTES)
    }

    /// The loops in the background until shut down: the replies of the counters are applied, and overdue messages settled.
    ///
    /// # Errors
    /// [`Stopped`] where the log of the replies is not the one that was read before. That is logged and told by the
    /// component at once; overdue messages are settled nevertheless until shutdown.
    pub async fn run(
        &self,
        log: &Log,
        counter: Peer,
        service_token: ServiceToken,
        component: Component,
        shutdown: CancellationToken,
    ) -> Result<(), Stopped> {
        component.ready();
        let consumer = Consumer::new(replies::CONSUMER, &[topic::COUNTER], log, &self.db, replies::Replies);
        let replies = async {
            let stopped = consumer.run(shutdown.clone()).await;
            stopped.inspect_err(|error| {
                tracing::error!(%error, "the replies of the counters are not read any more");
                component.degraded(format!("the replies of the counters are not read any more: {error}"));
            })
        };
        let counter = seen("counter", counter);
        let sweeper =
            sweeper::run(&self.db, counter, &service_token, self.settings.saga_deadline, shutdown.clone());
        tokio::join!(replies, sweeper).0
    }
}

/// A peer whose calls are measured, end in time, and fail as UNAVAILABLE where it is away.
fn seen(name: &'static str, peer: Peer) -> Peer {
    Peer::new(client_layer(name).layer(peer))
}
