//! Counting rules as a pure function: a transaction of inputs and the state go in, the new state and its
//! effects come out. No I/O, no clock, no randomness.
//!
//! `store.rs` applies the same rules in sets of SQL. A test runs random histories through both and
//! compares state and effects after every transaction, so this module is the specification of the SQL.
//!
//! # Why a ledger
//!
//! The log delivers each event at least once, possibly out of order and with gaps. A counter that is
//! incremented per message and reset per read diverges under these conditions. The kernel therefore
//! keeps one ledger entry per message (absent, counted or void, never backwards) and one read pointer
//! per member, and defines every count by them.
//!
//! # Rules
//!
//! A message *counts* for a member if all of these hold: the member has joined and not left, is not the
//! author, `joined_seq < seq` and `read_seq < seq`.
//!
//! | input | effect |
//! |---|---|
//! | sent, absent from the ledger | entry counted; `unread + 1` for members for whom the message counts |
//! | refused, deleted or failed | entry void; `unread - 1` for these members if the entry was counted |
//! | read up to X | `read_seq = max(read_seq, X)`; `unread` counted again |
//! | joined or left, at a newer membership version | membership replaced; `unread` counted again |
//! | any input applied before | no change; a sent message gets the same saga reply again |
//!
//! *Counted again* means set to its definition, I1 below, from the ledger and the member's pointers.
//! After each input a pointer *steps over own messages*: while the entry after it is by the member, it
//! moves on by one. An absent entry stops it, because it may be another user's.
//!
//! # Invariants, after every transaction
//!
//! * I1: `unread` is the number of counted entries that count for the member.
//! * I2: `unread` is never negative. Nothing is clamped: a wrong number must show, not hide.
//! * I5: `read_seq` never decreases.
//! * I6: a ledger entry only moves absent → counted → void. Steps may be skipped, none is undone.
//! * I7: a user's version increases by exactly one in each transaction that changes `unread`, `read_seq`
//!   or the membership of that user, or that opens or closes the gaps of a dialog of that user, and stays
//!   the same otherwise. Applying all changes in version order
//!   to an empty state yields the state.
//! * I12: inputs commute and may repeat. Only versions of users, reasons of void entries, and which of
//!   two messages claims a `seq` depend on the order.
//!
//! The numbers are those of ARCHITECTURE.md, which lists the invariants of all services; docs/design.md
//! explains the ledger and its locks.

pub mod applied;
mod effects;
pub mod ledger;

#[cfg(test)]
mod faults;
#[cfg(test)]
pub(crate) mod history;
#[cfg(test)]
mod invariants;
#[cfg(test)]
mod oracle;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use proto::{DialogId, UserId};

use applied::Applied;
pub(crate) use effects::EffectRecorder;
pub use effects::{ChangedRow, Effects, ReadMark, SagaReply, UnreadChange};
use ledger::{Entry, EntryState, Message, VoidReason};

/// Reason of a message that the dialog service reports as failed and whose refusal this database does
/// not have, for example after a restore.
pub const FAILED_BEFORE: &str = "the message has failed before";

/// Complete state of the counter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct State {
    /// Dialogs by id.
    pub dialogs: BTreeMap<DialogId, Dialog>,
    /// Version of each user's counts; an absent user has version 0.
    pub users: BTreeMap<UserId, i64>,
}

/// State of one dialog.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Dialog {
    /// Ledger entries by `seq`.
    pub ledger: BTreeMap<i64, Entry>,
    /// Members by user id. A member is never removed: one who left keeps the read pointer.
    pub members: BTreeMap<UserId, Member>,
    /// Versions of the dialog that were applied.
    pub applied: Applied,
}

/// A user's counts in one dialog.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Member {
    /// Dialog version of the newest membership change applied; older changes are ignored.
    pub version: i64,
    /// Current membership.
    pub membership: Membership,
    /// Read pointer: every message up to and including this `seq` is read. It may be ahead of the
    /// ledger. The message after it is not the member's own.
    pub read_seq: i64,
    /// Number of messages that count for this member.
    pub unread: i64,
}

/// Membership of a user in a dialog.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Membership {
    /// The user has read, but the join has not been applied yet. No message counts.
    #[default]
    Unknown,
    /// The user takes part since the message of this `seq`; only messages above it count.
    Joined(i64),
    /// The user has left. No message counts.
    Left,
}

/// One input of the kernel: an event of the log, a repaired or settled change, or a read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A user was registered.
    Registered(UserId),
    /// A dialog changed.
    Dialog {
        /// Dialog that changed.
        dialog_id: DialogId,
        /// Version of the dialog that the event created. `None` for reads and for settled and repaired
        /// changes, which do not come from the log.
        version: Option<i64>,
        /// The change itself.
        change: Change,
    },
}

/// Change of a dialog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A change without effect on counts, such as a new title. Only its version is recorded.
    VersionOnly,
    /// A message was sent, with its time in microseconds since the Unix epoch.
    Sent(Message, i64),
    /// A message was sent and the database refused to count it, for this reason.
    Refused(Message, String),
    /// A message was deleted.
    Deleted(Message),
    /// A message has failed.
    Failed(Message),
    /// A user joined.
    Joined {
        /// The new participant.
        user_id: UserId,
        /// Version of the membership: the dialog's version after the join.
        version: i64,
        /// `seq` of the newest message at the time of the join.
        joined_seq: i64,
    },
    /// A user left.
    Left {
        /// The former participant.
        user_id: UserId,
        /// Version of the membership: the dialog's version after the user left.
        version: i64,
    },
    /// A user read all messages up to a `seq`, which may be above everything in the ledger.
    Read {
        /// The reader.
        user_id: UserId,
        /// Last `seq` read, inclusive.
        up_to: i64,
    },
    /// All changes up to and including this version were fetched from the dialog service and applied.
    Repaired(i64),
}

impl Change {
    /// Returns the message that changes, if any.
    pub fn message(&self) -> Option<&Message> {
        match self {
            Self::Sent(message, _)
            | Self::Refused(message, _)
            | Self::Deleted(message)
            | Self::Failed(message) => Some(message),
            _ => None,
        }
    }

    /// Returns the user whose membership or read pointer changes, if any.
    pub fn user(&self) -> Option<UserId> {
        match self {
            Self::Joined { user_id, .. } | Self::Left { user_id, .. } | Self::Read { user_id, .. } => {
                Some(*user_id)
            }
            _ => None,
        }
    }
}

/// Applies one transaction of inputs to the state and returns its effects.
pub fn transact(state: &mut State, inputs: &[Input]) -> Effects {
    transact_with(state, inputs, apply)
}

/// Runs [`transact`] with a replacement of [`apply`], so that tests can inject faults.
pub(crate) fn transact_with(
    state: &mut State,
    inputs: &[Input],
    mut rules: impl FnMut(&mut State, &Input, &mut EffectRecorder),
) -> Effects {
    let mut recorder = EffectRecorder::default();
    for (index, input) in inputs.iter().enumerate() {
        recorder.input = index;
        rules(state, input, &mut recorder);
    }
    recorder.finish(state)
}

/// Applies one input. Every branch is idempotent.
pub(crate) fn apply(state: &mut State, input: &Input, recorder: &mut EffectRecorder) {
    let (dialog_id, version, change) = match input {
        Input::Registered(user_id) => {
            state.users.entry(*user_id).or_default();
            return;
        }
        Input::Dialog { dialog_id, version, change } => (*dialog_id, *version, change),
    };
    let dialog = state.dialogs.entry(dialog_id).or_default();
    if version.is_some() || matches!(change, Change::Repaired(_)) {
        let was_stale = dialog.is_stale();
        version.into_iter().for_each(|version| dialog.applied.record_version(version));
        if let Change::Repaired(head) = change {
            dialog.applied.mark_repaired(*head);
        }
        if dialog.is_stale() != was_stale {
            recorder.record_stale_before(dialog_id, was_stale, dialog);
        }
    }
    match change {
        Change::VersionOnly | Change::Repaired(_) => {}
        Change::Sent(message, at_us) => {
            let counted = dialog.send(dialog_id, message, EntryState::Counted, recorder);
            // A refused message is not visible, so it is no activity that would move the dialog up in
            // lists.
            if counted {
                dialog.applied.last_at_us = dialog.applied.last_at_us.max(*at_us);
            }
        }
        Change::Refused(message, reason) => {
            dialog.send(dialog_id, message, EntryState::refused(reason), recorder);
        }
        Change::Deleted(message) => {
            dialog.advance(dialog_id, message, EntryState::Void(VoidReason::Deleted), recorder);
        }
        Change::Failed(message) => {
            dialog.advance(dialog_id, message, EntryState::refused(FAILED_BEFORE), recorder);
        }
        Change::Joined { user_id, version, joined_seq } => {
            dialog.set_membership(dialog_id, *user_id, *version, Membership::Joined(*joined_seq), recorder);
        }
        Change::Left { user_id, version } => {
            dialog.set_membership(dialog_id, *user_id, *version, Membership::Left, recorder);
        }
        Change::Read { user_id, up_to } => dialog.read(dialog_id, *user_id, *up_to, recorder),
    }
}

impl Dialog {
    /// Returns true if events of the dialog are missing, so that the counts of its members may be wrong.
    pub fn is_stale(&self) -> bool {
        !self.applied.missing.is_empty()
    }

    /// Moves a sent message's entry towards `to` and records the saga's reply. Returns true if the reply
    /// is "counted". The reply states the entry's state, not the requested one: a repeated event gets
    /// the same reply again.
    fn send(
        &mut self,
        dialog_id: DialogId,
        message: &Message,
        to: EntryState,
        recorder: &mut EffectRecorder,
    ) -> bool {
        if !self.advance(dialog_id, message, to, recorder) {
            return false;
        }
        let refused = self.ledger[&message.seq].state.refusal().map(str::to_owned);
        let counted = refused.is_none();
        let reply = SagaReply { dialog_id, seq: message.seq, message_id: message.id, refused };
        recorder.effects.replies.push(reply);
        counted
    }

    /// Moves a message's entry towards `to` and adjusts `unread` of every member for whom the message
    /// counts. Records a divergence and returns false if another message has this `seq`.
    fn advance(
        &mut self,
        dialog_id: DialogId,
        message: &Message,
        to: EntryState,
        recorder: &mut EffectRecorder,
    ) -> bool {
        let Ok(transition) = ledger::transition(self.ledger.get(&message.seq), message, to) else {
            recorder.effects.divergences.push(recorder.input);
            return false;
        };
        self.applied.record_message(message.seq);
        self.ledger.insert(message.seq, transition.entry);
        if let Some(author) = self.members.get_mut(&message.author_id) {
            recorder.record_before(message.author_id, dialog_id, author);
            author.step_over_own(message.author_id, &self.ledger);
        }
        if transition.delta != 0 {
            for (user_id, member) in &mut self.members {
                if member.counts(*user_id, message.seq, message.author_id) {
                    recorder.record_before(*user_id, dialog_id, member);
                    member.unread += transition.delta;
                }
            }
        }
        true
    }

    /// Replaces a membership if `version` is newer, and counts the member's row again.
    fn set_membership(
        &mut self,
        dialog_id: DialogId,
        user_id: UserId,
        version: i64,
        membership: Membership,
        recorder: &mut EffectRecorder,
    ) {
        let member = self.members.entry(user_id).or_default();
        if version > member.version {
            recorder.record_before(user_id, dialog_id, member);
            member.version = version;
            member.membership = membership;
            member.step_over_own(user_id, &self.ledger);
            member.recount(user_id, &self.ledger);
        }
    }

    /// Moves a read pointer forward and counts the member's row again. A read that moves nothing creates
    /// no row.
    fn read(&mut self, dialog_id: DialogId, user_id: UserId, up_to: i64, recorder: &mut EffectRecorder) {
        let read_seq = self.members.get(&user_id).map_or(0, |member| member.read_seq);
        if up_to > read_seq {
            let member = self.members.entry(user_id).or_default();
            recorder.record_before(user_id, dialog_id, member);
            member.read_seq = up_to;
            member.step_over_own(user_id, &self.ledger);
            member.recount(user_id, &self.ledger);
        }
    }
}

impl Member {
    /// Returns true if the user takes part in the dialog.
    pub fn is_joined(&self) -> bool {
        matches!(self.membership, Membership::Joined(_))
    }

    /// Returns true if a counted message of this `seq` and author is unread for this member: the
    /// predicate of all rules.
    fn counts(&self, user_id: UserId, seq: i64, author_id: UserId) -> bool {
        matches!(self.membership, Membership::Joined(joined_seq) if joined_seq < seq)
            && self.read_seq < seq
            && user_id != author_id
    }

    /// Moves the read pointer over the member's own messages that follow it without a gap. It changes no
    /// count, since own messages are never unread.
    fn step_over_own(&mut self, user_id: UserId, ledger: &BTreeMap<i64, Entry>) {
        while ledger.get(&(self.read_seq + 1)).is_some_and(|entry| entry.author_id == user_id) {
            self.read_seq += 1;
        }
    }

    /// Sets `unread` by its definition (I1). An increment would not do: the pointers that decide have
    /// moved.
    fn recount(&mut self, user_id: UserId, ledger: &BTreeMap<i64, Entry>) {
        self.unread = self.unread_messages(user_id, ledger).count() as i64;
    }

    /// Returns the messages that `unread` counts, by their `seq`.
    pub fn unread_messages<'a>(
        &'a self,
        user_id: UserId,
        ledger: &'a BTreeMap<i64, Entry>,
    ) -> impl Iterator<Item = (i64, &'a Entry)> {
        ledger
            .range(self.read_seq.saturating_add(1)..)
            .filter(move |(seq, entry)| {
                entry.state == EntryState::Counted && self.counts(user_id, **seq, entry.author_id)
            })
            .map(|(seq, entry)| (*seq, entry))
    }
}
