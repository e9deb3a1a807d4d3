//! Memory of many sockets: bytes for each, and none kept after disconnects. The tests use few sockets;
//! `make bench-sockets` uses 10,000 against an optimised build.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use access::{Claims, SigningKeys};
use futures_util::{StreamExt, stream};
use serde_json::json;
use tokio::task::JoinSet;

use crate::{
    app::App,
    caller::Caller,
    socket_client::{SocketClient, UNREAD},
};

/// Clients that connect concurrently.
const CONCURRENCY: usize = 50;
const GAUGES: [&str; 3] = ["gateway_sockets", "gateway_subscriptions", "gateway_hub_users"];
/// Goal for the memory of a subscribed socket.
const GOAL_BYTES: u64 = 12 * 1024;
/// File descriptors that the program needs besides its sockets.
const SPARE_DESCRIPTORS: usize = 500;

/// Issues access tokens for users that never registered. Registering would spend most of the time
/// hashing passwords.
struct TokenIssuer {
    keys: SigningKeys,
    url: String,
    http: reqwest::Client,
}

impl TokenIssuer {
    fn new(app: &App) -> Self {
        let keys = SigningKeys::load(&key_file(app.folder.path())).unwrap();
        Self { keys, url: app.url.clone(), http: reqwest::Client::new() }
    }

    /// Issues a token for a new user, who is in no database.
    fn issue_caller(&self) -> Caller {
        let user = uuid::Uuid::now_v7();
        let session = uuid::Uuid::now_v7();
        let now_s =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64;
        let token = self.keys.sign(&Claims::new("tidings", user, session, now_s, 3600));
        Caller {
            id: user.to_string(),
            token,
            refresh_token: String::new(),
            url: self.url.clone(),
            http: self.http.clone(),
        }
    }

    /// Connects, subscribes and receives the first frame.
    async fn connect(&self) -> SocketClient {
        let mut socket = SocketClient::connect(&self.issue_caller()).await;
        socket.subscribe("u", UNREAD, json!({})).await;
        assert_eq!(socket.frame("u", "unread").await["kind"], "SNAPSHOT");
        socket
    }

    /// Connects and subscribes this many clients, which stay connected until the set is dropped.
    async fn connect_many(&self, count: usize) -> JoinSet<()> {
        let mut sockets = JoinSet::new();
        let mut connecting = stream::iter(0..count).map(|_| self.connect()).buffer_unordered(CONCURRENCY);
        while let Some(socket) = connecting.next().await {
            sockets.spawn(socket.keep_alive());
        }
        sockets
    }
}

fn key_file(folder: &Path) -> std::path::PathBuf {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut keys = entries.filter(|path| path.extension().is_some_and(|extension| extension == "pem"));
    keys.next().expect("the signing key is in the folder")
}

/// Returns the number of sockets that the limit of file descriptors allows, `wanted` at most. Client and
/// gateway are separate processes with the same limit.
pub fn max_sockets(wanted: usize) -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let soft: usize = line.split_whitespace().nth(3).unwrap().parse().unwrap_or(usize::MAX);
    let allowed = wanted.min(soft.saturating_sub(SPARE_DESCRIPTORS));
    if allowed < wanted {
        println!("{allowed} sockets instead of {wanted}: the limit of file descriptors is {soft}");
    }
    allowed
}

/// Waits until the gauges of sockets, subscriptions and users in the hub are zero. Panics after `within`.
pub async fn wait_until_closed(app: &App, within: Duration) {
    let started = Instant::now();
    loop {
        let mut left = 0.0;
        for gauge in GAUGES {
            left += app.metric(gauge).await;
        }
        if left == 0.0 {
            return;
        }
        assert!(started.elapsed() < within, "{left} sockets, subscriptions and users are still counted");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Connects, subscribes and disconnects clients, half of them without a close frame, and waits until all
/// are closed.
async fn connect_and_disconnect(app: &App, cycles: usize) {
    let issuer = TokenIssuer::new(app);
    let issuer = &issuer;
    let cycle = |number: usize| async move {
        let mut socket = issuer.connect().await;
        if number.is_multiple_of(2) {
            socket.close().await;
        }
    };
    stream::iter(0..cycles).map(cycle).buffer_unordered(CONCURRENCY).collect::<Vec<_>>().await;
    wait_until_closed(app, Duration::from_secs(1)).await;
}

/// Returns the resident memory after three rounds of `cycles` connections, and after a fourth.
async fn memory_before_and_after(app: &App, cycles: usize) -> (u64, u64) {
    for _ in 0..3 {
        connect_and_disconnect(app, cycles).await;
    }
    let before = app.resident_bytes();
    connect_and_disconnect(app, cycles).await;
    (before, app.resident_bytes())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closed_sockets_leave_no_memory_behind() {
    let app = App::start().await;
    let client = TokenIssuer::new(&app).connect().await;
    for gauge in GAUGES {
        assert_eq!(app.metric(gauge).await, 1.0, "{gauge}");
    }
    drop(client);
    let (before, after) = memory_before_and_after(&app, 200).await;
    println!("resident: {} kB, after 200 more connections {} kB", before / 1024, after / 1024);
    assert!(after as f64 <= before as f64 * 1.10, "{before} bytes became {after}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "minutes long: make bench-sockets"]
async fn bench_10_000_sockets() {
    let app = App::start_with(&[("MAX_ANONYMOUS_SOCKETS", "1000")]).await;
    let issuer = TokenIssuer::new(&app);
    drop(issuer.connect_many(500).await);
    wait_until_closed(&app, Duration::from_secs(10)).await;
    let count = max_sockets(10_000);
    let empty = app.resident_bytes();
    let started = Instant::now();
    let sockets = issuer.connect_many(count).await;
    let took = started.elapsed();
    assert_eq!(app.metric("gateway_subscriptions").await, count as f64);
    let each = app.resident_bytes().saturating_sub(empty) / count as u64;
    println!("{count} sockets of as many users, each subscribed to its counters, in {took:.1?}");
    println!("resident: {} kB without sockets, {} bytes for each (goal {GOAL_BYTES})", empty / 1024, each);
    drop(sockets);
    wait_until_closed(&app, Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "minutes long: make bench-sockets"]
async fn bench_10_000_connects_and_disconnects() {
    let app = App::start_with(&[("MAX_ANONYMOUS_SOCKETS", "1000")]).await;
    let (before, after) = memory_before_and_after(&app, 10_000).await;
    println!(
        "resident: {} kB after 30,000 connections, {} kB after 10,000 more",
        before / 1024,
        after / 1024
    );
    assert!(after as f64 <= before as f64 * 1.10, "{before} bytes became {after}");
}
