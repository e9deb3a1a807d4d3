//! The consumer loop: a batch is applied and its offset moved in one transaction; an error repeats the batch, in order and
//! with backoff, for as long as it takes.

use std::{future::Future, time::Duration};

use db::{Db, Tx};
use tokio_util::sync::CancellationToken;

use crate::{
    Local, Log, Record, Stopped,
    offset::{self, Offset},
};

/// Any error of a handler: it repeats the batch.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Records applied in one transaction, at most.
const BATCH: i64 = 500;
const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// What a consumer does with records.
pub trait Apply: Send + Sync + 'static {
    /// Applies the records, oldest first, inside the transaction that moves the offset. It may run again with the same
    /// records after an error or a crash. What cannot be applied by any repetition goes to the dead letters inside.
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
    log: Local,
    db: Db,
    handler: A,
}

impl<A: Apply> Consumer<A> {
    /// A consumer of this name; its place in the log is kept under it.
    pub fn new(name: &'static str, topics: &'static [&'static str], log: &Log, db: &Db, handler: A) -> Self {
        let Log::Local(log) = log.clone();
        for topic in topics {
            log.register(name, topic, db);
        }
        Self { name, topics, log, db: db.clone(), handler }
    }

    /// Reads and applies until shut down.
    ///
    /// # Errors
    /// [`Stopped`] where the log is not the one that was read before: nothing is applied then.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Stopped> {
        let mut backoff = BACKOFF_MIN;
        while !shutdown.is_cancelled() {
            match self.session(&shutdown, &mut backoff).await {
                Ok(stopped) => return stopped,
                Err(error) => {
                    metrics::counter!("consumer_retries_total", "consumer" => self.name).increment(1);
                    tracing::error!(consumer = self.name, %error, retry_in_ms = backoff.as_millis(), "a batch failed");
                    shutdown.run_until_cancelled(tokio::time::sleep(backoff)).await;
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                }
            }
        }
        Ok(())
    }

    /// Reads and applies until shut down or until an error. After an error the offsets are read again: whether a commit
    /// that failed took place is known to the database alone.
    async fn session(
        &self,
        shutdown: &CancellationToken,
        backoff: &mut Duration,
    ) -> Result<Result<(), Stopped>, BoxError> {
        let mut wake = self.log.wake(self.topics);
        let mut offsets = match self.offsets().await? {
            Ok(offsets) => offsets,
            Err(stopped) => return Ok(Err(stopped)),
        };
        while !shutdown.is_cancelled() {
            wake.reset();
            if self.round(&mut offsets).await? == 0 {
                shutdown.run_until_cancelled(wake.woken()).await;
            } else {
                *backoff = BACKOFF_MIN;
            }
        }
        Ok(Ok(()))
    }

    /// Where to begin in each topic, after a look whether the log is the known one.
    async fn offsets(&self) -> Result<Result<Vec<Offset>, Stopped>, db::Error> {
        let mut offsets = Vec::new();
        for topic in self.topics {
            let offset = match offset::load(&self.db, self.name, topic, 0).await? {
                Some(offset) => offset,
                None => {
                    let (low, _) = self.log.bounds(topic).await?;
                    offset::begin(&self.db, self.name, topic, 0, low).await?
                }
            };
            if let Some(why) = self.log.mismatch(topic, offset).await? {
                metrics::gauge!("consumer_stopped", "consumer" => self.name).set(1.0);
                return Ok(Err(Stopped { consumer: self.name, topic, partition: 0, next: offset.next, why }));
            }
            offsets.push(offset);
        }
        Ok(Ok(offsets))
    }

    /// One batch of every topic; how many records were applied.
    async fn round(&self, offsets: &mut [Offset]) -> Result<usize, BoxError> {
        let mut applied = 0;
        for (topic, offset) in self.topics.iter().zip(offsets) {
            let records = self.log.read(topic, offset.next, BATCH).await?;
            let Some(last) = records.last() else { continue };
            let to = Offset { next: last.offset + 1, last_event_id: Some(last.event_id) };
            let mut tx = self.db.begin().await?;
            self.handler.apply(&mut tx, &records).await?;
            if !offset::advance(&mut tx, (self.name, topic, 0), *offset, to).await? {
                return Err("another process has moved our offset".into());
            }
            tx.commit().await?;
            *offset = to;
            applied += records.len();
            self.measure(topic, &records);
        }
        Ok(applied)
    }

    fn measure(&self, topic: &'static str, records: &[Record]) {
        let labels = [("consumer", self.name), ("topic", topic)];
        metrics::counter!("consumer_records_total", &labels).increment(records.len() as u64);
        for record in records {
            let request_id = record.headers.request_id.as_deref();
            tracing::debug!(consumer = self.name, topic, kind = record.kind, key = record.key, request_id, "applied");
        }
    }
}
