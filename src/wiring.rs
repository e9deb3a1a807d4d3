//! Construction of the services from their settings, the same for one process and for separate roles.

use std::{path::Path, time::Duration};

use access::{Guard, KeySet, ServiceToken, SigningKeys};
use anyhow::{Context, ensure};
use counter::Cache;
use db::Db;
use events::Log;
use gateway::{Peers, TrustedDocuments};
use proto::{
    Peer,
    auth::{KeysRequest, auth_client::AuthClient},
};
use telemetry::Readiness;

use crate::{engine, process::Process, settings::Tokens};

/// Maximum size of the `TRUSTED_DOCUMENTS` file, in bytes.
const TRUSTED_MAX_BYTES: u64 = 16 << 20;

/// Creates the auth service and spawns its tasks.
pub fn auth(
    process: &mut Process,
    db: &Db,
    keys: SigningKeys,
    token: &ServiceToken,
    tokens: &Tokens,
    access_ttl: Duration,
) -> auth::App {
    let issuer = tokens.token_issuer.clone();
    let settings = auth::Settings { issuer, access_ttl, refresh_ttl: tokens.refresh_token_ttl };
    let app = auth::App::new(db.clone(), keys, token.clone(), settings);
    let running = app.clone();
    let shutdown = process.shutdown.clone();
    process.spawn(async move { running.run(shutdown).await });
    app
}

/// Creates the verifier of access tokens, which fetches the public keys from auth, and of the service
/// token.
pub fn guard(auth: &Peer, token: &ServiceToken, issuer: &str) -> Guard {
    let auth = auth.clone();
    let keys = KeySet::new(move || {
        let mut client = AuthClient::new(auth.clone())
            .max_decoding_message_size(proto::RESPONSE_MAX_BYTES)
            .max_encoding_message_size(proto::REQUEST_MAX_BYTES);
        async move { client.keys(KeysRequest {}).await.map(|reply| reply.into_inner().jwks) }
    });
    Guard::new(keys, token.clone(), issuer)
}

/// Spawns the consumer and the sweeper of dialog. A consumer that stops logs an error and reports itself
/// as degraded; the process keeps running, because requests do not depend on it.
pub fn run_dialog(process: &mut Process, app: &dialog::App, log: &Log, counter: Peer, token: &ServiceToken) {
    let app = app.clone();
    let log = log.clone();
    let token = token.clone();
    let shutdown = process.shutdown.clone();
    let component = process.readiness.register("dialog consumer");
    process.spawn(async move { drop(app.run(&log, counter, token, component, shutdown).await) });
}

/// Spawns the consumers of counter, as [`run_dialog`] does, and the check of its Redis cache.
pub fn run_counter(process: &mut Process, app: &counter::App, cache: Cache, dialog: Peer) {
    if matches!(cache, Cache::Redis(_)) {
        process.spawn(engine::watch_cache(cache, process.readiness.clone(), process.shutdown.clone()));
    }
    let app = app.clone();
    let shutdown = process.shutdown.clone();
    let component = process.readiness.register("counter consumer");
    process.spawn(async move { drop(app.run(dialog, component, shutdown).await) });
}

/// Loads the trusted documents from a file; `None` without a path.
///
/// # Errors
/// Fails if the file cannot be read, is larger than 16 MiB, or has none of the two formats.
pub fn trusted_documents(path: Option<&Path>) -> anyhow::Result<Option<TrustedDocuments>> {
    let Some(path) = path else { return Ok(None) };
    let load = || -> anyhow::Result<_> {
        let size_bytes = std::fs::metadata(path)?.len();
        ensure!(
            size_bytes <= TRUSTED_MAX_BYTES,
            "{size_bytes} bytes exceed the limit of {TRUSTED_MAX_BYTES}"
        );
        Ok(TrustedDocuments::parse(&std::fs::read_to_string(path)?)?)
    };
    let documents = load().with_context(|| format!("TRUSTED_DOCUMENTS {}", path.display()))?;
    tracing::info!(count = documents.count(), "only trusted documents are executed");
    Ok(Some(documents))
}

/// Creates the gateway and spawns its tasks.
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
    let running = app.clone();
    let shutdown = process.shutdown.clone();
    process.spawn(async move { running.run(shutdown).await });
    app
}
