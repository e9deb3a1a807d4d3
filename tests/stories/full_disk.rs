//! Disks that fail: writes are refused within a second while the disk of SQLite or Postgres is full or
//! broken, reads go on, readiness says so, and everything heals within a second after it. While Kafka's
//! disk is full, nothing is refused.

use std::{
    path::{Path, PathBuf},
    process::Command as BlockingCommand,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use testkit::{eventually, free_port};
use tokio::process::Command;

use crate::{
    app::App,
    caller::Caller,
    kill::SEND,
    log_recorder::LogRecorder,
    oracle,
    small_disk::SmallDisk,
    stack::{self, Engines, Stack},
};

/// Time within which a write is answered, and within which writes work again.
const LIMIT: Duration = Duration::from_secs(1);
/// Messages that may still find space after the disk is full.
const SENDS_MAX: usize = 3_000;
/// Refused messages in a row that show a full disk.
const REFUSALS: usize = 25;

/// Two users with a dialog, and what was acknowledged.
struct Talk {
    ann: Caller,
    bob: Caller,
    dialog: String,
    readyz: String,
    acknowledged: Vec<i64>,
    sent: usize,
    slowest: Duration,
}

impl Talk {
    async fn start(endpoint: &crate::endpoint::Endpoint, readyz: String) -> Self {
        let ann = Caller::register(endpoint, "ann").await;
        let bob = Caller::register(endpoint, "bob").await;
        let dialog = ann.create_group(&[&bob], "two").await;
        let acknowledged = Vec::new();
        Self { ann, bob, dialog, readyz, acknowledged, sent: 0, slowest: Duration::ZERO }
    }

    /// Sends a message. Returns true if it was acknowledged, and panics unless the answer comes in time.
    async fn send(&mut self) -> bool {
        self.sent += 1;
        let text = format!("{:0>500}", self.sent);
        let input = json!({"input": {"dialogId": self.dialog, "text": text}});
        let started = Instant::now();
        let answer = self.ann.execute(SEND, input).await;
        let took = started.elapsed();
        assert!(took < LIMIT, "answered after {took:?}: {answer}");
        self.slowest = self.slowest.max(took);
        if let Some(seq) = answer["data"]["sendMessage"]["seq"].as_i64() {
            self.acknowledged.push(seq);
            return true;
        }
        assert_eq!(answer["errors"][0]["extensions"]["code"], "UNAVAILABLE", "{answer}");
        false
    }

    /// Sends until [`REFUSALS`] messages in a row are refused. After each of them the history, the counts
    /// and the account must be readable.
    async fn send_until_refused(&mut self) {
        let mut refusals = 0;
        let first = self.sent;
        while refusals < REFUSALS {
            assert!(self.sent - first < SENDS_MAX, "the disk is not full");
            if self.send().await {
                refusals = 0;
                continue;
            }
            refusals += 1;
            let document = "query($id: ID!) { me { id } unread { total }
                dialog(id: $id) { messages(first: 1) { nodes { seq } } } }";
            let read = self.bob.execute(document, json!({"id": self.dialog})).await;
            assert!(read.get("errors").is_none(), "reads go on: {read}");
        }
    }

    async fn readiness(&self) -> (u16, Value) {
        let answer = reqwest::get(&self.readyz).await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    /// Waits until readiness has this status code. Returns the time that it took.
    async fn wait_for_readiness(&self, code: u16) -> Duration {
        let started = Instant::now();
        eventually(&format!("readiness is {code}"), || async { self.readiness().await.0 == code }).await;
        started.elapsed()
    }

    /// Asserts that writes work again within the limit and that no acknowledged message is lost.
    async fn assert_healed(&mut self) -> Duration {
        let freed = Instant::now();
        while !self.send().await {
            assert!(freed.elapsed() < LIMIT, "no write for {:?}", freed.elapsed());
        }
        let healed = freed.elapsed();
        assert!(healed < LIMIT, "healed after {healed:?}");
        healed
    }

    /// Asserts that exactly the acknowledged messages are stored and counted.
    async fn assert_nothing_lost(&self) {
        let expected = self.acknowledged.len();
        let seqs: Vec<i64> = oracle::history(&self.bob, &self.dialog)
            .await
            .iter()
            .map(|message| message["seq"].as_i64().unwrap())
            .collect();
        let mut acknowledged = self.acknowledged.clone();
        acknowledged.sort_unstable();
        assert_eq!(seqs, acknowledged, "exactly the acknowledged messages are stored");
        eventually(&format!("{expected} messages are counted"), || async {
            self.bob.total().await == expected as i64
        })
        .await;
    }

    /// Breaks the disk, and mends it, three times.
    async fn survives(&mut self, name: &str, breaks: impl Fn(), mends: impl Fn()) {
        for round in 1..=3 {
            for _ in 0..20 {
                assert!(self.send().await);
            }
            self.wait_for_readiness(200).await;
            breaks();
            self.send_until_refused().await;
            let noticed = self.wait_for_readiness(503).await;
            let (_, report) = self.readiness().await;
            mends();
            let healed = self.assert_healed().await;
            let ready = self.wait_for_readiness(200).await;
            assert!(noticed < 2 * LIMIT && ready < 2 * LIMIT, "noticed {noticed:?}, ready {ready:?}");
            self.assert_nothing_lost().await;
            println!(
                "{name}, round {round}: slowest answer {:?}, noticed after {noticed:?}, healed after \
                 {healed:?}, ready after {ready:?}; {report}",
                self.slowest
            );
        }
        let refused = self.sent - self.acknowledged.len();
        println!("{name}: {} messages acknowledged and counted, {refused} refused", self.acknowledged.len());
    }
}

#[tokio::test]
async fn a_full_disk_of_sqlite_refuses_writes_only_while_it_is_full() {
    let Some(disk) = SmallDisk::mount(24) else { return };
    let app = App::start_in(tempfile::tempdir_in(disk.path()).unwrap(), &[]).await;
    let mut talk = Talk::start(&app, format!("{}/readyz", app.ops)).await;
    talk.survives("SQLite on a full disk", || disk.fill(), || disk.free()).await;
    let (folder, _) = app.stop().await;
    oracle::assert_databases_match_kernel(folder.path()).await;
}

/// Makes writes to the databases fail with EIO while the file `FAILING_DISK` exists: `write` in it breaks
/// writing, `sync` breaks flushing.
const FAILING_DISK: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int fails(int fd, char mode) {
    char link[64], path[1024], found = 0;
    int control = open(getenv("FAILING_DISK"), O_RDONLY | O_CLOEXEC);
    if (control < 0) return 0;
    if (read(control, &found, 1) != 1) found = 0;
    close(control);
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (found != mode || length < 0) return 0;
    path[length] = 0;
    if (!strstr(path, ".db")) return 0;
    errno = EIO;
    return 1;
}
#define NEXT(result, name, ...) ((result (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name))

ssize_t write(int fd, const void *from, size_t size) {
    return fails(fd, 'w') ? -1 : NEXT(ssize_t, "write", int, const void *, size_t)(fd, from, size);
}
ssize_t pwrite(int fd, const void *from, size_t size, off_t at) {
    if (fails(fd, 'w')) return -1;
    return NEXT(ssize_t, "pwrite", int, const void *, size_t, off_t)(fd, from, size, at);
}
ssize_t pwrite64(int fd, const void *from, size_t size, off64_t at) {
    if (fails(fd, 'w')) return -1;
    return NEXT(ssize_t, "pwrite64", int, const void *, size_t, off64_t)(fd, from, size, at);
}
int fsync(int fd) { return fails(fd, 's') ? -1 : NEXT(int, "fsync", int)(fd); }
int fdatasync(int fd) { return fails(fd, 's') ? -1 : NEXT(int, "fdatasync", int)(fd); }
"#;

/// Compiles [`FAILING_DISK`] as a shared library. Returns its path.
fn failing_disk(folder: &Path) -> PathBuf {
    let source = folder.join("failing_disk.c");
    std::fs::write(&source, FAILING_DISK).unwrap();
    let library = folder.join("failing_disk.so");
    let mut compiler = BlockingCommand::new("gcc");
    compiler.args(["-shared", "-fPIC", "-O1", "-w", "-o"]).arg(&library).arg(&source).arg("-ldl");
    assert!(compiler.status().unwrap().success(), "gcc compiles the library");
    library
}

#[tokio::test]
async fn an_input_output_error_of_sqlite_refuses_writes_only_while_it_lasts() {
    for mode in ["write", "sync"] {
        let shim = tempfile::tempdir().unwrap();
        let library = failing_disk(shim.path());
        let control = shim.path().join("fails");
        let preload = [("LD_PRELOAD", &library), ("FAILING_DISK", &control)];
        let settings = preload.map(|(name, path)| (name, path.to_str().unwrap()));
        let app = App::start_with(&settings).await;
        let mut talk = Talk::start(&app, format!("{}/readyz", app.ops)).await;
        let breaks = || std::fs::write(&control, mode).unwrap();
        let mends = || std::fs::remove_file(&control).unwrap();
        talk.survives(&format!("SQLite with EIO at every {mode}"), breaks, mends).await;
        let (folder, _) = app.stop().await;
        oracle::assert_databases_match_kernel(folder.path()).await;
    }
}

/// Runs the stack with its databases in a tablespace on a small disk. For `engines`.
pub async fn postgres_with_a_full_tablespace() {
    let Some(engines) = Engines::fresh().await else { return };
    let Some(disk) = SmallDisk::mount(96) else { return };
    let databases = stack::databases_in(engines.postgres(), Some(&disk.folder_of("postgres"))).await;
    let stack = Stack::start_on(engines, databases, &[]).await;
    let log = LogRecorder::start(stack.kafka_url()).await;
    let mut talk = Talk::start(&stack, stack.readyz("dialog")).await;
    talk.survives("Postgres with a full tablespace", || disk.fill(), || disk.free()).await;
    oracle::assert_engines_match_kernel(&stack, &log).await;
    let databases = stack.databases.clone();
    let server = stack.postgres().to_owned();
    drop(stack);
    stack::drop_databases(&server, databases).await;
}

/// A broker with all its files on a small disk; killed when dropped.
struct OwnBroker {
    disk: SmallDisk,
    ports: [u16; 2],
}

impl OwnBroker {
    async fn start() -> Option<Self> {
        let disk = SmallDisk::mount(64)?;
        let broker = Self { disk, ports: [free_port(), free_port()] };
        broker.control("start").await;
        Some(broker)
    }

    fn url(&self) -> String {
        format!("kafka://127.0.0.1:{}", self.ports[0])
    }

    fn script(&self, verb: &str) -> BlockingCommand {
        let mut command = BlockingCommand::new(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/engines/one.sh"));
        let [port, controller] = self.ports.map(|port| port.to_string());
        command.args([verb, "kafka"]).env("ENGINES_DIR", self.disk.path());
        command.env("KAFKA_PORT", port).env("KAFKA_CONTROLLER_PORT", controller);
        command
    }

    async fn control(&self, verb: &str) {
        let done = Command::from(self.script(verb)).status().await.unwrap();
        assert!(done.success(), "one.sh {verb} kafka");
    }

    async fn runs(&self) -> bool {
        Command::from(self.script("status")).output().await.unwrap().status.success()
    }
}

impl Drop for OwnBroker {
    fn drop(&mut self) {
        drop(self.script("kill").status());
    }
}

/// Fills the disk of the broker. For `engines`.
pub async fn kafka_with_a_full_disk() {
    let Some(mut engines) = Engines::fresh().await else { return };
    let Some(broker) = OwnBroker::start().await else { return };
    engines.kafka = broker.url();
    let databases = stack::databases(engines.postgres()).await;
    let stack = Stack::start_on(engines, databases, &[]).await;
    let log = LogRecorder::start(stack.kafka_url()).await;
    let mut talk = Talk::start(&stack, stack.readyz("dialog")).await;
    for round in 1..=2 {
        broker.disk.fill();
        let filled = Instant::now();
        while talk.readiness().await.1["status"] != "degraded" {
            assert!(talk.send().await, "nothing is refused");
            assert!(filled.elapsed() < Duration::from_secs(60), "the broker does not notice its full disk");
        }
        let noticed = filled.elapsed();
        let report = talk.readiness().await;
        for _ in 0..100 {
            assert!(talk.send().await, "nothing is refused");
        }
        assert_eq!(report.0, 200, "degraded is not dead: {}", report.1);
        let pending = stack.metric("dialog", "outbox_pending{outbox=\"dialog\"}").await;
        broker.disk.free();
        let survived = broker.runs().await;
        broker.control("start").await;
        let started = Instant::now();
        talk.assert_nothing_lost().await;
        println!(
            "Kafka with a full disk, round {round}: degraded after {noticed:?}, {pending:?} events \
             waited, the broker {}, everything counted {:?} after its start; {}",
            if survived { "went on" } else { "had stopped" },
            started.elapsed(),
            report.1
        );
    }
    oracle::assert_engines_match_kernel(&stack, &log).await;
    println!("Kafka with a full disk: {} messages acknowledged and counted", talk.acknowledged.len());
}
