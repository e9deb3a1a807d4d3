//! Roles as separate processes: `tidings auth`, `dialog`, `counter` and `gateway`. A service has its
//! database and the event log; peers are reached by URL. All four together in one process are
//! [`crate::serve`].

use std::{net::SocketAddr, time::Duration};

use access::{ServiceToken, SigningKeys};
use anyhow::Context;
use db::{Db, Migrations};
use events::{Kafka, Log};
use gateway::{Origins, Peers};
use proto::Peer;
use telemetry::Identity;
use tokio::net::TcpListener;

use crate::{
    discovery, engine,
    process::{Process, listen},
    replica,
    settings::{self, Cluster},
    wiring,
};

/// Default ports of the services and of their `/readyz`. They are below the range that Linux gives to
/// outgoing connections, 32768 to 60999: one of those could have a role's port when the role starts.
const AUTH_PORTS: (u16, u16) = (7_051, 9_091);
const DIALOG_PORTS: (u16, u16) = (7_052, 9_092);
const COUNTER_PORTS: (u16, u16) = (7_053, 9_093);

/// Default of `ACCESS_TOKEN_TTL`.
const ACCESS_TOKEN_TTL: Duration = Duration::from_secs(300);

/// Service process with its engines, before the service itself is created.
struct ServiceProcess {
    process: Process,
    listener: TcpListener,
    db: Db,
    log: Log,
    token: ServiceToken,
}

/// Runs `tidings auth` until SIGINT or SIGTERM.
///
/// # Errors
/// Fails if a setting is invalid, a port cannot be bound, a migration fails, or a background task ends early.
pub async fn auth(settings: settings::Auth, identity: &Identity) -> anyhow::Result<()> {
    let path = &settings.signing_key_file;
    let signing = SigningKeys::load(path).with_context(|| format!("SIGNING_KEY_FILE {}", path.display()))?;
    let mut service = start("auth", identity, &settings.service, AUTH_PORTS, &auth::MIGRATIONS).await?;
    replica::attach(&mut service.process, "auth", &service.db, &settings.replica).await?;
    let access_ttl = settings.tokens.access_token_ttl.unwrap_or(ACCESS_TOKEN_TTL);
    let app = wiring::auth(
        &mut service.process,
        &service.db,
        signing,
        &service.token,
        &settings.tokens,
        access_ttl,
    );
    service.process.serve_grpc("auth", service.listener, app.server(), settings.service.introspection);
    service.process.run_until_stopped(&[&service.db], settings.service.cluster.drain_window).await
}

/// Runs `tidings dialog` until SIGINT or SIGTERM.
///
/// # Errors
/// Fails if a setting is invalid, a port cannot be bound, a migration fails, or a background task ends early.
pub async fn dialog(settings: settings::Dialog, identity: &Identity) -> anyhow::Result<()> {
    let mut service = start("dialog", identity, &settings.service, DIALOG_PORTS, &dialog::MIGRATIONS).await?;
    replica::attach(&mut service.process, "dialog", &service.db, &settings.replica).await?;
    let auth = connect(&mut service.process, "AUTH_URL", &settings.auth_url)?;
    let counter = connect(&mut service.process, "COUNTER_URL", &settings.counter_url)?;
    let guard = wiring::guard(&auth, &service.token, &settings.token_issuer);
    let saga = dialog::Settings { saga_deadline: settings.saga_deadline };
    let app = dialog::App::new(service.db.clone(), guard, auth, saga);
    app.recognise_restore().await?;
    wiring::run_dialog(&mut service.process, &app, &service.log, counter, &service.token);
    service.process.serve_grpc("dialog", service.listener, app.server(), settings.service.introspection);
    service.process.run_until_stopped(&[&service.db], settings.service.cluster.drain_window).await
}

/// Runs `tidings counter` until SIGINT or SIGTERM.
///
/// # Errors
/// Fails if a setting is invalid, a port cannot be bound, a migration fails, or a background task ends early.
pub async fn counter(settings: settings::Counter, identity: &Identity) -> anyhow::Result<()> {
    let cache = engine::cache(&settings.cache)?;
    let mut service =
        start("counter", identity, &settings.service, COUNTER_PORTS, &counter::MIGRATIONS).await?;
    let auth = connect(&mut service.process, "AUTH_URL", &settings.auth_url)?;
    let dialog = connect(&mut service.process, "DIALOG_URL", &settings.dialog_url)?;
    let guard = wiring::guard(&auth, &service.token, &settings.token_issuer);
    let app = counter::App::new(
        service.db.clone(),
        service.log.clone(),
        cache.clone(),
        guard,
        service.token.clone(),
    );
    app.recognise_restore().await?;
    wiring::run_counter(&mut service.process, &app, cache, dialog);
    service.process.serve_grpc("counter", service.listener, app.server(), settings.service.introspection);
    service.process.run_until_stopped(&[&service.db], settings.service.cluster.drain_window).await
}

/// Runs `tidings gateway` until SIGINT or SIGTERM.
///
/// # Errors
/// Fails if a setting is invalid, a port cannot be bound, a migration fails, or a background task ends early.
pub async fn gateway(settings: settings::GatewayRole, identity: &Identity) -> anyhow::Result<()> {
    let limiter = engine::limiter(&settings.cache)?;
    let token = service_token(&settings.cluster)?;
    let trusted_documents = wiring::trusted_documents(settings.gateway.trusted_documents.as_deref())?;
    let listener = listen("LISTEN", settings.listen).await?;
    let (mut process, _) = Process::start(settings.ops_listen, identity, &token).await?;
    let log = Log::Kafka(Kafka::new(&settings.cluster.kafka_url, None).context("KAFKA_URL")?);
    engine::spawn_tasks(&mut process, &log, &[]);
    let auth = connect(&mut process, "AUTH_URL", &settings.auth_url)?;
    let dialog = connect(&mut process, "DIALOG_URL", &settings.dialog_url)?;
    let counter = connect(&mut process, "COUNTER_URL", &settings.counter_url)?;
    let guard = wiring::guard(&auth, &token, &settings.tokens.token_issuer);
    let gateway_settings = gateway::Settings {
        allowed_origins: settings.gateway.allowed_origins.clone().unwrap_or_else(Origins::none),
        introspection: settings.gateway.introspection.unwrap_or(false),
        trusted_documents,
        max_sockets_per_user: settings.gateway.max_sockets_per_user as usize,
        max_anonymous_sockets: settings.gateway.max_anonymous_sockets as usize,
        answer_memory_bytes: (settings.gateway.answer_memory_mib as usize) << 20,
        drain_window: settings.cluster.drain_window,
        operation_deadline: settings.gateway.upstream.operation_deadline,
        limits: settings.gateway.rates.limits(),
        limiter,
        trusted_proxies: settings.gateway.rates.trusted_proxies.clone().unwrap_or_default(),
    };
    let peers = Peers::new(auth, dialog, counter).resilient(settings.gateway.upstream.resilience(true));
    let app = wiring::gateway(&mut process, gateway_settings, peers, guard, &token, &log);
    tracing::info!(address = %listener.local_addr()?, "listening");
    let limits = process.gateway_limits(settings.gateway.max_connections);
    process.serve_http(listener, app.router(), limits);
    process.run_until_stopped(&[], settings.cluster.drain_window).await
}

/// Binds the ports, waits for the database and migrates it, and connects the event log.
async fn start(
    name: &'static str,
    identity: &Identity,
    settings: &settings::Service,
    (port, ops_port): (u16, u16),
    migrations: &'static Migrations,
) -> anyhow::Result<ServiceProcess> {
    let token = service_token(&settings.cluster)?;
    let loopback = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let listener = listen("LISTEN", settings.listen.unwrap_or_else(|| loopback(port))).await?;
    let ops_listen = settings.ops_listen.unwrap_or_else(|| loopback(ops_port));
    let (mut process, _) = Process::start(ops_listen, identity, &token).await?;
    let direct_url = settings.database_direct_url.as_deref();
    let signals = &mut process.signals;
    let db = engine::open(signals, "DATABASE_URL", &settings.database_url, direct_url, migrations).await?;
    let outboxes = [(name, &db)];
    let log =
        engine::event_log(Some(&settings.cluster.kafka_url), settings.instance.as_deref(), &outboxes, &[])?;
    engine::spawn_tasks(&mut process, &log, &outboxes);
    tracing::info!(role = name, address = %listener.local_addr()?, "listening");
    Ok(ServiceProcess { process, listener, db, log, token })
}

fn service_token(settings: &Cluster) -> anyhow::Result<ServiceToken> {
    let path = &settings.service_token_file;
    ServiceToken::load(path).with_context(|| format!("SERVICE_TOKEN_FILE {}", path.display()))
}

fn connect(process: &mut Process, setting: &'static str, urls: &str) -> anyhow::Result<Peer> {
    let (peer, discovery) = discovery::connect(setting, urls)?;
    process.spawn(discovery.run(process.shutdown.clone()));
    Ok(peer)
}
