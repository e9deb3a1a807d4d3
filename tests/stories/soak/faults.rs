//! The faults: each function starts one, waits for its time, and ends it. Load goes on all the time.

use std::{
    fs::{File, remove_file},
    io::Write,
    path::{Path, PathBuf},
    time::Instant,
};

use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
};
use std::time::Duration;
use tokio::{process::Command, time::sleep};

use super::{
    findings::{Findings, Rule},
    log_out::LogOuts,
    schedule::Fault,
};
use crate::stack::{Stack, control_engine};

/// Time for a request of the administration of Kafka.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(10);
/// A restore may be chosen as the victim of a deadlock with the running counter.
const RESTORE_ATTEMPTS: usize = 10;
const CHUNK_BYTES: usize = 64 * 1024;

/// Injects faults into a stack.
pub struct Faults<'a> {
    pub stack: &'a mut Stack,
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
                let process = self.stack.process_id(role);
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
            Fault::Cut { hold } => self.cut(*hold).await,
            Fault::LogOut { verb, hold } => self.log_outs_without_kafka(verb, *hold).await,
        }
        None
    }

    async fn kill(&mut self, roles: &[&'static str], hold: Duration) {
        for role in roles {
            self.stack.kill(role).await;
        }
        sleep(hold).await;
        for role in roles {
            self.stack.start_role(role);
        }
    }

    async fn restore(&mut self, hold: Duration, running: bool) -> Restored {
        let file = self.folder.join("counter.dump");
        let url = self.stack.databases["counter"].clone();
        let dumped = Instant::now();
        let mut dump = Command::new("pg_dump");
        dump.args(["--format=custom", "--file"]).arg(&file).arg("--dbname").arg(&url);
        assert!(dump.status().await.unwrap().success(), "pg_dump");
        sleep(hold).await;
        if !running {
            self.stack.kill("counter").await;
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
            self.stack.start_role("counter");
        }
        Restored { dumped }
    }

    async fn cut(&mut self, hold: Duration) {
        self.stack.kill("counter").await;
        sleep(hold).await;
        delete_records(self.stack.kafka_url(), proto::topic::DIALOG).await;
        self.stack.start_role("counter");
    }

    async fn log_outs_without_kafka(&mut self, verb: &str, hold: Duration) {
        control_engine(verb, "kafka").await;
        let started = Instant::now();
        let endpoint = (**self.stack).clone();
        loop {
            self.log_outs.log_out(&endpoint, self.findings).await;
            if started.elapsed() >= hold {
                break;
            }
        }
        end(verb, "kafka").await;
    }
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

/// Records the dead letters; none are expected.
pub fn check_dead_letters(log: &crate::log_recorder::LogRecorder, findings: &Findings) {
    for letter in log.dead_letters() {
        findings.add(Rule::DeadLetter, format!("key {}, version {}", letter.key, letter.version));
    }
}
