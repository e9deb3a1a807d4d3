//! Tests with a private broker that is killed, restarted and deleted. They run only if `TEST_KAFKA_URL`
//! is set, which implies that Kafka is installed; `deploy/engines/one.sh` starts the broker.

use std::{path::Path, process::Command, time::Duration};

use db::Dialect;
use events::{Log, Mismatch};
use tempfile::TempDir;
use testkit::{eventually, free_port};

use crate::fixture::{CopyHandler, Fixture, append, assert_each_once, copied, count, wait_until_copied};

/// Ports of a broker.
#[derive(Clone, Copy)]
struct Ports {
    broker: u16,
    controller: u16,
}

impl Ports {
    fn free() -> Self {
        Self { broker: free_port(), controller: free_port() }
    }
}

struct Broker {
    folder: TempDir,
    ports: Ports,
}

impl Broker {
    fn start() -> Option<Self> {
        std::env::var("TEST_KAFKA_URL").ok()?;
        let broker = Self { folder: tempfile::tempdir().unwrap(), ports: Ports::free() };
        broker.run("start");
        Some(broker)
    }

    fn run(&self, verb: &str) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/engines/one.sh");
        let status = Command::new(script)
            .args([verb, "kafka"])
            .env("ENGINES_DIR", self.folder.path())
            .env("KAFKA_PORT", self.ports.broker.to_string())
            .env("KAFKA_CONTROLLER_PORT", self.ports.controller.to_string())
            .status();
        assert!(status.unwrap().success(), "one.sh {verb} kafka");
    }

    /// Moves a stopped broker with its data to other ports.
    fn move_to(&mut self, ports: Ports) {
        let file = self.folder.path().join("kafka/server.properties");
        let settings = std::fs::read_to_string(&file).unwrap();
        let replace = |text: String, old: u16, new: u16| text.replace(&format!(":{old}"), &format!(":{new}"));
        let settings = replace(settings, self.ports.broker, ports.broker);
        let settings = replace(settings, self.ports.controller, ports.controller);
        std::fs::write(&file, settings).unwrap();
        self.ports = ports;
    }

    async fn fixture(&self) -> Fixture {
        let database = std::env::var("TEST_POSTGRES_URL").map_or(Dialect::Sqlite, |_| Dialect::Postgres);
        Fixture::real(format!("kafka://127.0.0.1:{}", self.ports.broker), database).await
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.run("kill");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consumers_survive_a_killed_broker_and_stop_if_its_data_is_lost() {
    let Some(broker) = Broker::start() else { return };
    let fixture = broker.fixture().await;
    let producer = fixture.database().await;
    let target = fixture.database().await;
    let relay = fixture.relay(&producer.db);
    let consumer = fixture.start_consumer("survivor", "one", &target.db, CopyHandler::default());
    let mut tail = Log::Kafka(fixture.kafka("tail")).tail(&[fixture.topic]).await.unwrap();
    append(&producer.db, fixture.topic, 20, 0..10).await;
    wait_until_copied(&target.db, 200).await;
    for round in 1..4 {
        append(&producer.db, fixture.topic, 20, round * 20 - 10..round * 20).await;
        broker.run("kill");
        append(&producer.db, fixture.topic, 20, round * 20..round * 20 + 10).await;
        broker.run("start");
        wait_until_copied(&target.db, usize::try_from(round).unwrap() * 400 + 200).await;
    }
    assert_each_once(&target.db, 20, 0..70).await;
    eventually("the outbox is empty", || async { count(&producer.db, "outbox").await == 0 }).await;
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < 1400 {
        let Ok(batch) = tokio::time::timeout(Duration::from_secs(20), tail.next()).await.unwrap() else {
            continue;
        };
        assert!(!batch.skipped, "no record was deleted");
        seen.extend(batch.records.into_iter().map(|record| (record.key, record.version)));
    }
    // The broker loses its data.
    broker.run("wipe");
    append(&producer.db, fixture.topic, 20, 100..110).await;
    broker.run("start");
    fixture.create_topic().await;
    let stopped = tokio::time::timeout(Duration::from_secs(60), consumer.end()).await.unwrap().unwrap_err();
    assert!(matches!(stopped.reason, Mismatch::EndsAt(_)), "{stopped}");
    assert_eq!(
        copied(&target.db).await.values().map(Vec::len).sum::<usize>(),
        1400,
        "no further record is applied"
    );
    eventually("the relay continues", || async { count(&producer.db, "outbox").await == 0 }).await;
    let skip = async { while !tail.next().await.is_ok_and(|batch| batch.skipped) {} };
    tokio::time::timeout(Duration::from_secs(60), skip).await.expect("the tail reports the lost position");
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consumers_stop_at_a_different_longer_log() {
    let Some(mut broker) = Broker::start() else { return };
    let fixture = broker.fixture().await;
    let producer = fixture.database().await;
    let target = fixture.database().await;
    let relay = fixture.relay(&producer.db);
    let consumer = fixture.start_consumer("deceived", "one", &target.db, CopyHandler::default());
    append(&producer.db, fixture.topic, 20, 0..10).await;
    wait_until_copied(&target.db, 200).await;
    eventually("the outbox is empty", || async { count(&producer.db, "outbox").await == 0 }).await;
    relay.stop().await;
    // The new log is filled on other ports, so that the consumer does not see it grow past its offset.
    broker.run("wipe");
    let original_ports = broker.ports;
    broker.ports = Ports::free();
    broker.run("start");
    let mut other = broker.fixture().await;
    other.topic = fixture.topic;
    other.create_topic().await;
    let relay = other.relay(&producer.db);
    append(&producer.db, fixture.topic, 20, 100..150).await;
    eventually("the outbox is empty", || async { count(&producer.db, "outbox").await == 0 }).await;
    relay.stop().await;
    broker.run("stop");
    broker.move_to(original_ports);
    broker.run("start");
    let stopped = tokio::time::timeout(Duration::from_secs(60), consumer.end()).await.unwrap().unwrap_err();
    assert_eq!(stopped.reason, Mismatch::DifferentRecord, "{stopped}");
    assert_eq!(
        copied(&target.db).await.values().map(Vec::len).sum::<usize>(),
        200,
        "no further record is applied"
    );
}
