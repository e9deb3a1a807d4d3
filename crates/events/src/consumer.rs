//! Consumer: applies batches of records and moves its offsets in the same transaction. An error repeats
//! the batch, in order and with backoff, without a limit on attempts. If the log lost records or the
//! database was restored, the handler may make that good ([`recovery`]); otherwise, and if the log is not
//! the one that was read before, the consumer stops.

mod batch;
mod kafka;
mod local;
mod partition;
mod recovery;
mod start;

use std::{future::Future, time::Duration};

use db::{Db, Tx};
pub use recovery::{Loss, LossKind};
use resilience::Backoff;
use tokio_util::sync::CancellationToken;

use crate::{Log, Record, Stopped, offset, pace::age, spans::Applying};

/// Error of a handler. The batch is repeated.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Maximum number of records per transaction.
const BATCH_MAX: usize = 500;
const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Handler of a consumer.
pub trait Apply: Send + Sync + 'static {
    /// Returns the time that a record may wait for others, to be applied with them: a transaction costs the
    /// same for one record as for many. Zero, the default, for a record whose effect a user waits for.
    fn max_delay(&self, record: &Record) -> Duration {
        let _ = record;
        Duration::ZERO
    }

    /// Processes the records before the transaction starts, for effects outside the database that should
    /// not keep a transaction open. Runs again with the same records if it or the transaction fails.
    ///
    /// # Errors
    /// Any error repeats the batch after a delay.
    fn before(&self, records: &[Record]) -> impl Future<Output = Result<(), BoxError>> + Send {
        let _ = records;
        std::future::ready(Ok(()))
    }

    /// Applies the records in the transaction that moves the offsets. Records of a partition are in
    /// order. Runs again with the same records after an error or a crash. The handler itself writes
    /// records that no retry can apply to the dead letters.
    ///
    /// # Errors
    /// Any error rolls the transaction back and repeats the batch after a delay.
    fn apply(&self, tx: &mut Tx, records: &[Record]) -> impl Future<Output = Result<(), BoxError>> + Send;

    /// Makes losses good, in the transaction that moves the offsets over them. Returns false if it
    /// cannot: the consumer then stops. Called before records are read, and again after a crash.
    ///
    /// # Errors
    /// Any error rolls the transaction back and repeats the call after a delay.
    fn recover(&self, tx: &mut Tx, losses: &[Loss]) -> impl Future<Output = Result<bool, BoxError>> + Send {
        let _ = (tx, losses);
        std::future::ready(Ok(false))
    }
}

/// Consumer of topics. Its offsets are stored in the database that the handler writes to.
#[derive(Debug)]
pub struct Consumer<A> {
    name: &'static str,
    topics: &'static [&'static str],
    log: Log,
    db: Db,
    handler: A,
}

impl<A: Apply> Consumer<A> {
    /// Creates a consumer. Its offsets are stored under `name`. In Kafka, `name` is the consumer group:
    /// processes with the same name share the partitions.
    pub fn new(name: &'static str, topics: &'static [&'static str], log: &Log, db: &Db, handler: A) -> Self {
        if let Log::Local(log) = log {
            for topic in topics {
                log.register(name, topic, db);
            }
        }
        Self { name, topics, log: log.clone(), db: db.clone(), handler }
    }

    /// Reads and applies records until shutdown.
    ///
    /// # Errors
    /// [`Stopped`] if the log is not the one that was read before. Nothing is applied in that case.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Stopped> {
        metrics::gauge!("consumer_stopped", "consumer" => self.name).set(0.0);
        metrics::counter!("consumer_retries_total", "consumer" => self.name).increment(0);
        let mut backoff = new_backoff();
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
                    let delay = backoff.next_delay();
                    self.report_failure(&*error, delay);
                    shutdown.run_until_cancelled(tokio::time::sleep(delay)).await;
                }
            }
        }
        Ok(())
    }

    /// Applies records and moves the offsets past them in one transaction.
    async fn apply(&self, records: &[Record], moves: &[offset::Move]) -> Result<(), BoxError> {
        let Some(mut spans) = Applying::start(self.name, self.db.dialect().system(), records) else {
            return self.transact(records, moves).await;
        };
        let applied = self.transact(&spans.within(records), moves).await;
        if applied.is_err() {
            spans.fail();
        }
        applied
    }

    async fn transact(&self, records: &[Record], moves: &[offset::Move]) -> Result<(), BoxError> {
        self.handler.before(records).await?;
        let mut tx = self.db.begin().await?;
        self.handler.apply(&mut tx, records).await?;
        if !offset::advance(&mut tx, self.name, moves).await? {
            return Err("another process has moved the offset".into());
        }
        tx.commit().await?;
        self.report_applied(records);
        Ok(())
    }

    fn report_failure(&self, error: &(dyn std::error::Error + Send + Sync), retry_in: Duration) {
        metrics::counter!("consumer_retries_total", "consumer" => self.name).increment(1);
        tracing::error!(consumer = self.name, %error, retry_in_ms = retry_in.as_millis(), "batch failed");
    }

    fn report_applied(&self, records: &[Record]) {
        for record in records {
            let labels = [("consumer", self.name), ("topic", record.topic)];
            metrics::counter!("consumer_records_total", &labels).increment(1);
            record.log_applied(self.name);
        }
        if let Some(oldest_us) = oldest_us(records) {
            let age = age(oldest_us).as_secs_f64();
            metrics::gauge!("consumer_age_seconds", "consumer" => self.name).set(age);
        }
    }
}

/// Returns the time at which the oldest of the records was written, in microseconds since the Unix epoch.
fn oldest_us(records: &[Record]) -> Option<i64> {
    records.iter().map(|record| record.created_at_us).min()
}

/// Creates the backoff of a consumer.
const fn new_backoff() -> Backoff {
    Backoff::new(BACKOFF_MIN, BACKOFF_MAX)
}

/// Sets the metric of the number of records of a topic that a consumer has not applied.
#[expect(clippy::cast_precision_loss, reason = "a gauge holds a float")]
fn set_lag(consumer: &'static str, topic: &'static str, records: i64) {
    metrics::gauge!("consumer_lag_records", "consumer" => consumer, "topic" => topic).set(records as f64);
}
