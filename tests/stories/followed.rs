//! The log as it was written, followed from its beginning by a reader of the tests' own.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use events::{Kafka, Log, Record};
use proto::topic;
use tokio::task::JoinHandle;

/// Every record of dialog's topic and of the dead letters, in the order of their partitions.
pub struct Followed {
    records: Arc<Mutex<Vec<Record>>>,
    reader: JoinHandle<()>,
}

impl Followed {
    /// Follows the log of a broker on which nothing was written yet.
    pub async fn from_now(kafka_url: &str) -> Self {
        let log = Log::Kafka(Kafka::new(kafka_url, None).unwrap());
        let mut tail = log.tail(&[topic::DIALOG, topic::DEAD]).await.unwrap();
        let records = Arc::<Mutex<Vec<Record>>>::default();
        let all = Arc::clone(&records);
        let reader = tokio::spawn(async move {
            loop {
                // An error is the broker being away; the reader goes on where it was.
                if let Ok(next) = tail.next().await {
                    all.lock().unwrap().extend(next.records);
                }
            }
        });
        Self { records, reader }
    }

    /// Everything that dialog has told so far.
    pub fn told(&self) -> Vec<Record> {
        self.of(topic::DIALOG)
    }

    /// The dead letters so far.
    pub fn dead(&self) -> Vec<Record> {
        self.of(topic::DEAD)
    }

    fn of(&self, topic: &str) -> Vec<Record> {
        self.records.lock().unwrap().iter().filter(|record| record.topic == topic).cloned().collect()
    }

    /// I13: the first occurrences of every dialog's versions have no gap and no inversion. The newest version of each
    /// dialog, and how many records were repetitions.
    pub fn versions(&self) -> (BTreeMap<String, i64>, usize) {
        let mut newest: BTreeMap<String, i64> = BTreeMap::new();
        let (mut seen, mut repeated) = (BTreeSet::new(), 0);
        for record in self.told() {
            if !seen.insert(record.event_id) {
                repeated += 1;
                continue;
            }
            let newest = newest.entry(record.key.clone()).or_default();
            assert_eq!(record.version, *newest + 1, "of dialog {}: lost or swapped", record.key);
            *newest = record.version;
        }
        (newest, repeated)
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.reader.abort();
    }
}
