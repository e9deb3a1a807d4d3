//! Many sockets: what each costs in memory, and that those who leave leave nothing behind. The counts are small among the
//! tests; `make bench-sockets` runs them in full against an optimised build.

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
    device::{Device, UNREAD},
    person::Person,
};

/// Clients that are busy at once.
const SIDE_BY_SIDE: usize = 50;
const GAUGES: [&str; 3] = ["gateway_sockets", "gateway_subscriptions", "gateway_hub_users"];
/// What a subscribed socket may cost, in bytes.
const GOAL_BYTES: u64 = 12 * 1024;
/// Descriptors that the program needs beside its sockets.
const SPARE: usize = 500;

/// People who are signed in without having registered: a thousand passwords to hash would be most of the time.
struct Crowd {
    keys: SigningKeys,
    url: String,
    http: reqwest::Client,
}

impl Crowd {
    fn of(app: &App) -> Self {
        let keys = SigningKeys::load(&key_file(app.folder.path())).unwrap();
        Self { keys, url: app.url.clone(), http: reqwest::Client::new() }
    }

    /// One more person, of whom nobody knows anything.
    fn stranger(&self) -> Person {
        let (user, session) = (uuid::Uuid::now_v7(), uuid::Uuid::now_v7());
        let now_s =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64;
        let token = self.keys.sign(&Claims::new("tidings", user, session, now_s, 3600));
        let (id, refresh_token) = (user.to_string(), String::new());
        Person { id, token, refresh_token, url: self.url.clone(), http: self.http.clone() }
    }

    /// A device that watches, and has seen its first frame.
    async fn device(&self) -> Device {
        let mut device = Device::connect(&self.stranger()).await;
        device.subscribe("u", UNREAD, json!({})).await;
        assert_eq!(device.frame("u", "unread").await["kind"], "SNAPSHOT");
        device
    }

    /// So many, which stay until dropped.
    async fn devices(&self, count: usize) -> JoinSet<()> {
        let mut devices = JoinSet::new();
        let mut coming = stream::iter(0..count).map(|_| self.device()).buffer_unordered(SIDE_BY_SIDE);
        while let Some(device) = coming.next().await {
            devices.spawn(device.stay());
        }
        devices
    }
}

fn key_file(folder: &Path) -> std::path::PathBuf {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut keys = entries.filter(|path| path.extension().is_some_and(|extension| extension == "pem"));
    keys.next().expect("the signing key is in the folder")
}

/// How many sockets there may be: both ends of each are on this machine, each in a process of its own.
pub fn most(wanted: usize) -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let soft: usize = line.split_whitespace().nth(3).unwrap().parse().unwrap_or(usize::MAX);
    let most = wanted.min(soft.saturating_sub(SPARE));
    if most < wanted {
        println!("{most} and not {wanted}: a process may have {soft} descriptors");
    }
    most
}

/// No socket, stream or person of a socket is left, soon.
pub async fn are_gone(app: &App, within: Duration) {
    let begun = Instant::now();
    loop {
        let mut left = 0.0;
        for gauge in GAUGES {
            left += app.metric(gauge).await;
        }
        if left == 0.0 {
            return;
        }
        assert!(begun.elapsed() < within, "{left} sockets, streams and people are still counted");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Devices that connect, watch and leave, half of them without a word, while nothing happens; then nothing is left.
async fn come_and_go(app: &App, cycles: usize) {
    let crowd = Crowd::of(app);
    let crowd = &crowd;
    let cycle = |number: usize| async move {
        let mut device = crowd.device().await;
        if number.is_multiple_of(2) {
            device.leave().await;
        }
    };
    stream::iter(0..cycles).map(cycle).buffer_unordered(SIDE_BY_SIDE).collect::<Vec<_>>().await;
    are_gone(app, Duration::from_secs(1)).await;
}

/// Memory after many more who came and went is what it was after the first ones.
async fn memory_stays(app: &App, cycles: usize) -> (u64, u64) {
    for _ in 0..3 {
        come_and_go(app, cycles).await;
    }
    let before = app.resident();
    come_and_go(app, cycles).await;
    (before, app.resident())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_leaves_a_quiet_stream_leaves_nothing_behind() {
    let app = App::start().await;
    let one = Crowd::of(&app).device().await;
    for gauge in GAUGES {
        assert_eq!(app.metric(gauge).await, 1.0, "{gauge}");
    }
    drop(one);
    let (before, after) = memory_stays(&app, 200).await;
    println!("memory {} kB, after 200 more who came and went {} kB", before / 1024, after / 1024);
    assert!(after as f64 <= before as f64 * 1.10, "{before} bytes became {after}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "minutes long: make bench-sockets"]
async fn bench_10_000_sockets() {
    let app = App::start_with(&[("MAX_ANONYMOUS_SOCKETS", "1000")]).await;
    let crowd = Crowd::of(&app);
    drop(crowd.devices(500).await);
    are_gone(&app, Duration::from_secs(10)).await;
    let (count, empty) = (most(10_000), app.resident());
    let begun = Instant::now();
    let devices = crowd.devices(count).await;
    let took = begun.elapsed();
    assert_eq!(app.metric("gateway_subscriptions").await, count as f64);
    let each = app.resident().saturating_sub(empty) / count as u64;
    println!("{count} signed-in sockets of as many people, each watching its counters, in {took:.1?}");
    println!("resident: {} kB without them, {} bytes for each (goal {GOAL_BYTES})", empty / 1024, each);
    drop(devices);
    are_gone(&app, Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "minutes long: make bench-sockets"]
async fn bench_10_000_who_come_and_go() {
    let app = App::start_with(&[("MAX_ANONYMOUS_SOCKETS", "1000")]).await;
    let (before, after) = memory_stays(&app, 10_000).await;
    println!(
        "resident after 30,000 who came and went {} kB, after 10,000 more {} kB",
        before / 1024,
        after / 1024
    );
    assert!(after as f64 <= before as f64 * 1.10, "{before} bytes became {after}");
}
