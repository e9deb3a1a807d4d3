//! Relay: publishes the events of an outbox to Kafka in the order of their ids and deletes those that
//! the broker has acknowledged. It keeps no cursor, because in Postgres ids become visible out of order
//! and a cursor would skip events.
//!
//! A [`Lease`] selects one process per database. A process that has lost the lease without noticing can
//! only publish events twice.

use std::time::Duration;

use db::{Db, failpoint};
use futures_util::future::join_all;
use rdkafka::{
    error::KafkaError,
    producer::{FutureProducer, Producer, PurgeConfig, future_producer::DeliveryFuture},
};
use resilience::Backoff;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    BoxError, Kafka,
    kafka::{client::Context, wire},
    lease::Lease,
    outbox::{self, PendingEvent},
    pace::Pace,
    spans,
};

const LEASE: &str = "relay";
/// Term of the lease: after a crash, the time until another relay may continue.
const LEASE_TERM: Duration = Duration::from_secs(5);
/// Maximum number of unacknowledged events. Less than the capacity of the producer's queue (10,000).
const BATCH_MAX: i64 = 1_000;
/// Interval at which an empty outbox is polled, in addition to being woken by commits of this process.
const POLL_MIN: Duration = Duration::from_millis(20);
const POLL_MAX: Duration = Duration::from_secs(1);
/// Delays between terms after a failure.
const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// Time that a shutdown waits for outstanding acknowledgements.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);
const MEASURE_INTERVAL: Duration = Duration::from_secs(5);

/// Publisher of one database's outbox to Kafka.
#[derive(Debug)]
pub struct Relay {
    name: &'static str,
    db: Db,
    kafka: Kafka,
    owner: Uuid,
}

/// End of a term other than by shutdown.
#[derive(Debug, thiserror::Error)]
enum TermError {
    #[error("the lease was lost")]
    LeaseLost,
    #[error(transparent)]
    Database(#[from] db::Error),
    #[error("Kafka did not accept an event: {0}")]
    Delivery(#[from] KafkaError),
}

impl Relay {
    /// Creates a relay for the outbox of a database. `name` is the service's name in metrics and log
    /// lines.
    pub fn new(name: &'static str, db: &Db, kafka: &Kafka) -> Self {
        Self { name, db: db.clone(), kafka: kafka.clone(), owner: Uuid::now_v7() }
    }

    /// Publishes events until shutdown. Waits while another process holds the lease.
    pub async fn run(self, shutdown: CancellationToken) {
        metrics::counter!("outbox_relay_failures_total", "outbox" => self.name).increment(0);
        let mut backoff = Backoff::new(BACKOFF_MIN, BACKOFF_MAX);
        while !shutdown.is_cancelled() {
            let delay = match Lease::acquire(&self.db, LEASE, self.owner, LEASE_TERM).await {
                Ok(Some(lease)) => match self.run_term(lease, &shutdown, &mut backoff).await {
                    Ok(()) => return,
                    Err(error) => self.report_failure(&*error, &mut backoff),
                },
                Ok(None) => POLL_MAX,
                Err(error) => self.report_failure(&error, &mut backoff),
            };
            shutdown.run_until_cancelled(tokio::time::sleep(delay)).await;
        }
    }

    /// Counts and logs a failure. Returns the delay before the next term.
    fn report_failure(
        &self,
        error: &(dyn std::error::Error + Send + Sync),
        backoff: &mut Backoff,
    ) -> Duration {
        let delay = backoff.next_delay();
        metrics::counter!("outbox_relay_failures_total", "outbox" => self.name).increment(1);
        tracing::error!(outbox = self.name, %error, retry_in_ms = delay.as_millis(), "the relay failed");
        delay
    }

    /// Publishes events while the lease is held. Any failure ends the term: events in the producer's
    /// queue are discarded, and the next term starts with a new producer at the lowest id in the outbox.
    async fn run_term(
        &self,
        mut lease: Lease,
        shutdown: &CancellationToken,
        backoff: &mut Backoff,
    ) -> Result<(), BoxError> {
        tracing::info!(outbox = self.name, epoch = lease.epoch(), "the relay acquired the lease");
        let producer = self.kafka.producer(self.name)?;
        let result = tokio::select! {
            result = self.publish_pending(&producer, &mut lease, shutdown, backoff) => result,
            () = self.measure() => Ok(()),
        };
        producer.purge(PurgeConfig::default().queue().inflight());
        producer.close().await;
        if !matches!(result, Err(TermError::LeaseLost)) {
            // An error is ignored: the next relay then waits until the lease expires.
            drop(lease.release(&self.db).await);
        }
        Ok(result?)
    }

    /// Publishes batch after batch: at the pace of [`Pace`] while there are events, else after a commit of
    /// events in this process or a growing delay.
    async fn publish_pending(
        &self,
        producer: &FutureProducer<Context>,
        lease: &mut Lease,
        shutdown: &CancellationToken,
        backoff: &mut Backoff,
    ) -> Result<(), TermError> {
        let mut commits = self.db.announcements(outbox::CHANNEL);
        let mut pace = Pace::default();
        let mut poll = Backoff::new(POLL_MIN, POLL_MAX);
        let mut published = Vec::new();
        while !shutdown.is_cancelled() || !published.is_empty() {
            shutdown.run_until_cancelled(pace.wait()).await;
            commits.mark_unchanged();
            let pending = outbox::replace(&self.db, &published, BATCH_MAX).await?;
            if !published.is_empty() {
                failpoint::pass("deleted");
            }
            published.clear();
            if shutdown.is_cancelled() {
                break;
            }
            if lease.renewal_due_in().is_zero() && !lease.renew(&self.db).await? {
                return Err(TermError::LeaseLost);
            }
            if pending.is_empty() {
                let delay = poll.next_delay();
                tokio::select! {
                    _ = commits.changed() => {}
                    () = tokio::time::sleep(delay) => {}
                    () = shutdown.cancelled() => {}
                }
                continue;
            }
            pace.start(pending.first().map(|oldest| oldest.created_at_us));
            failpoint::pass("publish");
            published = self.publish(producer, lease, &pending, shutdown).await?;
            failpoint::pass("acknowledged");
            poll.reset();
            backoff.reset();
        }
        Ok(())
    }

    /// Sends events in order and waits for the acknowledgements. Returns the ids of the events that the
    /// broker has acknowledged; if it has not accepted all of them, deletes these and fails.
    async fn publish(
        &self,
        producer: &FutureProducer<Context>,
        lease: &mut Lease,
        pending: &[PendingEvent],
        shutdown: &CancellationToken,
    ) -> Result<Vec<i64>, TermError> {
        if !lease.is_held() {
            return Err(TermError::LeaseLost);
        }
        let mut deliveries = Vec::with_capacity(pending.len());
        let mut spans = Vec::new();
        let mut failure = None;
        for event in pending {
            let span = spans::send(event);
            let sent = producer.send_result(wire::encode(event, span.as_ref()));
            spans.extend(span);
            match sent {
                Ok(delivery) => deliveries.push(acknowledged_id(event.id, delivery)),
                Err((error, _)) => {
                    // The following events must not overtake this one.
                    failure = Some(error);
                    break;
                }
            }
        }
        let outcomes = tokio::select! {
            outcomes = join_all(deliveries) => outcomes,
            () = lease.hold(&self.db) => return Err(TermError::LeaseLost),
            () = shutdown_timeout(shutdown) => return Ok(Vec::new()),
        };
        let mut acknowledged = Vec::with_capacity(outcomes.len());
        for outcome in outcomes {
            match outcome {
                Ok(id) => acknowledged.push(id),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        metrics::counter!("outbox_batches_total", "outbox" => self.name).increment(1);
        metrics::counter!("outbox_relayed_total", "outbox" => self.name).increment(acknowledged.len() as u64);
        match failure {
            None => Ok(acknowledged),
            Some(error) => {
                spans.iter_mut().for_each(|span| span.fail("the broker has not accepted all events"));
                outbox::replace(&self.db, &acknowledged, 0).await?;
                Err(TermError::Delivery(error))
            }
        }
    }

    /// Sets the metrics of the backlog at regular intervals. Does not return.
    #[expect(clippy::cast_precision_loss, reason = "a gauge holds a float")]
    async fn measure(&self) {
        loop {
            match outbox::backlog(&self.db).await {
                Ok(backlog) => {
                    metrics::gauge!("outbox_pending", "outbox" => self.name).set(backlog.events as f64);
                    metrics::gauge!("outbox_age_seconds", "outbox" => self.name)
                        .set(backlog.age_us as f64 / 1e6);
                }
                Err(error) => tracing::warn!(outbox = self.name, %error, "measuring the outbox failed"),
            }
            tokio::time::sleep(MEASURE_INTERVAL).await;
        }
    }
}

/// Waits until some time after shutdown. Events acknowledged within that time need not be published
/// again.
async fn shutdown_timeout(shutdown: &CancellationToken) {
    shutdown.cancelled().await;
    tokio::time::sleep(SHUTDOWN_TIMEOUT).await;
}

/// Waits for the acknowledgement of an event and returns the event's id.
async fn acknowledged_id(id: i64, delivery: DeliveryFuture) -> Result<i64, KafkaError> {
    match delivery.await {
        Ok(Ok(_)) => Ok(id),
        Ok(Err((error, _))) => Err(error),
        Err(_) => Err(KafkaError::Canceled),
    }
}
