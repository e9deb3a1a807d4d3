//! Derived state: everything of a dialog that follows from the dialog service, which is the ledger, the
//! memberships and the counts. [`Source`] is what that service says, [`derive`] makes the state again, and
//! [`compare`] finds where the stored state differs. Read pointers and versions of users are not derived.

mod compare;
pub(crate) mod source;
#[cfg(test)]
mod tests;

use proto::{DialogId, MessageId, UserId};

pub(crate) use compare::{Comparison, cache_drift, compare, events_drift};
pub(crate) use source::Source;

use crate::kernel::{
    self, Dialog, Input, Member, Membership, State,
    ledger::{Entry, EntryState},
};
use source::Settlement;

/// Difference between the stored state of a dialog and the one that follows from the dialog service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drift {
    /// Dialog.
    pub dialog_id: DialogId,
    /// What differs.
    pub subject: Subject,
    /// Stored value.
    pub stored: String,
    /// Value that it should have.
    pub expected: String,
}

/// Subject of a [`Drift`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// Unread count of a member, against the ledger.
    Count(UserId),
    /// Ledger entry of the message with this `seq`, against the messages of the dialog service.
    Message(i64),
    /// Membership, against that of the dialog service.
    Membership(UserId),
    /// Version up to which events were applied, against that of the dialog service.
    Events,
    /// Cached rows of a user, against the database at the same version.
    Cache(UserId),
}

impl Subject {
    /// Returns the kind of drift, a label of metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Count(_) => "count",
            Self::Message(_) => "message",
            Self::Membership(_) => "membership",
            Self::Events => "events",
            Self::Cache(_) => "cache",
        }
    }
}

/// Makes the state of a dialog again. Kept from the stored state: read pointers, reasons of refusals, and
/// the outcome of messages that the dialog service does not know yet.
pub(crate) fn derive(dialog_id: DialogId, source: &Source, stored: &Dialog) -> Dialog {
    let mut dialog = Dialog::default();
    for (user_id, member) in &stored.members {
        let kept = Member { read_seq: member.read_seq, ..Member::default() };
        dialog.members.insert(*user_id, kept);
    }
    for message in source.messages.values() {
        let seq = message.message.seq;
        let author_id = message.message.author_id;
        if message.read_up_to > 0 {
            let author = dialog.members.entry(author_id).or_default();
            author.read_seq = author.read_seq.max(message.read_up_to);
        }
        if let Some(entry) = kept_entry(stored, message.message.id, seq, message.settlement) {
            dialog.ledger.insert(seq, entry);
        }
    }
    let inputs = source.messages.values().flat_map(|message| message.changes());
    // Memberships last: each counts its row once, instead of once for each message.
    let inputs = inputs.chain(source.members.iter().map(|(user_id, member)| member.change(*user_id)));
    let inputs: Vec<Input> =
        inputs.map(|change| Input::Dialog { dialog_id, version: None, change }).collect();
    let mut state = State::default();
    state.dialogs.insert(dialog_id, dialog);
    kernel::transact(&mut state, &inputs);
    let mut dialog = state.dialogs.remove(&dialog_id).unwrap_or_default();
    dialog.applied.version = source.head;
    dialog.applied.last_at_us = last_at_us(source, &dialog);
    // A row without a membership and a pointer says nothing.
    dialog.members.retain(|user_id, member| {
        stored.members.contains_key(user_id)
            || member.membership != Membership::Unknown
            || member.read_seq > 0
    });
    dialog
}

/// Returns the stored entry of a message if its outcome, or the reason of it, is known only here.
fn kept_entry(stored: &Dialog, id: MessageId, seq: i64, settlement: Settlement) -> Option<Entry> {
    let entry = stored.ledger.get(&seq).filter(|entry| entry.message_id == id)?;
    let is_kept = match settlement {
        Settlement::Pending { deleted: false } => entry.state.refusal().is_some(),
        Settlement::Pending { deleted: true } | Settlement::Failed => entry.state != EntryState::Counted,
        Settlement::Committed { .. } => false,
    };
    is_kept.then(|| entry.clone())
}

/// Returns the newest time of a message that counts, or counted until it was deleted.
fn last_at_us(source: &Source, dialog: &Dialog) -> i64 {
    let is_counted = |state: &EntryState| state.refusal().is_none();
    let counted = source.messages.values().filter(|message| {
        dialog.ledger.get(&message.message.seq).is_some_and(|entry| is_counted(&entry.state))
    });
    counted.map(|message| message.at_us).max().unwrap_or(0)
}
