//! `tidings serve`: auth, dialog, counter and gateway in one process, either on three SQLite databases
//! in one folder or on PostgreSQL and Kafka. Services call each other in process, without a network.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use db::{Claim, Db};
use gateway::{Origins, Peers};
use proto::topic;
use telemetry::{Identity, grpc::server_layer, log};
use tower::Layer;

use crate::{
    engine, keygen, private_folder,
    process::{Process, StopSignals, listen},
    settings::{Databases, Serve},
    wiring,
};

/// Default of `ACCESS_TOKEN_TTL`: longer than in separate roles, as one process is used for development,
/// by hand.
const ACCESS_TOKEN_TTL: Duration = Duration::from_secs(3600);

/// Runs `tidings serve` until SIGINT or SIGTERM.
///
/// # Errors
/// Fails if a setting is invalid, a port cannot be bound, a migration fails, or a background task ends early.
pub async fn run(settings: Serve, log_format: log::Format, identity: &Identity) -> anyhow::Result<()> {
    let trusted_documents = wiring::trusted_documents(settings.gateway.trusted_documents.as_deref())?;
    let cache = engine::cache(&settings.cache)?;
    let limiter = engine::limiter(&settings.cache)?;
    let _claims = claim_databases(&settings)?;
    let (signing, token) = keygen::load_or_create(&settings.data_dir, &settings.keys)?;
    let listener = listen("LISTEN", settings.listen).await?;
    let (mut process, ops_address) = Process::start(settings.ops_listen, identity, &token).await?;
    let opened = open_databases(&mut process.signals, &settings.data_dir, &settings.databases);
    let [auth_db, dialog_db, counter_db] = opened.await?;
    let outboxes = [
        (topic::AUTH, &auth_db),
        (topic::DIALOG, &dialog_db),
        (topic::COUNTER, &counter_db),
        (topic::UNREAD, &counter_db),
    ];
    let log =
        engine::event_log(settings.log.kafka_url.as_deref(), None, &outboxes, &[&dialog_db, &counter_db])?;
    let databases = [("auth", &auth_db), ("dialog", &dialog_db), ("counter", &counter_db)];
    engine::spawn_tasks(&mut process, &log, &databases);

    let access_ttl = settings.tokens.access_token_ttl.unwrap_or(ACCESS_TOKEN_TTL);
    let auth = wiring::auth(&mut process, &auth_db, signing, &token, &settings.tokens, access_ttl);
    let auth_peer = proto::local(server_layer("auth").layer(auth.server()));
    let guard = wiring::guard(&auth_peer, &token, &settings.tokens.token_issuer);
    let saga = dialog::Settings { saga_deadline: settings.saga_deadline };
    let dialog = dialog::App::new(dialog_db.clone(), guard.clone(), auth_peer.clone(), saga);
    let dialog_peer = proto::local(server_layer("dialog").layer(dialog.server()));
    let counter =
        counter::App::new(counter_db.clone(), log.clone(), cache.clone(), guard.clone(), token.clone());
    let counter_peer = proto::local(server_layer("counter").layer(counter.server()));
    dialog.recognise_restore().await?;
    counter.recognise_restore().await?;
    wiring::run_dialog(&mut process, &dialog, &log, counter_peer.clone(), &token);
    wiring::run_counter(&mut process, &counter, cache, dialog_peer.clone());

    let introspection = settings.gateway.introspection.unwrap_or(true);
    let gateway_settings = gateway::Settings {
        allowed_origins: settings.gateway.allowed_origins.clone().unwrap_or_else(Origins::loopback),
        introspection,
        trusted_documents,
        max_sockets_per_user: settings.gateway.max_sockets_per_user as usize,
        max_anonymous_sockets: settings.gateway.max_anonymous_sockets as usize,
        answer_memory_bytes: (settings.gateway.answer_memory_mib as usize) << 20,
        drain_window: settings.drain_window,
        operation_deadline: settings.gateway.upstream.operation_deadline,
        limits: settings.gateway.rates.limits(),
        limiter,
        trusted_proxies: settings.gateway.rates.trusted_proxies.clone().unwrap_or_default(),
    };
    // No hedging: a second call to the same process would not be answered sooner.
    let resilience = settings.gateway.upstream.resilience(false);
    let peers = Peers::new(auth_peer, dialog_peer, counter_peer).resilient(resilience);
    let gateway = wiring::gateway(&mut process, gateway_settings, peers, guard, &token, &log);
    let address = listener.local_addr()?;
    let limits = process.gateway_limits(settings.gateway.max_connections);
    process.serve_http(listener, gateway.router(), limits);
    match log_format {
        log::Format::Text => print_welcome(&settings, introspection, (address, ops_address)),
        log::Format::Json => print_addresses(&settings, (address, ops_address)),
    }
    process.run_until_stopped(&[&auth_db, &dialog_db, &counter_db], settings.drain_window).await
}

/// Opens the databases of auth, dialog and counter.
async fn open_databases(
    signals: &mut StopSignals,
    data_dir: &Path,
    settings: &Databases,
) -> anyhow::Result<[Db; 3]> {
    let urls = (&settings.auth_database_url, &settings.dialog_database_url, &settings.counter_database_url);
    if let (Some(auth), Some(dialog), Some(counter)) = urls {
        return Ok([
            engine::open(signals, "AUTH_DATABASE_URL", auth, None, &auth::MIGRATIONS).await?,
            engine::open(signals, "DIALOG_DATABASE_URL", dialog, None, &dialog::MIGRATIONS).await?,
            engine::open(signals, "COUNTER_DATABASE_URL", counter, None, &counter::MIGRATIONS).await?,
        ]);
    }
    let [auth, dialog, counter] = private_folder::DATABASES;
    Ok([
        engine::open_file(data_dir, auth, &auth::MIGRATIONS).await?,
        engine::open_file(data_dir, dialog, &dialog::MIGRATIONS).await?,
        engine::open_file(data_dir, counter, &counter::MIGRATIONS).await?,
    ])
}

/// Creates the folder, and claims the databases in it if they are used: they and the local log serve one
/// process only. The claims are held until the databases are closed.
fn claim_databases(settings: &Serve) -> anyhow::Result<Option<[Claim; 3]>> {
    private_folder::create(&settings.data_dir)?;
    match settings.databases.auth_database_url {
        Some(_) => Ok(None),
        None => private_folder::claim_databases(&settings.data_dir).map(Some),
    }
}

/// Prints the URLs of the process as one JSON object. Container engines collect standard
/// output together with the log, which is JSON too.
#[expect(clippy::print_stdout, reason = "the output of the command, whatever the filter of the log is")]
fn print_addresses(settings: &Serve, (address, ops_address): (SocketAddr, SocketAddr)) {
    let line = serde_json::json!({
        "level": "INFO",
        "message": "Tidings is running",
        "url": format!("http://{}", connectable(address)),
        "operations": format!("http://{}", connectable(ops_address)),
        "data_dir": settings.data_dir.display().to_string(),
    });
    println!("{line}");
}

/// Prints the URLs of the process and a first request.
#[expect(clippy::print_stdout, reason = "the output of the command on a terminal")]
fn print_welcome(settings: &Serve, introspection: bool, (address, ops_address): (SocketAddr, SocketAddr)) {
    let page = match (gateway::pages_are_built(), introspection) {
        (true, true) => "conversations; GraphiQL is at /graphiql, GraphQL Playground at /playground",
        (true, false) => "conversations",
        (false, _) => "a plain page: this build has no pages",
    };
    println!(
        "Tidings is running on {data_dir}; press Ctrl-C to stop

  In a browser  http://{host}/          {page}
  GraphQL       http://{host}/graphql   HTTP and WebSocket
  Operations    http://{ops_host}/metrics

A first request, for another terminal:

  curl -s http://{host}/graphql -H 'content-type: application/json' \\
    -d '{{\"query\":\"mutation {{ register(input: {{login: \\\"carol\\\", \
         password: \\\"correct horse\\\"}}) {{ accessToken user {{ id }} }} }}\"}}'
",
        data_dir = settings.data_dir.display(),
        host = connectable(address),
        ops_host = connectable(ops_address),
    );
}

/// Returns an address that a client on this machine can connect to: loopback in place of the unspecified
/// address.
pub fn connectable(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => (Ipv4Addr::LOCALHOST, address.port()).into(),
        IpAddr::V6(ip) if ip.is_unspecified() => (Ipv6Addr::LOCALHOST, address.port()).into(),
        _ => address,
    }
}
