//! Settlement: reports the outcome of messages whose saga reply is overdue. A message that was never
//! seen is applied now, under the same locks as an event of the log, without moving the dialog's applied
//! version.

use std::collections::HashMap;

use db::Db;
use events::Headers;
use proto::{
    MessageId,
    dead_letter::Origin,
    events::{DeadLetter, MessageSent, event::Kind},
    topic,
};

use crate::{
    Error, count,
    event::{self, InvalidEvent},
    kernel::ledger::Divergence,
    publish, store,
};

/// Outcome of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The message is counted, or was deleted.
    Counted,
    /// The message was refused for this reason.
    Refused(String),
    /// The message is invalid, or another message has its `seq`. It stays PENDING and is a dead letter
    /// for operators.
    Unknown,
}

/// Returns the outcomes of the messages in the order of the request. An invalid message becomes a dead
/// letter and does not affect the others. Safe to repeat.
///
/// # Errors
/// [`Error::Database`].
#[tracing::instrument(name = "counter.settle", skip_all, fields(messages = messages.len()))]
pub(crate) async fn settle(
    db: &Db,
    messages: Vec<MessageSent>,
    headers: Headers,
) -> Result<Vec<Outcome>, Error> {
    // Detached from the request, as every write (docs/decisions/0002-no-begin-is-cancelled.md).
    db.detach(write(db.clone(), messages, headers)).await
}

async fn write(db: Db, messages: Vec<MessageSent>, headers: Headers) -> Result<Vec<Outcome>, Error> {
    let mut inputs = Vec::new();
    let mut origins = Vec::new();
    let mut dead_letters = Vec::new();
    for message in &messages {
        match event::from_settle(message) {
            Ok(decoded) => {
                origins.extend(std::iter::repeat_n(message, decoded.len()));
                inputs.extend(decoded);
            }
            Err(invalid) => dead_letters.push((dead_letter(message, &invalid), headers.clone())),
        }
    }
    let mut tx = db.begin().await?;
    let mut outcome = store::transact(&mut tx, &inputs).await?;
    // The replies answer this call; they are not published too.
    let replies = std::mem::take(&mut outcome.effects.replies).into_iter();
    let replies: HashMap<MessageId, Option<String>> =
        replies.map(|reply| (reply.message_id, reply.refused)).collect();
    let divergent = outcome.effects.divergences.iter();
    dead_letters.extend(divergent.map(|index| (dead_letter(origins[*index], &Divergence), headers.clone())));
    let refused = InvalidEvent("the read of the author was refused by the database");
    dead_letters.extend(
        outcome.refused.iter().map(|index| (dead_letter(origins[*index], &refused), headers.clone())),
    );
    let epoch = store::epoch(&mut tx).await?;
    publish::append(&mut tx, epoch, outcome.effects, dead_letters, |_, _| headers.clone()).await?;
    tx.commit().await?;
    let outcome_of = |message: &MessageSent| match MessageId::parse(&message.message_id)
        .ok()
        .and_then(|id| replies.get(&id))
    {
        Some(None) => Outcome::Counted,
        Some(Some(reason)) => Outcome::Refused(reason.clone()),
        None => Outcome::Unknown,
    };
    Ok(messages.iter().map(outcome_of).collect())
}

fn dead_letter(message: &MessageSent, error: &dyn std::error::Error) -> DeadLetter {
    let key = uuid::Uuid::from_slice(&message.dialog_id).map(|id| id.to_string()).unwrap_or_default();
    let payload = Kind::MessageSent(message.clone()).payload();
    let origin = Origin { topic: topic::DIALOG, position: None, key: &key, payload: &payload };
    DeadLetter::new(count::CONSUMER, origin, format!("settlement: {error}"))
}
