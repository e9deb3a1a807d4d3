//! Records everything that is written to the event log during a test, with a consumer independent of the
//! services'.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use events::{Kafka, Log, Record};
use parking_lot::Mutex;
use proto::topic;
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

/// Every record of dialog's topic and of the dead letters, in partition order.
pub struct LogRecorder {
    records: Arc<Mutex<Vec<Record>>>,
    reader: JoinHandle<()>,
}

/// Versions found in dialog's topic.
pub struct Versions {
    /// Newest version by dialog id.
    pub newest: BTreeMap<String, i64>,
    /// Number of records that repeat an earlier one.
    pub repeated: usize,
}

impl LogRecorder {
    /// Starts recording on a broker with an empty log.
    pub async fn start(kafka_url: &str) -> Self {
        Self::start_on(kafka_url, &[topic::DIALOG, topic::DEAD]).await
    }

    /// Starts recording these topics only.
    pub async fn start_on(kafka_url: &str, topics: &[&'static str]) -> Self {
        let log = Log::Kafka(Kafka::new(kafka_url, None).unwrap());
        // A new topic has no leader yet.
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut tail = loop {
            match log.tail(topics).await {
                Ok(tail) => break tail,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            sleep(Duration::from_millis(200)).await;
        };
        let records = Arc::<Mutex<Vec<Record>>>::default();
        let all = Arc::clone(&records);
        let reader = tokio::spawn(async move {
            loop {
                // Errors while the broker is unavailable are expected: the tail keeps its position.
                if let Ok(next) = tail.next().await {
                    all.lock().extend(next.records);
                }
            }
        });
        Self { records, reader }
    }

    /// Returns the records of dialog's topic so far.
    pub fn dialog_records(&self) -> Vec<Record> {
        self.records_of(topic::DIALOG)
    }

    /// Returns the dead letters so far.
    pub fn dead_letters(&self) -> Vec<Record> {
        self.records_of(topic::DEAD)
    }

    fn records_of(&self, topic: &str) -> Vec<Record> {
        self.records.lock().iter().filter(|record| record.topic == topic).cloned().collect()
    }

    /// Asserts that the first occurrences of each dialog's versions have no gap and no inversion.
    /// Repetitions are allowed: the relay delivers at least once.
    pub fn versions(&self) -> Versions {
        let mut newest: BTreeMap<String, i64> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        let mut repeated = 0;
        for record in self.dialog_records() {
            if !seen.insert(record.event_id) {
                repeated += 1;
                continue;
            }
            let newest = newest.entry(record.key.clone()).or_default();
            assert_eq!(record.version, *newest + 1, "dialog {}: lost or out of order", record.key);
            *newest = record.version;
        }
        Versions { newest, repeated }
    }
}

impl Drop for LogRecorder {
    fn drop(&mut self) {
        self.reader.abort();
    }
}
