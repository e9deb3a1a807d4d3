//! `tidings serve`: auth, dialog, counter and gateway in one process, on three SQLite databases in one folder.

use std::{
    fs::{File, TryLockError},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use access::{Guard, KeySet, ServiceToken, SigningKeys};
use anyhow::{Context, bail};
use axum::Router;
use db::{Db, Migrations};
use events::{Local, Log};
use gateway::peers::Peers;
use proto::{
    Peer,
    auth::{KeysRequest, auth_client::AuthClient},
    topic,
};
use telemetry::{Readiness, grpc::server_layer};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tower::Layer;

use crate::{
    keygen,
    settings::{Serve, Tokens},
};

/// What the process may take beyond `DRAIN_WINDOW` to end.
const GRACE: Duration = Duration::from_secs(10);

/// The three databases.
struct Databases {
    auth: Db,
    dialog: Db,
    counter: Db,
}

impl Databases {
    async fn open(data_dir: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            auth: open(data_dir, "auth.db", &auth::MIGRATIONS).await?,
            dialog: open(data_dir, "dialog.db", &dialog::MIGRATIONS).await?,
            counter: open(data_dir, "counter.db", &counter::MIGRATIONS).await?,
        })
    }

    /// The log over their outboxes. Dead letters are for people: nothing here reads them.
    fn log(&self) -> Local {
        Local::new(vec![
            (topic::AUTH, self.auth.clone()),
            (topic::DIALOG, self.dialog.clone()),
            (topic::COUNTER, self.counter.clone()),
            (topic::UNREAD, self.counter.clone()),
        ])
    }

    async fn close(&self) {
        tokio::join!(self.auth.close(), self.dialog.close(), self.counter.close());
    }
}

async fn open(data_dir: &Path, name: &str, migrations: &'static Migrations) -> anyhow::Result<Db> {
    let path = data_dir.join(name);
    let db = Db::open_file(&path).await.with_context(|| format!("{} cannot be opened", path.display()))?;
    let migrated = db.migrate(&[&db::MIGRATIONS, &events::MIGRATIONS, migrations]).await;
    migrated.with_context(|| format!("{} cannot be brought up to date", path.display()))?;
    Ok(db)
}

/// The four services, wired to each other by calls in this process.
struct Services {
    auth: auth::App,
    dialog: dialog::App,
    counter: counter::App,
    gateway: gateway::App,
    dialog_peer: Peer,
    counter_peer: Peer,
    token: ServiceToken,
}

impl Services {
    fn new(
        settings: &Serve,
        databases: &Databases,
        log: &Log,
        (signing, token): (SigningKeys, ServiceToken),
        readiness: &Readiness,
    ) -> Self {
        let tokens = &settings.tokens;
        let auth = auth::App::new(databases.auth.clone(), signing, token.clone(), auth_settings(tokens));
        let auth_peer = proto::local(server_layer("auth").layer(auth.server()));
        let guard = Guard::new(keys_of(auth_peer.clone()), token.clone(), tokens.token_issuer.clone());
        let saga = dialog::Settings { saga_deadline: settings.saga_deadline };
        let dialog = dialog::App::new(databases.dialog.clone(), guard.clone(), auth_peer.clone(), saga);
        let cache = counter::Cache::in_process();
        let counter = counter::App::new(databases.counter.clone(), log.clone(), cache, guard.clone(), token.clone());
        let dialog_peer = proto::local(server_layer("dialog").layer(dialog.server()));
        let counter_peer = proto::local(server_layer("counter").layer(counter.server()));
        let peers = Peers::new(auth_peer, dialog_peer.clone(), counter_peer.clone());
        let gateway =
            gateway::App::new(gateway_settings(settings), peers, guard, &token, log.clone(), readiness.clone());
        Self { auth, dialog, counter, gateway, dialog_peer, counter_peer, token }
    }

    /// Everything that runs beside the requests.
    fn start(&self, log: &Log, shutdown: &CancellationToken) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        let (auth, ending) = (self.auth.clone(), shutdown.clone());
        tasks.spawn(async move { auth.run(ending).await });
        let (dialog, peer, token) = (self.dialog.clone(), self.counter_peer.clone(), self.token.clone());
        let (log, ending) = (log.clone(), shutdown.clone());
        // A consumer that stops says so itself, once; the rest of the process goes on.
        tasks.spawn(async move { drop(dialog.run(&log, peer, token, ending).await) });
        let (counter, peer, ending) = (self.counter.clone(), self.dialog_peer.clone(), shutdown.clone());
        tasks.spawn(async move { drop(counter.run(peer, ending).await) });
        let (gateway, ending) = (self.gateway.clone(), shutdown.clone());
        tasks.spawn(async move { gateway.run(ending).await });
        tasks
    }
}

fn auth_settings(tokens: &Tokens) -> auth::Settings {
    auth::Settings {
        issuer: tokens.token_issuer.clone(),
        access_ttl: tokens.access_token_ttl,
        refresh_ttl: tokens.refresh_token_ttl,
    }
}

fn gateway_settings(settings: &Serve) -> gateway::Settings {
    gateway::Settings {
        allowed_origins: settings.gateway.allowed_origins.clone(),
        introspection: settings.gateway.introspection,
        max_sockets_per_user: settings.gateway.max_sockets_per_user as usize,
        drain_window: settings.drain_window,
        access_token_ttl: settings.tokens.access_token_ttl,
    }
}

/// The keys that auth publishes, asked from it when they are needed.
fn keys_of(auth: Peer) -> KeySet {
    KeySet::new(move || {
        let mut client = AuthClient::new(auth.clone());
        async move { client.keys(KeysRequest {}).await.map(|reply| reply.into_inner().jwks) }
    })
}

/// Runs until SIGINT or SIGTERM.
pub async fn run(settings: Serve) -> anyhow::Result<()> {
    let _lock = lock(&settings.data_dir)?;
    let (signing, token) = keygen::load_or_create(&settings.data_dir, &settings.keys)?;
    let listener = listen("LISTEN", settings.listen).await?;
    let ops_listener = listen("OPS_LISTEN", settings.ops_listen).await?;
    let addresses = (listener.local_addr()?, ops_listener.local_addr()?);
    let databases = Databases::open(&settings.data_dir).await?;
    let local = databases.log();
    let log = Log::Local(local.clone());
    let readiness = Readiness::new();
    let ops = telemetry::ops::router(readiness.clone());
    let services = Services::new(&settings, &databases, &log, (signing, token), &readiness);

    let shutdown = CancellationToken::new();
    let mut tasks = services.start(&log, &shutdown);
    tasks.spawn(telemetry::recorder::upkeep(shutdown.clone()));
    tasks.spawn(serve_http("OPS_LISTEN", ops_listener, ops, shutdown.clone()));
    let pruned = shutdown.clone();
    tasks.spawn(async move { local.run(pruned).await });
    tasks.spawn(serve_http("LISTEN", listener, services.gateway.router(), shutdown.clone()));
    welcome(&settings, addresses);

    stop_signal().await?;
    tracing::info!("stopping; asked again, at once");
    shutdown.cancel();
    let everything = async {
        while tasks.join_next().await.is_some() {}
        databases.close().await;
    };
    tokio::select! {
        ended = tokio::time::timeout(settings.drain_window + GRACE, everything) => if ended.is_err() {
            tracing::warn!("some work did not end in time and is cut off");
        },
        again = stop_signal() => again?,
    }
    Ok(())
}

/// One process a folder: two would count with each other's databases.
fn lock(data_dir: &Path) -> anyhow::Result<File> {
    keygen::make_folder(data_dir)?;
    let path = data_dir.join("lock");
    let file = File::create(&path).with_context(|| format!("DATA_DIR: {} cannot be written", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!("DATA_DIR {} is in use: Tidings runs on it already", data_dir.display()),
        Err(TryLockError::Error(error)) => Err(error).context("DATA_DIR cannot be locked"),
    }
}

async fn listen(setting: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("{setting}: nothing can listen on {address}"))
}

async fn serve_http(setting: &'static str, listener: TcpListener, router: Router, shutdown: CancellationToken) {
    let served = axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await;
    if let Err(error) = served {
        tracing::error!(setting, %error, "the port is closed");
    }
}

/// SIGINT or SIGTERM.
async fn stop_signal() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted?,
        _ = terminate.recv() => {}
    }
    Ok(())
}

/// Where to point a browser, and a first query to paste.
#[expect(clippy::print_stdout, reason = "what a person who starts the program reads first")]
fn welcome(settings: &Serve, (address, ops_address): (SocketAddr, SocketAddr)) {
    let page = match (settings.gateway.introspection, gateway::ide::is_built()) {
        (true, true) => "GraphiQL: register above the editor",
        (true, false) => "a plain page that says how to get GraphiQL",
        (false, _) => "nothing: INTROSPECTION is off",
    };
    println!(
        "Tidings is running on {data_dir}; Ctrl-C ends it

  In a browser  http://{host}/          {page}
  GraphQL       http://{host}/graphql   HTTP and WebSocket
  Operations    http://{ops_host}/metrics

A first query, to paste into another terminal:

  curl -s http://{host}/graphql -H 'content-type: application/json' \\
    -d '{{\"query\":\"mutation {{ register(input: {{login: \\\"carol\\\", password: \\\"correct horse\\\"}}) {{ accessToken user {{ id }} }} }}\"}}'
",
        data_dir = settings.data_dir.display(),
        host = reachable(address),
        ops_host = reachable(ops_address),
    );
}

/// An address that a browser on this machine can open: 0.0.0.0 and [::] are none.
fn reachable(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => (Ipv4Addr::LOCALHOST, address.port()).into(),
        IpAddr::V6(ip) if ip.is_unspecified() => (Ipv6Addr::LOCALHOST, address.port()).into(),
        _ => address,
    }
}
