//! The relay: carries the events of a Postgres outbox to Kafka, in the order of their ids, and removes exactly those that the
//! broker has acknowledged. A reader by cursor would lose events there, because ids appear out of order; rows that go when
//! they are acknowledged cannot be skipped.
//!
//! One process per database does this, by a [`Lease`]. One that has lost it and does not know yet repeats events at worst.

use std::time::Duration;

use db::Db;
use futures_util::future::join_all;
use rdkafka::{
    error::KafkaError,
    producer::{FutureProducer, Producer, PurgeConfig, future_producer::DeliveryFuture},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    BoxError, Kafka,
    kafka::{client::Context, wire},
    lease::Lease,
    outbox::{self, Pending},
};

const LEASE: &str = "relay";
/// How long a relay that has died keeps others from going on.
const TERM: Duration = Duration::from_secs(5);
/// Events under way at once; less than the producer's queue holds.
const BATCH: i64 = 1_000;
/// How often the outbox is looked at when nothing in this process wakes us.
const POLL_MIN: Duration = Duration::from_millis(20);
const POLL_MAX: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// How long a shutdown waits for the broker's answers.
const LAST_ANSWERS: Duration = Duration::from_secs(2);
const MEASURE_EVERY: Duration = Duration::from_secs(5);

/// Carries one database's outbox to Kafka.
#[derive(Debug)]
pub struct Relay {
    name: &'static str,
    db: Db,
    kafka: Kafka,
    owner: Uuid,
}

/// Why a term ended, where it was not shut down.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the lease is lost")]
    Lost,
    #[error(transparent)]
    Database(#[from] db::Error),
    #[error("Kafka did not take an event: {0}")]
    Refused(#[from] KafkaError),
}

impl Relay {
    /// A relay for this database's outbox; the name is that of the service, for metrics and log lines.
    pub fn new(name: &'static str, db: &Db, kafka: &Kafka) -> Self {
        Self { name, db: db.clone(), kafka: kafka.clone(), owner: Uuid::now_v7() }
    }

    /// Carries events until shut down. While another process has the lease, it waits for it.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut backoff = POLL_MIN;
        while !shutdown.is_cancelled() {
            let wait = match Lease::take(&self.db, LEASE, self.owner, TERM).await {
                Ok(Some(lease)) => match self.term(lease, &shutdown, &mut backoff).await {
                    Ok(()) => return,
                    Err(error) => self.failed(&*error, &mut backoff),
                },
                Ok(None) => POLL_MAX,
                Err(error) => self.failed(&error, &mut backoff),
            };
            shutdown.run_until_cancelled(tokio::time::sleep(wait)).await;
        }
    }

    /// Counts and logs a failure; how long to wait after it.
    fn failed(&self, error: &(dyn std::error::Error + Send + Sync), backoff: &mut Duration) -> Duration {
        let wait = *backoff;
        *backoff = (wait * 2).min(BACKOFF_MAX);
        metrics::counter!("outbox_relay_failures_total", "outbox" => self.name).increment(1);
        tracing::error!(outbox = self.name, %error, retry_in_ms = wait.as_millis(), "the relay begins anew");
        wait
    }

    /// Carries events for as long as the lease is ours. Whatever goes wrong ends it: what the producer still holds is thrown
    /// away, and the next term begins with a new producer at the lowest row that is there.
    async fn term(
        &self,
        mut lease: Lease,
        shutdown: &CancellationToken,
        backoff: &mut Duration,
    ) -> Result<(), BoxError> {
        tracing::info!(outbox = self.name, epoch = lease.epoch(), "the relay has the lease");
        let producer = self.kafka.producer(self.name)?;
        let end = tokio::select! {
            end = self.rounds(&producer, &mut lease, shutdown, backoff) => end,
            () = self.measure() => Ok(()),
        };
        producer.purge(PurgeConfig::default().queue().inflight());
        producer.close().await;
        if !matches!(end, Err(End::Lost)) {
            // Of use to the next one only: without it, that one waits for the term to pass.
            drop(lease.release(&self.db).await);
        }
        Ok(end?)
    }

    /// Round after round: at once while there are events, else after a commit in this process or a pause that grows.
    async fn rounds(
        &self,
        producer: &FutureProducer<Context>,
        lease: &mut Lease,
        shutdown: &CancellationToken,
        backoff: &mut Duration,
    ) -> Result<(), End> {
        let mut commits = self.db.commits();
        let mut pause = POLL_MIN;
        while !shutdown.is_cancelled() {
            commits.mark_unchanged();
            if lease.due_in().is_zero() && !lease.renew(&self.db).await? {
                return Err(End::Lost);
            }
            let pending = outbox::pending(&self.db, BATCH).await?;
            if pending.is_empty() {
                tokio::select! {
                    _ = commits.changed() => {}
                    () = tokio::time::sleep(pause) => {}
                    () = shutdown.cancelled() => {}
                }
                pause = (pause * 2).min(POLL_MAX);
                continue;
            }
            self.carry(producer, lease, &pending, shutdown).await?;
            pause = POLL_MIN;
            *backoff = POLL_MIN;
        }
        Ok(())
    }

    /// Sends events in their order, waits for the broker's answer to each, and removes those that it has.
    async fn carry(
        &self,
        producer: &FutureProducer<Context>,
        lease: &mut Lease,
        pending: &[Pending],
        shutdown: &CancellationToken,
    ) -> Result<(), End> {
        if !lease.is_held() {
            return Err(End::Lost);
        }
        let (mut reports, mut refused) = (Vec::with_capacity(pending.len()), None);
        for event in pending {
            match producer.send_result(wire::produced(event)) {
                Ok(report) => reports.push(delivered(event.id, report)),
                Err((error, _)) => {
                    // The next ones must not overtake it.
                    refused = Some(error);
                    break;
                }
            }
        }
        let outcomes = tokio::select! {
            outcomes = join_all(reports) => outcomes,
            () = lease.hold(&self.db) => return Err(End::Lost),
            () = late(shutdown) => return Ok(()),
        };
        let mut acknowledged = Vec::with_capacity(outcomes.len());
        for outcome in outcomes {
            match outcome {
                Ok(id) => acknowledged.push(id),
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        outbox::remove(&self.db, &acknowledged).await?;
        metrics::counter!("outbox_relayed_total", "outbox" => self.name).increment(acknowledged.len() as u64);
        refused.map_or(Ok(()), |error| Err(End::Refused(error)))
    }

    /// Says from time to time how much waits and for how long, without end.
    #[expect(clippy::cast_precision_loss, reason = "a gauge holds a float")]
    async fn measure(&self) {
        loop {
            match outbox::backlog(&self.db).await {
                Ok((pending, age_us)) => {
                    metrics::gauge!("outbox_pending", "outbox" => self.name).set(pending as f64);
                    metrics::gauge!("outbox_age_seconds", "outbox" => self.name).set(age_us as f64 / 1e6);
                }
                Err(error) => tracing::warn!(outbox = self.name, %error, "the outbox was not measured"),
            }
            tokio::time::sleep(MEASURE_EVERY).await;
        }
    }
}

/// Some time after the shutdown: answers that come until then spare a repetition.
async fn late(shutdown: &CancellationToken) {
    shutdown.cancelled().await;
    tokio::time::sleep(LAST_ANSWERS).await;
}

/// The id of an event that the broker has.
async fn delivered(id: i64, report: DeliveryFuture) -> Result<i64, KafkaError> {
    match report.await {
        Ok(Ok(_)) => Ok(id),
        Ok(Err((error, _))) => Err(error),
        Err(_) => Err(KafkaError::Canceled),
    }
}
