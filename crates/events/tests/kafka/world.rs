//! What these tests stand on: a cluster, a database that produces, one that consumes, and handlers that copy what they apply.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use db::{Db, Dialect, Tx, query};
use events::{Apply, BoxError, Consumer, Event, Headers, Kafka, Log, Record, Relay, Stopped, Topic, outbox};
use rdkafka::{mocking::MockCluster, producer::DefaultProducerContext};
use testkit::{TestDb, databases};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub const PARTITIONS: i32 = 4;

/// A Kafka that a test may use.
pub enum Cluster {
    /// In this process. Its broker can be taken down.
    Mock(MockCluster<'static, DefaultProducerContext>),
    /// A real one, shared with other tests.
    Real(String),
}

/// A cluster, and a kind of database to go with it.
pub struct World {
    pub cluster: Cluster,
    pub topic: &'static str,
    database: Dialect,
}

/// The mock with SQLite, and where there are engines the real one with Postgres (or SQLite).
pub async fn worlds() -> Vec<World> {
    // `RUST_LOG=debug cargo test` shows what happens.
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
    let mut worlds = vec![World::mock(leak(format!("test.{}", Uuid::now_v7().simple())), Dialect::Sqlite)];
    if let Ok(url) = std::env::var("TEST_KAFKA_URL") {
        let postgres = std::env::var("TEST_POSTGRES_URL").is_ok();
        let database = if postgres { Dialect::Postgres } else { Dialect::Sqlite };
        worlds.push(World::real(url, database).await);
    }
    worlds
}

pub fn leak(name: String) -> &'static str {
    Box::leak(name.into_boxed_str())
}

impl World {
    pub fn mock(topic: &'static str, database: Dialect) -> Self {
        let mock = MockCluster::new(1).unwrap();
        mock.create_topic(topic, PARTITIONS, 1).unwrap();
        Self { cluster: Cluster::Mock(mock), topic, database }
    }

    pub async fn real(url: String, database: Dialect) -> Self {
        let topic = leak(format!("test.{}", Uuid::now_v7().simple()));
        let world = Self { cluster: Cluster::Real(url), topic, database };
        world.make_topic().await;
        world
    }

    pub async fn make_topic(&self) {
        let topic = Topic { name: self.topic, partitions: PARTITIONS, retention: Duration::from_secs(3600) };
        self.kafka("admin").ensure_topics(&[topic]).await.unwrap();
    }

    pub fn brokers(&self) -> String {
        match &self.cluster {
            Cluster::Mock(mock) => mock.bootstrap_servers(),
            Cluster::Real(url) => url.trim_start_matches("kafka://").to_owned(),
        }
    }

    pub fn kafka(&self, instance: &str) -> Kafka {
        let url = format!("kafka://{}", self.brokers());
        match self.cluster {
            // It knows no instance that comes back, and every rebalance takes as long as the session's timeout.
            Cluster::Mock(_) => Kafka::new(&url, None).unwrap().with_session_timeout(Duration::from_secs(3)),
            Cluster::Real(_) => Kafka::new(&url, Some(instance)).unwrap(),
        }
    }

    /// A database with an outbox, offsets and a table to copy into.
    pub async fn database(&self) -> TestDb {
        let all = databases(&[&db::MIGRATIONS, &events::MIGRATIONS]).await;
        let test = all.into_iter().find(|test| test.db.dialect() == self.database).unwrap();
        let mut tx = test.db.begin().await.unwrap();
        let copy = match self.database {
            Dialect::Sqlite => {
                "create table copy (id integer primary key, key text, version bigint, payload blob)"
            }
            Dialect::Postgres => {
                "create table copy (id bigint generated always as identity, key text, version bigint, payload bytea)"
            }
        };
        query(copy).execute(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        test
    }

    pub fn relay(&self, db: &Db) -> Running<()> {
        let relay = Relay::new("tested", db, &self.kafka("relay"));
        Running::start(|shutdown| async move { relay.run(shutdown).await })
    }

    /// A consumer of this world's topic that copies what it applies.
    pub fn copier(
        &self,
        name: &'static str,
        instance: &str,
        db: &Db,
        copy: Copy,
    ) -> Running<Result<(), Stopped>> {
        let log = Log::Kafka(self.kafka(instance));
        let topics: &'static [&'static str] = Box::leak(Box::new([self.topic]));
        let consumer = Consumer::new(name, topics, &log, db, copy);
        Running::start(|shutdown| async move { consumer.run(shutdown).await })
    }
}

/// A loop under way.
pub struct Running<T> {
    shutdown: CancellationToken,
    task: JoinHandle<T>,
}

impl<T: Send + 'static> Running<T> {
    fn start<F: Future<Output = T> + Send + 'static>(begin: impl FnOnce(CancellationToken) -> F) -> Self {
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(begin(shutdown.clone()));
        Self { shutdown, task }
    }

    /// Shuts it down and waits for its end.
    pub async fn stop(self) -> T {
        self.shutdown.cancel();
        self.task.await.unwrap()
    }

    /// Waits for an end that it finds by itself, twenty seconds at most.
    pub async fn end(self) -> T {
        tokio::time::timeout(Duration::from_secs(20), self.task).await.expect("it ends by itself").unwrap()
    }

    /// Drops it in the middle, as a killed process would.
    pub async fn kill(self) {
        self.task.abort();
        drop(self.task.await);
    }
}

/// Writes what it applies into the table `copy`, and goes wrong where a test plants it.
#[derive(Clone, Default)]
pub struct Copy {
    /// Fails every so many calls, after it has written.
    pub fails_every: Option<usize>,
    /// Moves the offset itself in its second call, as another process would have done.
    pub moves_offset: bool,
    /// Fails while a record of this key is among them.
    pub refuses_key: Option<String>,
    /// How often it was called, how many malformed records it was given.
    pub calls: Arc<AtomicUsize>,
    pub malformed: Arc<AtomicUsize>,
}

impl Apply for Copy {
    async fn apply(&self, tx: &mut Tx, records: &[Record]) -> Result<(), BoxError> {
        let call = self.calls.fetch_add(1, Relaxed);
        for record in records {
            if record.is_malformed() {
                outbox::append(tx, &[letter(record)]).await?;
                self.malformed.fetch_add(1, Relaxed);
                continue;
            }
            let insert = query("insert into copy (key, version, payload) values ($1, $2, $3)");
            let insert = insert.bind(record.key.as_str()).bind(record.version).bind(record.payload.to_vec());
            insert.execute(&mut *tx).await?;
        }
        if self.moves_offset && call == 1 {
            query("update consumer_offset set next_offset = next_offset + 1").execute(&mut *tx).await?;
        }
        if self.refuses_key.as_ref().is_some_and(|key| records.iter().any(|record| record.key == *key)) {
            return Err("planted for this key".into());
        }
        match self.fails_every {
            Some(every) if call.is_multiple_of(every) => Err("planted".into()),
            _ => Ok(()),
        }
    }
}

/// What is told of a record that cannot be applied.
fn letter(record: &Record) -> Event {
    Event {
        event_id: Uuid::now_v7(),
        topic: "test.dead",
        key: record.key.clone(),
        version: 0,
        kind: "Letter",
        payload: record.payload.to_vec(),
        headers: record.headers.clone(),
    }
}

/// Appends events of some keys, with versions from a range each, in one transaction.
pub async fn append(db: &Db, topic: &'static str, keys: usize, versions: std::ops::Range<i64>) {
    let event = |key: usize, version: i64| Event {
        event_id: Uuid::now_v7(),
        topic,
        key: format!("key-{key}"),
        version,
        kind: "Tested",
        payload: version.to_be_bytes().to_vec(),
        headers: Headers { request_id: Some("r-1".to_owned()), traceparent: None },
    };
    let events: Vec<Event> =
        versions.flat_map(|version| (0..keys).map(move |key| event(key, version))).collect();
    let mut tx = db.begin().await.unwrap();
    outbox::append(&mut tx, &events).await.unwrap();
    tx.commit().await.unwrap();
}

/// What was copied: the versions of every key, in the order in which they were applied.
pub async fn copied(db: &Db) -> BTreeMap<String, Vec<i64>> {
    let mut copied: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for row in query("select key, version from copy order by id").all(db).await.unwrap() {
        copied.entry(row.get("key").unwrap()).or_default().push(row.get("version").unwrap());
    }
    copied
}

pub async fn count(db: &Db, table: &'static str) -> i64 {
    let sql = match table {
        "copy" => "select count(*) as n from copy",
        _ => "select count(*) as n from outbox",
    };
    query(sql).one(db).await.unwrap().get("n").unwrap()
}

/// Waits until so many events were copied.
pub async fn until_copied(db: &Db, wanted: usize) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(40);
    loop {
        let now = usize::try_from(count(db, "copy").await).unwrap();
        if now >= wanted {
            return;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "{now} of {wanted} events were applied in 40 seconds"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Every event of these keys and versions was applied once, in the order of its key.
pub async fn assert_each_once(db: &Db, keys: usize, versions: std::ops::Range<i64>) {
    let expected: BTreeMap<String, Vec<i64>> =
        (0..keys).map(|key| (format!("key-{key}"), versions.clone().collect())).collect();
    assert_eq!(copied(db).await, expected);
}
