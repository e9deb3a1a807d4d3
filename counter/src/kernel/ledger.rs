//! Ledger: one entry per message of a dialog, by `seq`. The entry makes repeated events harmless, is the
//! source of every recount, and answers why a message counts or not.
//!
//! ```text
//! absent ──sent──▶ counted ──deleted, failed──▶ void
//!    └─────────refused, deleted, failed───────────▲
//! ```
//!
//! `void` is final: a deletion that arrives before its message leaves a void entry, and the message then
//! counts nothing.

use proto::{MessageId, UserId};

/// Identity of a message. The counter never holds its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// Sequence number in the dialog: from 1, without gaps.
    pub seq: i64,
    /// Id of the message with this sequence number.
    pub id: MessageId,
    /// Author, for whom the message is never unread.
    pub author_id: UserId,
}

/// Ledger entry of one message.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Entry {
    /// Message that has this `seq`. The first message applied keeps it.
    pub message_id: MessageId,
    /// Author of the message.
    pub author_id: UserId,
    /// Current state.
    pub state: EntryState,
}

/// State of a ledger entry. [`EntryState::Void`] is final.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum EntryState {
    /// The message counts for every member who has not read it.
    Counted,
    /// The message counts for no member.
    Void(VoidReason),
}

/// Reason of a void entry.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum VoidReason {
    /// The counter refused the message for this reason, which its author sees; the message becomes
    /// FAILED.
    Refused(String),
    /// The message was deleted.
    Deleted,
}

impl EntryState {
    /// Creates the state of a refused message.
    pub fn refused(reason: &str) -> Self {
        Self::Void(VoidReason::Refused(reason.to_owned()))
    }

    /// Returns the reason of a refusal; `None` for counted and deleted messages, which the saga reports
    /// as counted.
    pub fn refusal(&self) -> Option<&str> {
        match self {
            Self::Void(VoidReason::Refused(reason)) => Some(reason),
            Self::Counted | Self::Void(VoidReason::Deleted) => None,
        }
    }
}

/// Result of [`transition`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// Entry after the transition.
    pub entry: Entry,
    /// True if the entry differs from the one before and must be written.
    pub changed: bool,
    /// Amount to add to `unread` of each member for whom the message counts: 1, 0 or -1.
    pub delta: i64,
}

/// Another message, or another author, is known at this `seq`: counter and dialog service disagree about
/// the past. The event becomes a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("seq belongs to another message of the dialog")]
pub struct Divergence;

/// Moves the entry of a message towards `to`. A transition that is not allowed leaves the entry
/// unchanged.
///
/// # Errors
/// [`Divergence`] if the entry belongs to another message.
pub fn transition(
    entry: Option<&Entry>,
    message: &Message,
    to: EntryState,
) -> Result<Transition, Divergence> {
    let Some(entry) = entry else {
        let delta = i64::from(to == EntryState::Counted);
        let entry = Entry { message_id: message.id, author_id: message.author_id, state: to };
        return Ok(Transition { entry, changed: true, delta });
    };
    if entry.message_id != message.id || entry.author_id != message.author_id {
        return Err(Divergence);
    }
    match (&entry.state, to) {
        (EntryState::Counted, to @ EntryState::Void(_)) => {
            Ok(Transition { entry: Entry { state: to, ..entry.clone() }, changed: true, delta: -1 })
        }
        // Void keeps its first reason: a message refused and then deleted is still answered as refused.
        _ => Ok(Transition { entry: entry.clone(), changed: false, delta: 0 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transitions_may_be_skipped_and_none_is_undone() {
        let message = Message { seq: 1, id: MessageId::now(), author_id: UserId::now() };
        let deleted = EntryState::Void(VoidReason::Deleted);
        let counted = transition(None, &message, EntryState::Counted).unwrap();
        assert_eq!(counted.delta, 1);
        let void = transition(Some(&counted.entry), &message, deleted.clone()).unwrap();
        assert_eq!((void.delta, &void.entry.state), (-1, &deleted));
        let repeated = transition(Some(&void.entry), &message, EntryState::Counted).unwrap();
        assert_eq!((repeated.changed, repeated.delta, &repeated.entry), (false, 0, &void.entry));
        let refused = transition(Some(&void.entry), &message, EntryState::refused("no")).unwrap();
        assert_eq!(refused.entry, void.entry, "void is final, and so is its reason");
        let tombstone = transition(None, &message, deleted).unwrap();
        assert_eq!(tombstone.delta, 0, "a message that never counted is not subtracted");
    }

    #[test]
    fn a_seq_belongs_to_its_first_message() {
        let message = Message { seq: 1, id: MessageId::now(), author_id: UserId::now() };
        let entry = transition(None, &message, EntryState::Counted).unwrap().entry;
        let other = Message { id: MessageId::now(), ..message };
        assert_eq!(transition(Some(&entry), &other, EntryState::Counted), Err(Divergence));
        let other_author = Message { author_id: UserId::now(), ..message };
        let deleted = EntryState::Void(VoidReason::Deleted);
        assert_eq!(transition(Some(&entry), &other_author, deleted), Err(Divergence));
    }
}
