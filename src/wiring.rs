//! How the services are made from their settings, the same in one process and in many.

use std::{path::Path, time::Duration};

use access::{Guard, KeySet, ServiceToken, SigningKeys};
use anyhow::{Context, ensure};
use counter::Cache;
use db::Db;
use events::Log;
use gateway::{peers::Peers, persisted::TrustedDocuments};
use proto::{
    Peer,
    auth::{KeysRequest, auth_client::AuthClient},
};
use telemetry::Readiness;

use crate::{engine, process::Process, settings::Tokens};

/// The largest list of documents, in bytes.
const TRUSTED_MAX_BYTES: u64 = 16 << 20;

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
        let mut client = AuthClient::new(auth.clone())
            .max_decoding_message_size(proto::ANSWER_MAX_BYTES)
            .max_encoding_message_size(proto::REQUEST_MAX_BYTES);
        async move { client.keys(KeysRequest {}).await.map(|reply| reply.into_inner().jwks) }
    });
    Guard::new(keys, token.clone(), issuer)
}

/// Runs dialog's loops. A consumer that stops says so itself, in the log and to readiness; the rest goes on.
pub fn run_dialog(process: &mut Process, app: &dialog::App, log: &Log, counter: Peer, token: &ServiceToken) {
    let (app, log, token, shutdown) = (app.clone(), log.clone(), token.clone(), process.shutdown.clone());
    let component = process.readiness.register("dialog consumer");
    process.spawn(async move { drop(app.run(&log, counter, token, component, shutdown).await) });
}

/// Runs counter's loops. A consumer that stops says so itself, in the log and to readiness; the rest goes on.
pub fn run_counter(process: &mut Process, app: &counter::App, cache: Cache, dialog: Peer) {
    if matches!(cache, Cache::Redis(_)) {
        process.spawn(engine::watch_cache(cache, process.readiness.clone(), process.shutdown.clone()));
    }
    let (app, shutdown) = (app.clone(), process.shutdown.clone());
    let component = process.readiness.register("counter consumer");
    process.spawn(async move { drop(app.run(dialog, component, shutdown).await) });
}

/// The list of documents in a file.
///
/// # Errors
/// Where the file cannot be read, is larger than 16 MB, or is no such list.
pub fn trusted_documents(path: Option<&Path>) -> anyhow::Result<Option<TrustedDocuments>> {
    let Some(path) = path else { return Ok(None) };
    let read = || -> anyhow::Result<_> {
        let size_bytes = std::fs::metadata(path)?.len();
        ensure!(
            size_bytes <= TRUSTED_MAX_BYTES,
            "it has {size_bytes} bytes, at most {TRUSTED_MAX_BYTES} are read"
        );
        Ok(TrustedDocuments::read(&std::fs::read_to_string(path)?)?)
    };
    let listed = read().with_context(|| format!("TRUSTED_DOCUMENTS {}", path.display()))?;
    tracing::info!(count = listed.count(), "only listed documents run");
    Ok(Some(listed))
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
