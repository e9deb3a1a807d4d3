//! A real broker of the test's own, killed, started again and robbed of its data. Only where `TEST_KAFKA_URL` says that
//! engines are installed; `deploy/engines/one.sh` starts it.

use std::{net::TcpListener, path::Path, process::Command, time::Duration};

use db::Dialect;
use events::{Log, Mismatch};
use tempfile::TempDir;
use testkit::eventually;

use crate::world::{Copy, World, append, assert_each_once, copied, count, until_copied};

/// Two ports: of the broker and of its controller.
type Ports = (u16, u16);

struct Broker {
    folder: TempDir,
    ports: Ports,
}

fn free_ports() -> Ports {
    let (one, other) = (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    (one.local_addr().unwrap().port(), other.local_addr().unwrap().port())
}

impl Broker {
    fn start() -> Option<Self> {
        std::env::var("TEST_KAFKA_URL").ok()?;
        let broker = Self { folder: tempfile::tempdir().unwrap(), ports: free_ports() };
        broker.does("start");
        Some(broker)
    }

    fn does(&self, verb: &str) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/engines/one.sh");
        let ended = Command::new(script)
            .args([verb, "kafka"])
            .env("ENGINES_DIR", self.folder.path())
            .env("KAFKA_PORT", self.ports.0.to_string())
            .env("KAFKA_CONTROLLER_PORT", self.ports.1.to_string())
            .status();
        assert!(ended.unwrap().success(), "one.sh {verb} kafka");
    }

    /// Moves the broker, which is stopped, with its data to other ports.
    fn move_to(&mut self, ports: Ports) {
        let file = self.folder.path().join("kafka/server.properties");
        let settings = std::fs::read_to_string(&file).unwrap();
        let settings = settings.replace(&format!(":{}", self.ports.0), &format!(":{}", ports.0));
        std::fs::write(&file, settings.replace(&format!(":{}", self.ports.1), &format!(":{}", ports.1)))
            .unwrap();
        self.ports = ports;
    }

    async fn world(&self) -> World {
        let database = std::env::var("TEST_POSTGRES_URL").map_or(Dialect::Sqlite, |_| Dialect::Postgres);
        World::real(format!("kafka://127.0.0.1:{}", self.ports.0), database).await
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.does("kill");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_broker_comes_back_and_a_robbed_one_is_recognised() {
    let Some(broker) = Broker::start() else { return };
    let world = broker.world().await;
    let (producer, target) = (world.database().await, world.database().await);
    let relay = world.relay(&producer.db);
    let consumer = world.copier("survivor", "one", &target.db, Copy::default());
    let mut tail = Log::Kafka(world.kafka("tail")).tail(&[world.topic]).await.unwrap();
    append(&producer.db, world.topic, 20, 0..10).await;
    until_copied(&target.db, 200).await;
    for round in 1..4 {
        append(&producer.db, world.topic, 20, round * 20 - 10..round * 20).await;
        broker.does("kill");
        append(&producer.db, world.topic, 20, round * 20..round * 20 + 10).await;
        broker.does("start");
        until_copied(&target.db, usize::try_from(round).unwrap() * 400 + 200).await;
    }
    assert_each_once(&target.db, 20, 0..70).await;
    eventually("the outbox is empty", || async { count(&producer.db, "outbox").await == 0 }).await;
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < 1400 {
        let Ok(next) = tokio::time::timeout(Duration::from_secs(20), tail.next()).await.unwrap() else {
            continue;
        };
        assert!(!next.skipped, "the log was there all the time");
        seen.extend(next.records.into_iter().map(|record| (record.key, record.version)));
    }
    // Its data is gone.
    broker.does("wipe");
    append(&producer.db, world.topic, 20, 100..110).await;
    broker.does("start");
    world.make_topic().await;
    let stopped = tokio::time::timeout(Duration::from_secs(60), consumer.end()).await.unwrap().unwrap_err();
    assert!(matches!(stopped.why, Mismatch::EndsAt(_)), "{stopped}");
    assert_eq!(copied(&target.db).await.values().map(Vec::len).sum::<usize>(), 1400, "nothing jumps");
    eventually("the relay goes on", || async { count(&producer.db, "outbox").await == 0 }).await;
    let told = async { while !tail.next().await.is_ok_and(|next| next.skipped) {} };
    tokio::time::timeout(Duration::from_secs(60), told).await.expect("the tail says that its place is gone");
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_comes_back_with_another_longer_log_is_recognised() {
    let Some(mut broker) = Broker::start() else { return };
    let world = broker.world().await;
    let (producer, target) = (world.database().await, world.database().await);
    let relay = world.relay(&producer.db);
    let consumer = world.copier("deceived", "one", &target.db, Copy::default());
    append(&producer.db, world.topic, 20, 0..10).await;
    until_copied(&target.db, 200).await;
    eventually("the outbox is empty", || async { count(&producer.db, "outbox").await == 0 }).await;
    relay.stop().await;
    // Filled elsewhere, where the consumer does not see it grow past its place.
    broker.does("wipe");
    let (here, elsewhere) = (broker.ports, free_ports());
    broker.ports = elsewhere;
    broker.does("start");
    let mut other = broker.world().await;
    other.topic = world.topic;
    other.make_topic().await;
    let relay = other.relay(&producer.db);
    append(&producer.db, world.topic, 20, 100..150).await;
    eventually("the outbox is empty", || async { count(&producer.db, "outbox").await == 0 }).await;
    relay.stop().await;
    broker.does("stop");
    broker.move_to(here);
    broker.does("start");
    let stopped = tokio::time::timeout(Duration::from_secs(60), consumer.end()).await.unwrap().unwrap_err();
    assert_eq!(stopped.why, Mismatch::Foreign, "{stopped}");
    assert_eq!(copied(&target.db).await.values().map(Vec::len).sum::<usize>(), 200, "nothing jumps");
}
