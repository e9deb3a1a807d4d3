//! The end of a saga: the counters have counted a message, or refused it. The status moves once, under the dialog's lock;
//! hearing the same again changes nothing, and hearing the opposite is impossible.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use db::{Error, Tx};
use events::Headers;
use proto::{
    DialogId, MessageId,
    events::{MessageCommitted, MessageFailed, event::Kind},
};

use crate::{
    held::Held,
    message::Status,
    store::{
        self,
        saga::{Move, State},
    },
};

/// The longest reason that is kept, in characters.
const REASON_MAX: usize = 500;

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It counts, or was deleted before it could.
    Counted,
    /// The counters refused it, and why.
    Refused(String),
}

impl Outcome {
    fn status(&self) -> Status {
        match self {
            Self::Counted => Status::Committed,
            Self::Refused(_) => Status::Failed,
        }
    }

    /// The reason as it is kept: one line of bounded length that every database takes.
    fn failure_reason(&self) -> Option<String> {
        let Self::Refused(reason) = self else { return None };
        Some(reason.chars().filter(|char| !char.is_control()).take(REASON_MAX).collect())
    }
}

/// What the counters say about a message.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The dialog that they have it in.
    pub dialog_id: DialogId,
    /// The place that they have it at.
    pub seq: i64,
    /// The message.
    pub message_id: MessageId,
    /// What became of it.
    pub outcome: Outcome,
    /// The request that caused it.
    pub cause: Headers,
}

/// Why a reply cannot be true. No repetition helps: it is for an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Impossible {
    /// There is no such message.
    #[error("there is no such message")]
    Unknown,
    /// The message is of another dialog or has another seq.
    #[error("the message is of another dialog or has another seq")]
    Elsewhere,
    /// The message was settled the other way.
    #[error("the message was settled the other way before")]
    Contradiction,
}

/// Settles messages, and says of each reply whether it can be true.
///
/// # Errors
/// As the database has them.
pub async fn settle(tx: &mut Tx, replies: &[Reply]) -> Result<Vec<Result<(), Impossible>>, Error> {
    let dialogs: BTreeSet<_> = replies.iter().map(|reply| reply.dialog_id).collect();
    let mut held: BTreeMap<_, _> =
        store::lock(tx, dialogs).await?.into_iter().map(|held| (held.id, held)).collect();
    let mut states = store::saga::states(tx, replies.iter().map(|reply| reply.message_id)).await?;
    let (mut moves, mut verdicts) = (Vec::new(), Vec::new());
    for reply in replies {
        let verdict = judge(reply, &mut states, &mut held);
        verdicts.push(verdict.map(|step| moves.extend(step)));
    }
    if !moves.is_empty() {
        store::saga::advance(tx, &moves).await?;
        store::save_all(tx, held.into_values().filter(|dialog| !dialog.is_unchanged())).await?;
    }
    Ok(verdicts)
}

/// Whether a reply moves its message, and if so, what is written.
fn judge(
    reply: &Reply,
    states: &mut HashMap<MessageId, State>,
    held: &mut BTreeMap<DialogId, Held>,
) -> Result<Option<Move>, Impossible> {
    let state = states.get_mut(&reply.message_id).ok_or(Impossible::Unknown)?;
    if state.dialog_id != reply.dialog_id || state.seq != reply.seq {
        return Err(Impossible::Elsewhere);
    }
    let (now, to) = (state.status, reply.outcome.status());
    if now == to {
        return Ok(None);
    }
    if now != Status::Pending {
        return Err(Impossible::Contradiction);
    }
    let dialog = held.get_mut(&reply.dialog_id).ok_or(Impossible::Unknown)?;
    let version = dialog.next_version();
    dialog.record(event(reply, state, version), &reply.cause);
    state.status = to;
    metrics::counter!("sagas_settled_total", "status" => to.as_str()).increment(1);
    metrics::histogram!("saga_seconds").record(state.age_us as f64 / 1e6);
    Ok(Some(Move { id: reply.message_id, version, failure_reason: reply.outcome.failure_reason() }))
}

fn event(reply: &Reply, state: &State, version: i64) -> Kind {
    let (dialog_id, message_id) = (reply.dialog_id.bytes(), reply.message_id.bytes());
    let (seq, sender_id) = (reply.seq, state.author_id.bytes());
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
    fn a_reason_is_one_line_of_at_most_500_characters() {
        let kept = |reason: &str| Outcome::Refused(reason.to_owned()).failure_reason();
        assert_eq!(kept("full\0\n up").as_deref(), Some("full up"));
        assert_eq!(kept(&"é".repeat(500)), Some("é".repeat(500)));
        assert_eq!(kept(&"é".repeat(501)), Some("é".repeat(500)));
        assert_eq!(Outcome::Counted.failure_reason(), None);
    }
}
