//! Settlement: the last step of a message's saga. The counter has counted the message or refused it, and
//! the status moves from PENDING to COMMITTED or FAILED under the dialog's lock. A repeated reply
//! changes nothing; a reply that contradicts the status is invalid.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use db::{Error, Tx};
use events::Headers;
use proto::{
    DialogId, MessageId,
    events::{MessageCommitted, MessageFailed, event::Kind},
};

use crate::{
    locked_dialog::LockedDialog,
    message::Status,
    store::{
        self,
        saga::{SagaState, Transition},
    },
};

/// Maximum length of a stored failure reason, in characters.
const REASON_MAX: usize = 500;

/// Outcome of a message at the counter.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Counted, or deleted before it was counted.
    Counted,
    /// Refused, with the reason.
    Refused(String),
}

impl Outcome {
    fn status(&self) -> Status {
        match self {
            Self::Counted => Status::Committed,
            Self::Refused(_) => Status::Failed,
        }
    }

    /// Returns the reason in the form that is stored: without control characters, at most [`REASON_MAX`]
    /// characters.
    fn failure_reason(&self) -> Option<String> {
        let Self::Refused(reason) = self else { return None };
        Some(reason.chars().filter(|char| !char.is_control()).take(REASON_MAX).collect())
    }
}

/// Reply of the counter about one message.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Dialog of the message.
    pub dialog_id: DialogId,
    /// Sequence number of the message.
    pub seq: i64,
    /// The message.
    pub message_id: MessageId,
    /// Outcome of the message.
    pub outcome: Outcome,
    /// Headers of the request that caused the reply, for the event that follows from it.
    pub cause: Headers,
}

/// Inconsistency between a reply and the stored message. A retry cannot resolve it, so it is reported to
/// operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidReply {
    /// No message has this id.
    #[error("there is no such message")]
    UnknownMessage,
    /// The message is in another dialog, or has another seq.
    #[error("the message is in another dialog or has another seq")]
    WrongDialogOrSeq,
    /// The message was settled with the opposite outcome before.
    #[error("the message was already settled with the opposite outcome")]
    AlreadySettled,
}

/// Applies replies and returns the result of each, in order.
pub(crate) async fn settle(tx: &mut Tx, replies: &[Reply]) -> Result<Vec<Result<(), InvalidReply>>, Error> {
    // Lock first, then read the states: a state that was read before the lock could be outdated.
    let dialogs: BTreeSet<_> = replies.iter().map(|reply| reply.dialog_id).collect();
    let mut dialogs = store::lock(tx, dialogs).await?;
    let mut states = store::saga::states(tx, replies.iter().map(|reply| reply.message_id)).await?;
    let mut transitions = Vec::new();
    let mut results = Vec::new();
    for reply in replies {
        let result = transition(reply, &mut states, &mut dialogs);
        results.push(result.map(|transition| transitions.extend(transition)));
    }
    if !transitions.is_empty() {
        store::saga::apply(tx, &transitions).await?;
        store::save_all(tx, dialogs.into_values()).await?;
    }
    Ok(results)
}

/// Returns the transition that a reply causes and records its event, or `None` for a repeated reply.
/// Updates `states`, so that a second reply for the same message within the batch is compared with the
/// new status.
pub fn transition(
    reply: &Reply,
    states: &mut HashMap<MessageId, SagaState>,
    dialogs: &mut BTreeMap<DialogId, LockedDialog>,
) -> Result<Option<Transition>, InvalidReply> {
    let state = states.get_mut(&reply.message_id).ok_or(InvalidReply::UnknownMessage)?;
    if state.dialog_id != reply.dialog_id || state.seq != reply.seq {
        return Err(InvalidReply::WrongDialogOrSeq);
    }
    let to = reply.outcome.status();
    if state.status == to {
        return Ok(None);
    }
    if state.status != Status::Pending {
        return Err(InvalidReply::AlreadySettled);
    }
    let dialog = dialogs.get_mut(&reply.dialog_id).ok_or(InvalidReply::UnknownMessage)?;
    let version = dialog.next_version();
    dialog.record(event(reply, state, version), &reply.cause);
    state.status = to;
    metrics::counter!("sagas_settled_total", "status" => to.as_str()).increment(1);
    metrics::histogram!("saga_seconds").record(state.age_us as f64 / 1e6);
    Ok(Some(Transition { id: reply.message_id, version, failure_reason: reply.outcome.failure_reason() }))
}

fn event(reply: &Reply, state: &SagaState, version: i64) -> Kind {
    let dialog_id = reply.dialog_id.bytes();
    let message_id = reply.message_id.bytes();
    let seq = reply.seq;
    let sender_id = state.author_id.bytes();
    match reply.outcome {
        Outcome::Counted => {
            Kind::MessageCommitted(MessageCommitted { dialog_id, version, message_id, seq, sender_id })
        }
        Outcome::Refused(_) => {
            Kind::MessageFailed(MessageFailed { dialog_id, version, message_id, seq, sender_id })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_reason_is_one_line_of_at_most_500_characters() {
        let stored = |reason: &str| Outcome::Refused(reason.to_owned()).failure_reason();
        assert_eq!(stored("full\0\n up").as_deref(), Some("full up"));
        assert_eq!(stored(&"é".repeat(500)), Some("é".repeat(500)));
        assert_eq!(stored(&"é".repeat(501)), Some("é".repeat(500)));
        assert_eq!(Outcome::Counted.failure_reason(), None);
    }
}
