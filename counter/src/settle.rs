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
    kernel::{Effects, Input, ledger::Divergence},
    publish, store,
};

/// Reason of a divergent message, shown to its author.
const DIVERGENCE_REASON: &str = "another message has its number in the dialog";
/// Reason of a message with a value outside its limits, shown to its author.
const INVALID_REASON: &str = "the message is invalid";

/// Outcome of a message.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The message is counted, or was deleted.
    Counted,
    /// The message was refused for this reason.
    Refused(String),
    /// A rule of the database blocks the message or the read of its author. It stays PENDING until a
    /// later settlement.
    Unknown,
}

/// Returns the outcomes of the messages in the order of the request. An invalid or divergent message is
/// refused, and one that a rule of the database blocks has no outcome; neither affects the others. Safe
/// to repeat.
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

/// Applies the messages together or, if one of them is blocked, one by one.
async fn write(db: Db, messages: Vec<MessageSent>, headers: Headers) -> Result<Vec<Outcome>, Error> {
    match apply(&db, &messages, &headers).await {
        Err(Error::Blocked { .. }) => {}
        result => return result,
    }
    let mut outcomes = Vec::with_capacity(messages.len());
    for message in &messages {
        match apply(&db, std::slice::from_ref(message), &headers).await {
            Err(error @ Error::Blocked { .. }) => {
                tracing::error!(%error, "settlement is blocked, the message stays pending");
                outcomes.push(Outcome::Unknown);
            }
            result => outcomes.extend(result?),
        }
    }
    Ok(outcomes)
}

async fn apply(db: &Db, messages: &[MessageSent], headers: &Headers) -> Result<Vec<Outcome>, Error> {
    let request = Request::decode(messages);
    let mut tx = db.begin().await?;
    let store::Outcome { mut effects, dead_letters } = store::transact(&mut tx, &request.inputs).await?;
    let outcomes = request.outcomes(&mut effects);
    let divergent =
        dead_letters.iter().map(|index| dead_letter(&messages[request.origins[*index]], &Divergence));
    let invalid = request.invalid.iter().map(|(index, error)| dead_letter(&messages[*index], error));
    let dead_letters = invalid.chain(divergent).map(|letter| (letter, headers.clone())).collect();
    let displaced = store::displacements(&mut tx, &request.inputs, &effects.divergences).await?;
    let epoch = store::epoch(&mut tx).await?;
    publish::append(&mut tx, epoch, effects, dead_letters, |_, _| headers.clone()).await?;
    tx.commit().await?;
    displace(db, &displaced, headers).await?;
    Ok(outcomes)
}

/// Messages of a call, and the inputs of the kernel that they stand for.
#[derive(Debug)]
pub struct Request<'a> {
    messages: &'a [MessageSent],
    /// Inputs of the transaction.
    pub inputs: Vec<Input>,
    /// Index of the message of each input.
    origins: Vec<usize>,
    /// Messages with a value outside its limits, by index. They have no inputs.
    invalid: Vec<(usize, InvalidEvent)>,
}

impl<'a> Request<'a> {
    /// Decodes the messages of a call.
    pub fn decode(messages: &'a [MessageSent]) -> Self {
        let mut request = Self { messages, inputs: Vec::new(), origins: Vec::new(), invalid: Vec::new() };
        for (index, message) in messages.iter().enumerate() {
            match event::from_settle(message) {
                Ok(decoded) => {
                    request.origins.extend(std::iter::repeat_n(index, decoded.len()));
                    request.inputs.extend(decoded);
                }
                Err(invalid) => request.invalid.push((index, invalid)),
            }
        }
        request
    }

    /// Returns the outcomes of the messages in their order, from the effects of the transaction. Takes the
    /// replies out of the effects: they answer the call and are not published too.
    pub fn outcomes(&self, effects: &mut Effects) -> Vec<Outcome> {
        let mut outcomes = vec![Outcome::Unknown; self.messages.len()];
        for (index, _) in &self.invalid {
            outcomes[*index] = Outcome::Refused(INVALID_REASON.to_owned());
        }
        for input in &effects.divergences {
            outcomes[self.origins[*input]] = Outcome::Refused(DIVERGENCE_REASON.to_owned());
        }
        let replies = std::mem::take(&mut effects.replies).into_iter();
        let replies: HashMap<MessageId, Option<String>> =
            replies.map(|reply| (reply.message_id, reply.refused)).collect();
        for (message, outcome) in self.messages.iter().zip(&mut outcomes) {
            let id = MessageId::parse(&message.message_id);
            match id.ok().and_then(|id| replies.get(&id)) {
                Some(None) => *outcome = Outcome::Counted,
                Some(Some(reason)) => *outcome = Outcome::Refused(reason.clone()),
                None => {}
            }
        }
        outcomes
    }
}

/// Voids messages of the ledger whose numbers the dialog service has given to others.
///
/// Dialog is the truth about its messages, so these are not in the dialog any more. In a transaction of
/// its own, because their authors may be no members, whose locks must not follow those of the first one.
/// If it fails, the settlement fails and is repeated.
async fn displace(db: &Db, displaced: &[Input], headers: &Headers) -> Result<(), Error> {
    if displaced.is_empty() {
        return Ok(());
    }
    let mut tx = db.begin().await?;
    let outcome = store::transact(&mut tx, displaced).await?;
    let epoch = store::epoch(&mut tx).await?;
    publish::append(&mut tx, epoch, outcome.effects, Vec::new(), |_, _| headers.clone()).await?;
    tx.commit().await?;
    Ok(())
}

fn dead_letter(message: &MessageSent, error: &dyn std::error::Error) -> DeadLetter {
    let key = uuid::Uuid::from_slice(&message.dialog_id).map(|id| id.to_string()).unwrap_or_default();
    let payload = Kind::MessageSent(message.clone()).payload();
    let origin = Origin { topic: topic::DIALOG, position: None, key: &key, payload: &payload };
    DeadLetter::new(count::CONSUMER, origin, format!("settlement: {error}"))
}
