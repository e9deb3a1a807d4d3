//! Auth service: user accounts, sessions, and the access and refresh tokens that authenticate them.
//!
//! It is the only service that handles passwords. The others verify access tokens with the public keys
//! that it publishes and accept them until they expire or the session is revoked.

mod change_password;
mod cleanup;
mod client;
mod device;
mod end_session;
mod error;
mod event;
mod grpc;
mod known_address;
mod login;
mod open_session;
mod password;
mod refresh_token;
mod register;
mod rename;
mod revoked;
mod session;
mod store;
mod user;
mod verify_password;

use std::{convert::Infallible, future::ready, sync::Arc, time::Duration};

use access::{Guard, KeySet, ServiceToken, SigningKeys};
use db::Db;
use proto::auth::auth_server::AuthServer;
use tokio_util::sync::CancellationToken;

pub use error::Error;

use crate::password::Passwords;

/// Migrations of the tables `account` and `session`. Run them with the migrations of `db` and `events`.
pub static MIGRATIONS: db::Migrations = db::Migrations {
    sqlite: sqlx::migrate!("./migrations/sqlite"),
    postgres: sqlx::migrate!("./migrations/postgres"),
};

/// Tolerated difference between the clocks that sign a token, verify it and record the end of its
/// session.
const CLOCK_SKEW_MAX: Duration = Duration::from_secs(60);

/// Settings of the service.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Issuer of access tokens, their `iss` claim.
    pub issuer: String,
    /// Lifetime of an access token. Fractions of a second are dropped.
    pub access_ttl: Duration,
    /// Lifetime of a refresh token. A session that is not refreshed within it expires.
    pub refresh_ttl: Duration,
}

impl Settings {
    fn refresh_ttl_us(&self) -> i64 {
        microseconds(self.refresh_ttl)
    }

    /// Returns the time for which an ended session is kept at least: until an access token that was issued
    /// at its end has expired on every clock.
    fn revocation_window_us(&self) -> i64 {
        microseconds(self.access_ttl.saturating_add(CLOCK_SKEW_MAX))
    }
}

fn microseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// The service. Cheap to clone; clones share their state.
#[derive(Debug, Clone)]
pub struct App {
    db: Db,
    keys: Arc<SigningKeys>,
    guard: Guard,
    passwords: Passwords,
    settings: Arc<Settings>,
}

impl App {
    /// Creates the service over a migrated database. It accepts access tokens signed with `keys`, and
    /// `service_token` from other services.
    pub fn new(db: Db, keys: SigningKeys, service_token: ServiceToken, settings: Settings) -> Self {
        let jwks = keys.jwks();
        // Its own keys, without a call: they do not change while the process runs.
        let key_set = KeySet::new(move || ready(Ok::<_, Infallible>(jwks.clone())));
        let guard = Guard::new(key_set, service_token, settings.issuer.clone());
        telemetry::panic::count_from_zero(&["password"]);
        password::count_refusals_from_zero();
        Self { db, keys: Arc::new(keys), guard, passwords: Passwords::new(), settings: Arc::new(settings) }
    }

    /// Returns the gRPC server, for a listener or, with `proto::local`, for callers in this process.
    pub fn server(&self) -> AuthServer<Self> {
        AuthServer::new(self.clone())
            .max_decoding_message_size(proto::REQUEST_MAX_BYTES)
            .max_encoding_message_size(proto::RESPONSE_MAX_BYTES)
    }

    /// Runs the background work until shutdown: deletes sessions that ended or expired long ago.
    pub async fn run(&self, shutdown: CancellationToken) {
        cleanup::run(self, shutdown).await;
    }
}
