//! The faults: each function starts one, waits for its time, and ends it. Load goes on all the time.

use std::{
    fs::{File, remove_file},
    io::Write,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use tokio::{process::Command, time::sleep};

use super::{event_log, findings::Findings, log_out::LogOuts, schedule::Fault, system::System};
use crate::{
    proxy::Traffic,
    stack::{Stack, control_engine},
};

/// A restore may be chosen as the victim of a deadlock with the running counter.
const RESTORE_ATTEMPTS: usize = 10;
const CHUNK_BYTES: usize = 64 * 1024;

/// Injects faults into a stack.
pub struct Faults<'a> {
    pub system: &'a mut System,
    pub log_outs: &'a mut LogOuts,
    pub findings: &'a Findings,
    /// Folder on a small disk that holds the databases.
    pub disk: Option<&'a Path>,
    /// Folder for dumps.
    pub folder: &'a Path,
}

/// A restore: the time of the dump, and the time of its end.
pub struct Restored {
    pub dumped: Instant,
}

impl Faults<'_> {
    /// Injects a fault and returns when its cause has gone.
    pub async fn inject(&mut self, fault: &Fault) -> Option<Restored> {
        match fault {
            Fault::Kill { roles, hold } => self.kill(roles, *hold).await,
            Fault::Pause { role, hold } => {
                let process = self.system.process_id(role).expect("every role runs");
                testkit::signal(process, "-STOP");
                sleep(*hold).await;
                testkit::signal(process, "-CONT");
            }
            Fault::Redis { verb, hold } => redis(*verb, *hold).await,
            Fault::Kafka { verb, hold } => {
                control_engine(verb, "kafka").await;
                sleep(*hold).await;
                end(verb, "kafka").await;
            }
            Fault::Postgres { hold } => {
                control_engine("abort", "postgres").await;
                sleep(*hold).await;
                control_engine("start", "postgres").await;
            }
            Fault::Disk { hold } => {
                let file = fill(self.disk.expect("the schedule has this fault only with a disk"));
                sleep(*hold).await;
                remove_file(file).unwrap();
            }
            Fault::Restore { hold, running } => return Some(self.restore(*hold, *running).await),
            Fault::Cut { hold } => event_log::cut(self.stack(), *hold).await,
            Fault::LogOut { verb, hold } => self.log_outs_without_log(verb, *hold).await,
            Fault::Kills { roles } => {
                for (role, between) in roles {
                    self.kill(&[role], Duration::ZERO).await;
                    sleep(*between).await;
                }
            }
            Fault::Network { link, traffic, hold } => {
                let links = self.stack().links().expect("the schedule has this fault only with proxies");
                links.set(link, *traffic);
                sleep(*hold).await;
                links.set(link, Traffic::Forwarded);
            }
            Fault::Repeat { hold } => event_log::repeat(self.stack().kafka_url(), *hold).await,
            Fault::Replay { role } => event_log::replay(self.stack(), role).await,
            Fault::Clock { role, hold } => self.set_clock_back(role, *hold).await,
            Fault::Engine { engine, hold, successor } => kill_engine(engine, *hold, *successor).await,
        }
        None
    }

    /// Returns the stack on the engines, which some faults require.
    fn stack(&mut self) -> &mut Stack {
        match self.system {
            System::Stack(engines) => &mut engines.stack,
            System::One(_) | System::Production(_) => {
                unreachable!("the schedule has this fault only on the engines")
            }
        }
    }

    /// Starts a role again with its clock an hour behind, and later with the right one. The Kafka client uses
    /// much CPU time until then: the library does not know the function by which it waits until a time.
    async fn set_clock_back(&mut self, role: &'static str, hold: Duration) {
        let library = fake_clock().expect("the schedule has this fault only with the library");
        let stack = self.stack();
        for (library, offset) in [(library.to_str().expect("a path in UTF-8"), "-1h"), ("", "")] {
            stack.kill(role).await;
            stack.set(role, "LD_PRELOAD", library);
            stack.set(role, "FAKETIME", offset);
            // Timeouts and intervals follow the monotonic clock, which no one sets.
            stack.set(role, "FAKETIME_DONT_FAKE_MONOTONIC", "1");
            stack.start_role(role);
            if !library.is_empty() {
                sleep(hold).await;
            }
        }
    }

    async fn kill(&mut self, roles: &[&'static str], hold: Duration) {
        for role in roles {
            self.system.kill(role).await;
        }
        sleep(hold).await;
        for role in roles {
            self.system.start(role).await;
        }
    }

    /// Restores the counter's database to its state `hold` ago.
    async fn restore(&mut self, hold: Duration, running: bool) -> Restored {
        match self.system {
            System::Stack(engines) => restore_dump(&mut engines.stack, self.folder, hold, running).await,
            System::One(_) => self.restore_files(hold).await,
            System::Production(_) => unreachable!("the tour does not restore"),
        }
    }

    /// Saves and restores the files of SQLite, with the process stopped by SIGKILL each time.
    async fn restore_files(&mut self, hold: Duration) -> Restored {
        let [role] = self.system.roles() else { unreachable!("one process has one role") };
        self.system.kill(role).await;
        let dumped = Instant::now();
        copy_files(self.system.data_folder(), self.folder);
        self.system.start(role).await;
        sleep(hold).await;
        self.system.kill(role).await;
        copy_files(self.folder, self.system.data_folder());
        self.system.start(role).await;
        Restored { dumped }
    }

    async fn log_outs_without_log(&mut self, verb: &str, hold: Duration) {
        let has_kafka = matches!(self.system, System::Stack(_));
        if has_kafka {
            control_engine(verb, "kafka").await;
        }
        let started = Instant::now();
        let endpoint = self.system.endpoint();
        loop {
            self.log_outs.log_out(&endpoint, self.findings).await;
            if started.elapsed() >= hold {
                break;
            }
        }
        if has_kafka {
            end(verb, "kafka").await;
        }
    }
}

async fn restore_dump(stack: &mut Stack, folder: &Path, hold: Duration, running: bool) -> Restored {
    let file = folder.join("counter.dump");
    let url = stack.databases["counter"].clone();
    let dumped = Instant::now();
    let mut dump = Command::new("pg_dump");
    dump.args(["--format=custom", "--file"]).arg(&file).arg("--dbname").arg(&url);
    assert!(dump.status().await.unwrap().success(), "pg_dump");
    sleep(hold).await;
    if !running {
        stack.kill("counter").await;
    }
    for attempt in 1.. {
        let mut restore = Command::new("pg_restore");
        restore.args(["--clean", "--if-exists", "--single-transaction", "--dbname"]).arg(&url).arg(&file);
        let output = restore.output().await.unwrap();
        if output.status.success() {
            break;
        }
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(attempt < RESTORE_ATTEMPTS, "pg_restore: {errors}");
    }
    if !running {
        stack.start_role("counter");
    }
    Restored { dumped }
}

/// Copies the counter's database of SQLite, which no process has open, and removes what is there.
fn copy_files(from: &Path, to: &Path) {
    for name in ["counter.db", "counter.db-wal", "counter.db-shm"] {
        if to.join(name).exists() {
            remove_file(to.join(name)).unwrap();
        }
        if from.join(name).exists() {
            std::fs::copy(from.join(name), to.join(name)).unwrap();
        }
    }
}

/// Returns the library that fakes the clock of a process, if it is installed (`libfaketime`).
pub fn fake_clock() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").ok()?.filter_map(Result::ok);
    let mut libraries = folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"));
    libraries.find(|library| library.exists())
}

/// Ends what a verb of one.sh has done.
async fn end(verb: &str, engine: &str) {
    control_engine(if verb == "pause" { "resume" } else { "start" }, engine).await;
}

async fn kill_engine(engine: &str, hold: Duration, successor: bool) {
    control_engine("kill", engine).await;
    sleep(hold / 2).await;
    if successor {
        control_engine("promote", engine).await;
    }
    sleep(hold / 2).await;
    control_engine("start", engine).await;
}

async fn redis(verb: Option<&str>, hold: Duration) {
    let client = redis::Client::open(testkit::redis_url().expect("the engines have Redis")).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    redis::cmd("FLUSHALL").exec_async(&mut connection).await.unwrap();
    if let Some(verb) = verb {
        control_engine(verb, "redis").await;
        sleep(hold).await;
        end(verb, "redis").await;
    }
}

/// Fills a disk with a file and returns its path.
fn fill(disk: &Path) -> PathBuf {
    let path = disk.join("filler");
    let mut file = File::create(&path).unwrap();
    for bytes in [CHUNK_BYTES, 1] {
        while file.write_all(&vec![0; bytes]).is_ok() {}
    }
    path
}
