//! How the services are made from their settings, the same in one process and in many.

use std::time::Duration;

use access::{Guard, KeySet, ServiceToken, SigningKeys};
use counter::Cache;
use db::Db;
use events::Log;
use gateway::peers::Peers;
use proto::{
    Peer,
    auth::{KeysRequest, auth_client::AuthClient},
};
use telemetry::Readiness;

use crate::{engine, process::Process, settings::Tokens};

/// Auth over its database.
pub fn auth(
    process: &mut Process,
    db: &Db,
    keys: SigningKeys,
    token: &ServiceToken,
    tokens: &Tokens,
    access_ttl: Duration,
) -> auth::App {
    let (issuer, refresh_ttl) = (tokens.token_issuer.clone(), tokens.refresh_token_ttl);
    let settings = auth::Settings { issuer, access_ttl, refresh_ttl };
    let app = auth::App::new(db.clone(), keys, token.clone(), settings);
    let (running, shutdown) = (app.clone(), process.shutdown.clone());
    process.spawn(async move { running.run(shutdown).await });
    app
}

/// Whom everyone but auth believes: by the keys that auth publishes.
pub fn guard(auth: &Peer, token: &ServiceToken, issuer: &str) -> Guard {
    let auth = auth.clone();
    let keys = KeySet::new(move || {
        let mut client = AuthClient::new(auth.clone());
        async move { client.keys(KeysRequest {}).await.map(|reply| reply.into_inner().jwks) }
    });
    Guard::new(keys, token.clone(), issuer)
}

/// Runs dialog's loops. A consumer that stops says so itself, once; the rest goes on.
pub fn run_dialog(process: &mut Process, app: &dialog::App, log: &Log, counter: Peer, token: &ServiceToken) {
    let (app, log, token, shutdown) = (app.clone(), log.clone(), token.clone(), process.shutdown.clone());
    process.spawn(async move { drop(app.run(&log, counter, token, shutdown).await) });
}

/// Runs counter's loops. A consumer that stops says so itself, once; the rest goes on.
pub fn run_counter(process: &mut Process, app: &counter::App, cache: Cache, dialog: Peer) {
    process.spawn(engine::watch_cache(cache, process.readiness.clone(), process.shutdown.clone()));
    let (app, shutdown) = (app.clone(), process.shutdown.clone());
    process.spawn(async move { drop(app.run(dialog, shutdown).await) });
}

/// The gateway over its peers.
pub fn gateway(
    process: &mut Process,
    settings: gateway::Settings,
    peers: Peers,
    guard: Guard,
    token: &ServiceToken,
    log: &Log,
) -> gateway::App {
    let readiness: Readiness = process.readiness.clone();
    let app = gateway::App::new(settings, peers, guard, token, log.clone(), readiness);
    let (running, shutdown) = (app.clone(), process.shutdown.clone());
    process.spawn(async move { running.run(shutdown).await });
    app
}
