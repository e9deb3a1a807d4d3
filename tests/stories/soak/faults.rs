//! The faults: each function starts one, waits for its time, and ends it. Load goes on all the time.

use std::{
    fs::{File, remove_file},
    io::Write,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
};
use tokio::{process::Command, time::sleep};

use super::{findings::Findings, log_out::LogOuts, schedule::Fault, system::System};
use crate::stack::{Stack, control_engine};

/// Time for a request of the administration of Kafka.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(10);
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
            Fault::Cut { hold } => cut(self.system, *hold).await,
            Fault::LogOut { verb, hold } => self.log_outs_without_log(verb, *hold).await,
        }
        None
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

/// Stops the counter, and deletes the log up to its end before it starts again.
async fn cut(system: &mut System, hold: Duration) {
    let System::Stack(engines) = system else { unreachable!("one process has no log to cut") };
    engines.stack.kill("counter").await;
    sleep(hold).await;
    delete_records(engines.stack.kafka_url(), proto::topic::DIALOG).await;
    engines.stack.start_role("counter");
}

/// Ends what a verb of one.sh has done.
async fn end(verb: &str, engine: &str) {
    control_engine(if verb == "pause" { "resume" } else { "start" }, engine).await;
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

/// Deletes all records of a topic.
async fn delete_records(kafka_url: &str, topic: &str) {
    let brokers = kafka_url.trim_start_matches("kafka://");
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap();
    let metadata = admin.inner().fetch_metadata(Some(topic), ADMIN_TIMEOUT).unwrap();
    let mut list = TopicPartitionList::new();
    for partition in metadata.topics()[0].partitions() {
        list.add_partition_offset(topic, partition.id(), Offset::End).unwrap();
    }
    let options = AdminOptions::new().operation_timeout(Some(ADMIN_TIMEOUT));
    admin.delete_records(&list, &options).await.unwrap();
}
