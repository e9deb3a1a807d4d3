//! Sweeper: settles messages that stayed PENDING longer than the saga deadline by asking the counter
//! directly. A counted message is committed and a refused one failed. While the counter is unavailable,
//! messages stay PENDING.

use std::time::Duration;

use access::ServiceToken;
use db::Db;
use events::Headers;
use proto::{
    Peer,
    counter::{SettleRequest, counters_client::CountersClient},
};
use telemetry::Call;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    Error,
    message::Message,
    saga::{Outcome, Reply, settle},
    send::message_sent,
    store::saga::{Pending, SweepCursor, overdue, pending},
};

/// Messages per `Settle` call and per transaction. Bounds the time for which dialogs stay locked.
const BATCH: usize = 100;
/// Timeout of a `Settle` call.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(10);
/// Limits of the interval between sweeps, which is a quarter of the deadline. The upper one keeps the
/// promise that a message is PENDING at most a minute longer than the deadline.
const INTERVAL_MIN: Duration = Duration::from_secs(1);
const INTERVAL_MAX: Duration = Duration::from_secs(30);
/// Interval of the metrics.
const MEASURE_INTERVAL: Duration = Duration::from_secs(5);

/// Sweeps at regular intervals until shutdown. A failed sweep is logged, and the next one tries again.
pub(crate) async fn run(
    db: &Db,
    counter: Peer,
    token: &ServiceToken,
    deadline: Duration,
    shutdown: CancellationToken,
) {
    let interval = (deadline / 4).clamp(INTERVAL_MIN, INTERVAL_MAX);
    while shutdown.run_until_cancelled(tokio::time::sleep(interval)).await.is_some() {
        let swept = sweep(db, &counter, token, deadline);
        match shutdown.run_until_cancelled(swept).await {
            Some(Err(error)) => tracing::warn!(%error, "overdue messages stay pending until the next sweep"),
            Some(Ok(settled)) if settled > 0 => tracing::info!(settled, "overdue messages settled"),
            Some(Ok(_)) | None => {}
        }
    }
}

/// Sets the metrics of the pending messages at regular intervals until shutdown.
#[expect(clippy::cast_precision_loss, reason = "a gauge holds a float")]
pub(crate) async fn measure(db: &Db, shutdown: CancellationToken) {
    while shutdown.run_until_cancelled(tokio::time::sleep(MEASURE_INTERVAL)).await.is_some() {
        match pending(db).await {
            Ok(Pending { messages, age_us }) => {
                metrics::gauge!("sagas_pending").set(messages as f64);
                metrics::gauge!("sagas_pending_age_seconds").set(age_us as f64 / 1e6);
            }
            Err(error) => tracing::debug!(%error, "the pending messages cannot be counted"),
        }
    }
}

/// Settles every message that is PENDING longer than `deadline`, oldest first, and returns the number
/// settled.
///
/// # Errors
/// [`Error::Counter`], [`Error::Outcomes`] and [`Error::Database`]. Batches before the error are
/// settled; the rest stays PENDING.
#[tracing::instrument(name = "dialog.saga.sweep", skip_all, fields(request_id))]
pub(crate) async fn sweep(
    db: &Db,
    counter: &Peer,
    token: &ServiceToken,
    deadline: Duration,
) -> Result<usize, Error> {
    let age_us = i64::try_from(deadline.as_micros()).unwrap_or(i64::MAX);
    let call = Call::new().with_authorization(&token.header());
    tracing::Span::current().record("request_id", tracing::field::display(&call.request_id));
    // The cursor advances past messages without an outcome: one that cannot be settled must not block
    // newer ones.
    let mut cursor = SweepCursor::START;
    let mut settled = 0;
    loop {
        let messages = overdue(db, age_us, cursor, BATCH as i64).await?;
        let Some(last) = messages.last() else { return Ok(settled) };
        cursor = SweepCursor::after(last);
        metrics::counter!("sagas_asked_total").increment(messages.len() as u64);
        let replies = request_outcomes(counter, &call, &messages).await?;
        settled += replies.len();
        apply(db, replies).await?;
    }
}

/// Calls `Settle` and returns the outcomes as replies. A message without an outcome has no reply.
async fn request_outcomes(counter: &Peer, call: &Call, messages: &[Message]) -> Result<Vec<Reply>, Error> {
    let cause = Headers::from(call);
    let call = call.clone().with_deadline(Instant::now() + SETTLE_TIMEOUT);
    let mut counters = CountersClient::with_interceptor(counter.clone(), call)
        .max_decoding_message_size(proto::RESPONSE_MAX_BYTES)
        .max_encoding_message_size(proto::REQUEST_MAX_BYTES);
    // A deleted message has the version of its deletion here. The counter ignores the version in
    // `Settle`.
    let request = SettleRequest { messages: messages.iter().map(message_sent).collect() };
    let outcomes = counters.settle(request).await.map_err(Error::Counter)?.into_inner().outcomes;
    if outcomes.len() != messages.len() {
        return Err(Error::Outcomes { asked: messages.len(), outcomes: outcomes.len() });
    }
    let replies = messages.iter().zip(outcomes).filter_map(|(message, outcome)| {
        let outcome = match outcome.refused {
            Some(reason) => Outcome::Refused(reason),
            None if outcome.counted => Outcome::Counted,
            None => return None,
        };
        let Message { dialog_id, seq, id: message_id, .. } = *message;
        Some(Reply { dialog_id, seq, message_id, outcome, cause: cause.clone() })
    });
    Ok(replies.collect())
}

async fn apply(db: &Db, replies: Vec<Reply>) -> Result<(), Error> {
    let writer = db.clone();
    let write = async move {
        let mut tx = writer.begin().await?;
        let results = settle(&mut tx, &replies).await?;
        tx.commit().await?;
        for (reply, result) in replies.iter().zip(results) {
            if let Err(error) = result {
                tracing::error!(message_id = %reply.message_id, %error, "invalid outcome from the counter");
            }
        }
        Ok(())
    };
    db.detach(write).await
}
