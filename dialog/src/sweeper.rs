//! Messages that the counters have not answered for in time: they are asked directly. What they have counted is committed,
//! what they have refused has failed; while they are away, everything stays pending and is asked about again.

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
    send::sent,
    store::saga::{Place, overdue},
};

/// Messages of one question and one transaction.
const BATCH: usize = 100;
/// How long the counters may take for a batch.
const COUNTER_LIMIT: Duration = Duration::from_secs(10);
/// The time between sweeps is a quarter of the deadline, within these bounds.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Sweeps from time to time, until shut down.
pub async fn run(
    db: &Db,
    counter: Peer,
    token: &ServiceToken,
    deadline: Duration,
    shutdown: CancellationToken,
) {
    let pause = (deadline / 4).clamp(PAUSE_MIN, PAUSE_MAX);
    while shutdown.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
        let swept = sweep(db, &counter, token, deadline);
        match shutdown.run_until_cancelled(swept).await {
            Some(Err(error)) => tracing::warn!(%error, "overdue messages stay pending for now"),
            Some(Ok(settled)) if settled > 0 => tracing::info!(settled, "overdue messages were settled"),
            Some(Ok(_)) | None => {}
        }
    }
}

/// Asks about everything that is pending for longer than the deadline, oldest first; how many messages were settled.
///
/// # Errors
/// [`Error::Counter`], [`Error::Outcomes`] and [`Error::Database`]: what was not settled is asked about again later.
#[tracing::instrument(name = "dialog.saga.sweep", skip_all, fields(request_id))]
pub async fn sweep(
    db: &Db,
    counter: &Peer,
    token: &ServiceToken,
    deadline: Duration,
) -> Result<usize, Error> {
    let age_us = i64::try_from(deadline.as_micros()).unwrap_or(i64::MAX);
    let call = Call::new().with_authorization(&token.header());
    tracing::Span::current().record("request_id", tracing::field::display(&call.request_id));
    let (mut place, mut settled) = (Place::START, 0);
    loop {
        let messages = overdue(db, age_us, place, BATCH as i64).await?;
        let Some(last) = messages.last() else { return Ok(settled) };
        place = Place::behind(last);
        metrics::counter!("sagas_asked_total").increment(messages.len() as u64);
        let replies = ask(counter, &call, &messages).await?;
        settled += replies.len();
        apply(db, replies).await?;
    }
}

/// Asks the counters what became of these messages. What they do not know yet has no reply.
async fn ask(counter: &Peer, call: &Call, messages: &[Message]) -> Result<Vec<Reply>, Error> {
    let cause = Headers::from(call);
    let call = call.clone().with_deadline(Instant::now() + COUNTER_LIMIT);
    let mut counters = CountersClient::with_interceptor(counter.clone(), call)
        .max_decoding_message_size(proto::ANSWER_MAX_BYTES)
        .max_encoding_message_size(proto::REQUEST_MAX_BYTES);
    // A deleted message carries the version of its deletion; the counters do not look at it here.
    let request = SettleRequest { messages: messages.iter().map(sent).collect() };
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
        let verdicts = settle(&mut tx, &replies).await?;
        tx.commit().await?;
        for (reply, verdict) in replies.iter().zip(verdicts) {
            if let Err(impossible) = verdict {
                tracing::error!(message_id = %reply.message_id, %impossible, "the counters contradict themselves");
            }
        }
        Ok(())
    };
    db.detach(write).await
}
