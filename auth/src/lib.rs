//! Auth: people, their sessions and the tokens that prove them. It alone knows passwords; everyone else believes the access
//! tokens it signs, by the keys it publishes, until they expire or it says that their session is over.

mod change_password;
mod error;
mod event;
mod grpc;
mod housekeeping;
mod login;
mod password;
mod refresh;
mod register;
mod rename;
mod session;
mod store;
mod user;

use std::{convert::Infallible, future::ready, sync::Arc, time::Duration};

use access::{Guard, KeySet, ServiceToken, SigningKeys};
use db::Db;
use proto::auth::auth_server::AuthServer;
use tokio_util::sync::CancellationToken;

pub use error::Error;

use crate::password::Passwords;

/// This crate's migrations: `account` and `session`. They want those of `db` and `events` beside them.
pub static MIGRATIONS: db::Migrations = db::Migrations {
    sqlite: sqlx::migrate!("./migrations/sqlite"),
    postgres: sqlx::migrate!("./migrations/postgres"),
};

/// How far the clocks of those who sign, verify and store may differ.
const CLOCKS_DIFFER: Duration = Duration::from_secs(60);

/// What auth is told by whoever starts it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Who issues the tokens: their `iss`.
    pub issuer: String,
    /// How long an access token is believed, in whole seconds.
    pub access_ttl: Duration,
    /// How long a session goes on without being refreshed.
    pub refresh_ttl: Duration,
}

impl Settings {
    fn refresh_ttl_us(&self) -> i64 {
        microseconds(self.refresh_ttl)
    }

    /// How long a session that is over is remembered: as long as somebody may show an access token of it.
    fn remembered_us(&self) -> i64 {
        microseconds(self.access_ttl.saturating_add(CLOCKS_DIFFER))
    }
}

fn microseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// The service. Clones are one.
#[derive(Debug, Clone)]
pub struct App {
    db: Db,
    keys: Arc<SigningKeys>,
    guard: Guard,
    passwords: Passwords,
    settings: Arc<Settings>,
}

impl App {
    /// The service over a migrated database. It believes the tokens that it signs, and of services this one.
    pub fn new(db: Db, keys: SigningKeys, service_token: ServiceToken, settings: Settings) -> Self {
        let jwks = keys.jwks();
        let own = KeySet::new(move || ready(Ok::<_, Infallible>(jwks.clone())));
        let guard = Guard::new(own, service_token, settings.issuer.clone());
        Self { db, keys: Arc::new(keys), guard, passwords: Passwords::new(), settings: Arc::new(settings) }
    }

    /// The generated server: for a listener, or with `proto::local` for callers in this process.
    pub fn server(&self) -> AuthServer<Self> {
        AuthServer::new(self.clone())
            .max_decoding_message_size(proto::REQUEST_MAX_BYTES)
            .max_encoding_message_size(proto::ANSWER_MAX_BYTES)
    }

    /// Housekeeping until shutdown: sessions that are over for long are removed.
    pub async fn run(&self, shutdown: CancellationToken) {
        housekeeping::run(self, shutdown).await;
    }
}
