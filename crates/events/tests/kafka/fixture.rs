//! Fixture of the Kafka tests: a cluster, databases of producers and consumers, and a handler that
//! copies records.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use db::{Db, Dialect, Tx, query};
use events::{
    Apply, BoxError, Consumer, Event, Headers, Kafka, Log, Loss, Record, Relay, Stopped, Topic, outbox,
};
use parking_lot::Mutex;
use rdkafka::{mocking::MockCluster, producer::DefaultProducerContext};
use testkit::{TestDb, databases};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub const PARTITIONS: i32 = 4;

/// Kafka cluster of a test.
pub enum Cluster {
    /// Mock in this process. Its broker can be stopped.
    Mock(MockCluster<'static, DefaultProducerContext>),
    /// URL of a real cluster, shared with other tests.
    Real(String),
}

/// Cluster with a topic, and the kind of database to use with it.
pub struct Fixture {
    pub cluster: Cluster,
    pub topic: &'static str,
    database: Dialect,
}

/// Returns the mock with SQLite and, if `TEST_KAFKA_URL` is set, the real cluster with Postgres or
/// SQLite.
pub async fn fixtures() -> Vec<Fixture> {
    // `RUST_LOG=debug cargo test` shows the log.
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
    let mut all = vec![Fixture::mock(leak(format!("test.{}", Uuid::now_v7().simple())), Dialect::Sqlite)];
    if let Ok(url) = std::env::var("TEST_KAFKA_URL") {
        let postgres = std::env::var("TEST_POSTGRES_URL").is_ok();
        let database = if postgres { Dialect::Postgres } else { Dialect::Sqlite };
        all.push(Fixture::real(url, database).await);
    }
    all
}

pub fn leak(name: String) -> &'static str {
    Box::leak(name.into_boxed_str())
}

impl Fixture {
    pub fn mock(topic: &'static str, database: Dialect) -> Self {
        let mock = MockCluster::new(1).unwrap();
        mock.create_topic(topic, PARTITIONS, 1).unwrap();
        Self { cluster: Cluster::Mock(mock), topic, database }
    }

    pub async fn real(url: String, database: Dialect) -> Self {
        let topic = leak(format!("test.{}", Uuid::now_v7().simple()));
        let fixture = Self { cluster: Cluster::Real(url), topic, database };
        fixture.create_topic().await;
        fixture
    }

    pub async fn create_topic(&self) {
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
            // The mock does not support static members, and each of its rebalances takes a session
            // timeout.
            Cluster::Mock(_) => Kafka::new(&url, None).unwrap().with_session_timeout(Duration::from_secs(3)),
            Cluster::Real(_) => Kafka::new(&url, Some(instance)).unwrap(),
        }
    }

    /// Creates a database with an outbox, offsets and the table `copy`.
    pub async fn database(&self) -> TestDb {
        let all = databases(&[&db::MIGRATIONS, &events::MIGRATIONS]).await;
        let test = all.into_iter().find(|test| test.db.dialect() == self.database).unwrap();
        let mut tx = test.db.begin().await.unwrap();
        let copy = match self.database {
            Dialect::Sqlite => {
                "create table copy (id integer primary key, key text, version bigint, payload blob)"
            }
            Dialect::Postgres => {
                "create table copy (
                    id bigint generated always as identity, key text, version bigint, payload bytea)"
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

    /// Starts a consumer of this fixture's topic.
    pub fn start_consumer(
        &self,
        name: &'static str,
        instance: &str,
        db: &Db,
        copy: CopyHandler,
    ) -> Running<Result<(), Stopped>> {
        let log = Log::Kafka(self.kafka(instance));
        let topics: &'static [&'static str] = Box::leak(Box::new([self.topic]));
        let consumer = Consumer::new(name, topics, &log, db, copy);
        Running::start(|shutdown| async move { consumer.run(shutdown).await })
    }
}

/// Running task of a relay or consumer.
pub struct Running<T> {
    shutdown: CancellationToken,
    task: JoinHandle<T>,
}

impl<T: Send + 'static> Running<T> {
    fn start<F: Future<Output = T> + Send + 'static>(run: impl FnOnce(CancellationToken) -> F) -> Self {
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(run(shutdown.clone()));
        Self { shutdown, task }
    }

    /// Shuts the task down and waits for its result.
    pub async fn stop(self) -> T {
        self.shutdown.cancel();
        self.task.await.unwrap()
    }

    /// Waits for at most 20 seconds until the task ends by itself.
    pub async fn end(self) -> T {
        tokio::time::timeout(Duration::from_secs(20), self.task)
            .await
            .expect("the task ends by itself")
            .unwrap()
    }

    /// Aborts the task, as if its process were killed.
    pub async fn kill(self) {
        self.task.abort();
        drop(self.task.await);
    }
}

/// Handler that copies records into the table `copy`, with injected failures.
#[derive(Clone, Default)]
pub struct CopyHandler {
    /// Fails every n-th call, after writing.
    pub fails_every: Option<usize>,
    /// Moves the stored offset in the second call, as another process would.
    pub moves_offset: bool,
    /// Fails every batch that contains a record with this key.
    pub fails_for_key: Option<String>,
    /// Number of calls.
    pub calls: Arc<AtomicUsize>,
    /// Number of malformed records received.
    pub malformed: Arc<AtomicUsize>,
    /// Makes every loss good, and collects them.
    pub losses: Option<Arc<Mutex<Vec<Loss>>>>,
}

impl Apply for CopyHandler {
    async fn apply(&self, tx: &mut Tx, records: &[Record]) -> Result<(), BoxError> {
        let call = self.calls.fetch_add(1, Relaxed);
        for record in records {
            if record.is_malformed() {
                outbox::append(tx, &[dead_letter(record)]).await?;
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
        if self.fails_for_key.as_ref().is_some_and(|key| records.iter().any(|record| record.key == *key)) {
            return Err("injected failure for this key".into());
        }
        match self.fails_every {
            Some(every) if call.is_multiple_of(every) => Err("injected failure".into()),
            _ => Ok(()),
        }
    }

    async fn recover(&self, _: &mut Tx, losses: &[Loss]) -> Result<bool, BoxError> {
        let Some(made_good) = &self.losses else { return Ok(false) };
        made_good.lock().extend(losses);
        Ok(true)
    }
}

/// Creates a dead letter.
fn dead_letter(record: &Record) -> Event {
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

/// Appends events in one transaction: one per key and version.
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

/// Returns the copied versions of each key, in the order in which they were applied.
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

/// Waits until this number of events was copied.
pub async fn wait_until_copied(db: &Db, wanted: usize) {
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

/// Asserts that each event of these keys and versions was applied once and in order.
pub async fn assert_each_once(db: &Db, keys: usize, versions: std::ops::Range<i64>) {
    let expected: BTreeMap<String, Vec<i64>> =
        (0..keys).map(|key| (format!("key-{key}"), versions.clone().collect())).collect();
    assert_eq!(copied(db).await, expected);
}
