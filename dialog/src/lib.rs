//! Dialog service: dialogs, participants, messages, and the saga that counts each message.
//!
//! A message is visible as soon as it is stored. The counter confirms it through the event log; the
//! sweeper asks the counter directly about a message that is not confirmed in time. Every change of a
//! dialog appends one event and increments the dialog's version by one.

mod change;
mod create;
mod delete;
mod dialog;
mod error;
mod grpc;
mod history;
mod list;
mod locked_dialog;
mod membership;
mod message;
mod page;
mod participants;
mod rename;
mod replies;
mod restore;
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
use proto::{Peer, TransactionId, dialog::dialogs_server::DialogsServer, topic};
use telemetry::{grpc::client_layer, readiness::Component};
use tokio_util::sync::CancellationToken;
use tower::Layer;

pub use error::Error;
pub use store::saga::StoredMessage;

/// Rules without I/O, for the model of the saga (tests/saga_model) only.
#[doc(hidden)]
pub mod rules {
    pub use crate::{
        locked_dialog::LockedDialog,
        message::Status,
        saga::{InvalidReply, Outcome, Reply, transition},
        store::saga::{SagaState, Transition},
    };
}

/// Migrations of the dialog database. Run them with the migrations of `db` and `events`.
pub static MIGRATIONS: db::Migrations = db::Migrations {
    sqlite: sqlx::migrate!("./migrations/sqlite"),
    postgres: sqlx::migrate!("./migrations/postgres"),
};

/// Settings of the service.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Time after which the sweeper asks the counter about a message that is still PENDING.
    pub saga_deadline: Duration,
}

/// Returns the message of a saga.
///
/// # Errors
/// Any error of the database.
pub async fn stored_message(db: &Db, transaction: TransactionId) -> Result<Option<StoredMessage>, db::Error> {
    store::saga::stored_message(db, transaction).await
}

/// Dialog service. Cheap to clone; clones share their state.
#[derive(Debug, Clone)]
pub struct App {
    db: Db,
    sends: send::Queue,
    guard: Guard,
    auth: Peer,
    settings: Settings,
}

impl App {
    /// Creates the service over a migrated database. `auth` is called to check that users exist.
    pub fn new(db: Db, guard: Guard, auth: Peer, settings: Settings) -> Self {
        let sends = send::Queue::new(&db);
        Self { db, sends, guard, auth: instrumented("auth", auth), settings }
    }

    /// Returns the gRPC server, for a listener or, with `proto::local`, for callers in this process.
    pub fn server(&self) -> DialogsServer<Self> {
        DialogsServer::new(self.clone())
            .max_decoding_message_size(proto::REQUEST_MAX_BYTES)
            .max_encoding_message_size(proto::RESPONSE_MAX_BYTES)
    }

    /// Runs the background work until shutdown: consumes the counter's replies and sweeps overdue
    /// messages.
    ///
    /// # Errors
    /// [`Stopped`] if the log is not the one that was consumed before, for example after a restore. It
    /// is logged and `component` becomes degraded immediately; the sweeper continues until shutdown, and
    /// the error is returned then.
    pub async fn run(
        &self,
        log: &Log,
        counter: Peer,
        service_token: ServiceToken,
        component: Component,
        shutdown: CancellationToken,
    ) -> Result<(), Stopped> {
        component.ready();
        count_from_zero();
        let consumer =
            Consumer::new(replies::CONSUMER, &[topic::COUNTER], log, &self.db, replies::ReplyHandler);
        let replies = async {
            let stopped = consumer.run(shutdown.clone()).await;
            stopped.inspect_err(|error| {
                tracing::error!(%error, "the consumer of counter replies stopped");
                component.degraded(format!("the consumer of counter replies stopped: {error}"));
            })
        };
        let counter = instrumented("counter", counter);
        let sweeper =
            sweeper::run(&self.db, counter, &service_token, self.settings.saga_deadline, shutdown.clone());
        let measured = sweeper::measure(&self.db, shutdown.clone());
        tokio::join!(replies, Box::pin(sweeper), measured, restore::watch(&self.db, shutdown.clone())).0
    }

    /// Recognises that the database may have been replaced by a copy since it was last used, and raises
    /// the epoch then. To be called once, before the service answers.
    ///
    /// # Errors
    /// Any error of the database.
    pub async fn recognise_restore(&self) -> Result<(), db::Error> {
        restore::recognise(&self.db).await
    }
}

/// Starts the counters of failures at 0, so that the first failure is an increase.
fn count_from_zero() {
    metrics::counter!("dead_letters_total", "consumer" => replies::CONSUMER).increment(0);
    metrics::counter!("sagas_asked_total").increment(0);
    metrics::counter!("sends_refused_total").increment(0);
}

/// Adds metrics, tracing and deadlines to the calls of a peer. A transport failure becomes UNAVAILABLE.
fn instrumented(name: &'static str, peer: Peer) -> Peer {
    Peer::new(client_layer(name).layer(peer))
}
