//! A consumer: a batch is applied and its offsets moved in one transaction; an error repeats the batch, in order and with
//! backoff, for as long as it takes. Where the log is not the one that was read before, the consumer stops.

mod batch;
mod kafka;
mod local;
mod partition;
mod start;

use std::{
    future::Future,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use db::{Db, Tx};
use tokio_util::sync::CancellationToken;

use crate::{
    Log, Record, Stopped,
    offset::{self, Offset},
};

/// Any error of a handler: it repeats the batch.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Records applied in one transaction, at most.
const BATCH: usize = 500;
const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// What a consumer does with records.
pub trait Apply: Send + Sync + 'static {
    /// What is done with the records before the transaction begins, and again where that or the transaction fails: an
    /// effect outside of the database, for which no transaction is kept open.
    ///
    /// # Errors
    /// Any error repeats the batch later.
    fn before(&self, records: &[Record]) -> impl Future<Output = Result<(), BoxError>> + Send {
        let _ = records;
        std::future::ready(Ok(()))
    }

    /// Applies the records, oldest first within a partition, inside the transaction that moves the offsets. It may run again
    /// with the same records after an error or a crash. What cannot be applied by any repetition goes to the dead letters
    /// inside.
    ///
    /// # Errors
    /// Any error rolls back and repeats the batch later.
    fn apply(&self, tx: &mut Tx, records: &[Record]) -> impl Future<Output = Result<(), BoxError>> + Send;
}

/// A durable reader of topics: its offsets are in the database that its effects go to.
#[derive(Debug)]
pub struct Consumer<A> {
    name: &'static str,
    topics: &'static [&'static str],
    log: Log,
    db: Db,
    handler: A,
}

/// An offset that moves in the transaction of the effect.
#[derive(Debug, Clone, Copy)]
struct Move {
    topic: &'static str,
    partition: i64,
    from: Offset,
    to: Offset,
}

impl<A: Apply> Consumer<A> {
    /// A consumer of this name; its place in the log is kept under it. In Kafka it is the group's name: all processes that
    /// consume under one name share the partitions.
    pub fn new(name: &'static str, topics: &'static [&'static str], log: &Log, db: &Db, handler: A) -> Self {
        if let Log::Local(log) = log {
            for topic in topics {
                log.register(name, topic, db);
            }
        }
        Self { name, topics, log: log.clone(), db: db.clone(), handler }
    }

    /// Reads and applies until shut down.
    ///
    /// # Errors
    /// [`Stopped`] where the log is not the one that was read before: nothing is applied then.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Stopped> {
        metrics::gauge!("consumer_stopped", "consumer" => self.name).set(0.0);
        let mut backoff = BACKOFF_MIN;
        while !shutdown.is_cancelled() {
            let session = match &self.log {
                Log::Local(log) => local::session(&self, log, &shutdown, &mut backoff).await,
                Log::Kafka(log) => kafka::session(&self, log, &shutdown, &mut backoff).await,
            };
            match session {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(stopped)) => {
                    metrics::gauge!("consumer_stopped", "consumer" => self.name).set(1.0);
                    return Err(stopped);
                }
                Err(error) => {
                    self.failed(&*error, backoff);
                    shutdown.run_until_cancelled(tokio::time::sleep(backoff)).await;
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                }
            }
        }
        Ok(())
    }

    /// Applies records and moves the offsets that lead past them, both or neither.
    async fn apply(&self, records: &[Record], moves: &[Move]) -> Result<(), BoxError> {
        self.handler.before(records).await?;
        let mut tx = self.db.begin().await?;
        self.handler.apply(&mut tx, records).await?;
        for Move { topic, partition, from, to } in moves {
            if !offset::advance(&mut tx, (self.name, topic, *partition), *from, *to).await? {
                return Err("another process has moved our offset".into());
            }
        }
        tx.commit().await?;
        self.measure(records);
        Ok(())
    }

    fn failed(&self, error: &(dyn std::error::Error + Send + Sync), retry_in: Duration) {
        metrics::counter!("consumer_retries_total", "consumer" => self.name).increment(1);
        tracing::error!(consumer = self.name, %error, retry_in_ms = retry_in.as_millis(), "a batch failed");
    }

    fn measure(&self, records: &[Record]) {
        for record in records {
            let labels = [("consumer", self.name), ("topic", record.topic)];
            metrics::counter!("consumer_records_total", &labels).increment(1);
            let request_id = record.headers.request_id.as_deref();
            let (topic, kind, key) = (record.topic, &record.kind, &record.key);
            tracing::debug!(consumer = self.name, topic, kind, key, request_id, "applied");
        }
        let now_us = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        let oldest_us = records.iter().map(|record| record.created_at_us).min();
        if let (Ok(now_us), Some(oldest_us)) = (i64::try_from(now_us), oldest_us) {
            let age = Duration::from_micros(u64::try_from(now_us - oldest_us).unwrap_or(0));
            metrics::gauge!("consumer_age_seconds", "consumer" => self.name).set(age.as_secs_f64());
        }
    }
}

/// Says how many records of a topic a consumer has not applied yet.
#[expect(clippy::cast_precision_loss, reason = "a gauge holds a float")]
fn lag(consumer: &'static str, topic: &'static str, records: i64) {
    metrics::gauge!("consumer_lag_records", "consumer" => consumer, "topic" => topic).set(records as f64);
}
