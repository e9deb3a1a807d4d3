//! The roles as processes of their own: each with its database, the log, and its peers by URL.

use std::{net::SocketAddr, time::Duration};

use access::{ServiceToken, SigningKeys};
use anyhow::Context;
use db::{Db, Migrations};
use events::{Kafka, Log};
use gateway::{origins::Origins, peers::Peers};
use proto::Peer;
use tokio::net::TcpListener;

use crate::{
    engine, peer,
    process::{Process, listen},
    settings::{self, PeerRole},
    wiring,
};

/// Life of an access token where nothing is said.
const ACCESS_TOKEN_TTL: Duration = Duration::from_secs(300);

/// A service that has its engines.
struct Ready {
    process: Process,
    listener: TcpListener,
    db: Db,
    log: Log,
    token: ServiceToken,
}

/// Runs `tidings auth` until SIGINT or SIGTERM.
///
/// # Errors
/// Where a setting is wrong or missing.
pub async fn auth(settings: settings::Auth) -> anyhow::Result<()> {
    let path = &settings.signing_key_file;
    let signing = SigningKeys::load(path).with_context(|| format!("SIGNING_KEY_FILE {}", path.display()))?;
    let mut ready = start("auth", &settings.role, (50_051, 9_091), &auth::MIGRATIONS).await?;
    let access_ttl = settings.tokens.access_token_ttl.unwrap_or(ACCESS_TOKEN_TTL);
    let app =
        wiring::auth(&mut ready.process, &ready.db, signing, &ready.token, &settings.tokens, access_ttl);
    ready.process.serve_grpc("auth", ready.listener, app.server(), settings.role.introspection);
    ready.process.until_stopped(&[&ready.db], settings.role.peer.drain_window).await
}

/// Runs `tidings dialog` until SIGINT or SIGTERM.
///
/// # Errors
/// Where a setting is wrong or missing.
pub async fn dialog(settings: settings::Dialog) -> anyhow::Result<()> {
    let mut ready = start("dialog", &settings.role, (50_052, 9_092), &dialog::MIGRATIONS).await?;
    let auth = connect(&mut ready.process, "AUTH_URL", &settings.auth_url)?;
    let counter = connect(&mut ready.process, "COUNTER_URL", &settings.counter_url)?;
    let guard = wiring::guard(&auth, &ready.token, &settings.token_issuer);
    let saga = dialog::Settings { saga_deadline: settings.saga_deadline };
    let app = dialog::App::new(ready.db.clone(), guard, auth, saga);
    wiring::run_dialog(&mut ready.process, &app, &ready.log, counter, &ready.token);
    ready.process.serve_grpc("dialog", ready.listener, app.server(), settings.role.introspection);
    ready.process.until_stopped(&[&ready.db], settings.role.peer.drain_window).await
}

/// Runs `tidings counter` until SIGINT or SIGTERM.
///
/// # Errors
/// Where a setting is wrong or missing.
pub async fn counter(settings: settings::Counter) -> anyhow::Result<()> {
    let cache = engine::cache(&settings.cache)?;
    let mut ready = start("counter", &settings.role, (50_053, 9_093), &counter::MIGRATIONS).await?;
    let auth = connect(&mut ready.process, "AUTH_URL", &settings.auth_url)?;
    let dialog = connect(&mut ready.process, "DIALOG_URL", &settings.dialog_url)?;
    let guard = wiring::guard(&auth, &ready.token, &settings.token_issuer);
    let app =
        counter::App::new(ready.db.clone(), ready.log.clone(), cache.clone(), guard, ready.token.clone());
    wiring::run_counter(&mut ready.process, &app, cache, dialog);
    ready.process.serve_grpc("counter", ready.listener, app.server(), settings.role.introspection);
    ready.process.until_stopped(&[&ready.db], settings.role.peer.drain_window).await
}

/// Runs `tidings gateway` until SIGINT or SIGTERM.
///
/// # Errors
/// Where a setting is wrong or missing.
pub async fn gateway(settings: settings::GatewayRole) -> anyhow::Result<()> {
    let limiter = engine::limiter(&settings.cache)?;
    let token = service_token(&settings.peer)?;
    let trusted_documents = wiring::trusted_documents(settings.gateway.trusted_documents.as_deref())?;
    let listener = listen("LISTEN", settings.listen).await?;
    let (mut process, _) = Process::start(settings.ops_listen).await?;
    let log = Log::Kafka(Kafka::new(&settings.peer.kafka_url, None).context("KAFKA_URL")?);
    engine::carry(&mut process, &log, &[]);
    let auth = connect(&mut process, "AUTH_URL", &settings.auth_url)?;
    let dialog = connect(&mut process, "DIALOG_URL", &settings.dialog_url)?;
    let counter = connect(&mut process, "COUNTER_URL", &settings.counter_url)?;
    let guard = wiring::guard(&auth, &token, &settings.tokens.token_issuer);
    let told = gateway::Settings {
        allowed_origins: settings.gateway.allowed_origins.clone().unwrap_or_else(Origins::none),
        introspection: settings.gateway.introspection.unwrap_or(false),
        trusted_documents,
        max_sockets_per_user: settings.gateway.max_sockets_per_user as usize,
        max_anonymous_sockets: settings.gateway.max_anonymous_sockets as usize,
        drain_window: settings.peer.drain_window,
        access_token_ttl: settings.tokens.access_token_ttl.unwrap_or(ACCESS_TOKEN_TTL),
        operation_deadline: settings.gateway.upstream.operation_deadline,
        limits: settings.gateway.rates.limits(),
        limiter,
        trusted_proxies: settings.gateway.rates.trusted_proxies.clone().unwrap_or_default(),
    };
    let peers = Peers::new(auth, dialog, counter).resilient(settings.gateway.upstream.resilience(true));
    let app = wiring::gateway(&mut process, told, peers, guard, &token, &log);
    tracing::info!(address = %listener.local_addr()?, "the gateway listens");
    let bounds = process.bounds(settings.gateway.max_connections);
    process.serve_http(listener, app.router(), bounds);
    process.until_stopped(&[], settings.peer.drain_window).await
}

/// Everything that a service needs before it can be made.
async fn start(
    name: &'static str,
    settings: &settings::Role,
    (port, ops_port): (u16, u16),
    migrations: &'static Migrations,
) -> anyhow::Result<Ready> {
    let token = service_token(&settings.peer)?;
    let loopback = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let listener = listen("LISTEN", settings.listen.unwrap_or_else(|| loopback(port))).await?;
    let (mut process, _) = Process::start(settings.ops_listen.unwrap_or_else(|| loopback(ops_port))).await?;
    let direct_url = settings.database_direct_url.as_deref();
    let db = engine::open("DATABASE_URL", &settings.database_url, direct_url, migrations).await?;
    let outboxes = [(name, &db)];
    let log = engine::log(Some(&settings.peer.kafka_url), settings.instance.as_deref(), &outboxes, &[])?;
    engine::carry(&mut process, &log, &outboxes);
    tracing::info!(role = name, address = %listener.local_addr()?, "the service listens");
    Ok(Ready { process, listener, db, log, token })
}

fn service_token(settings: &PeerRole) -> anyhow::Result<ServiceToken> {
    let path = &settings.service_token_file;
    ServiceToken::load(path).with_context(|| format!("SERVICE_TOKEN_FILE {}", path.display()))
}

fn connect(process: &mut Process, setting: &'static str, urls: &str) -> anyhow::Result<Peer> {
    let (peer, addresses) = peer::at(setting, urls)?;
    process.spawn(addresses.watch(process.shutdown.clone()));
    Ok(peer)
}
