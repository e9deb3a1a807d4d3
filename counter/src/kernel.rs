//! The rules of counting as one pure function: state and events in, state and effects out, no I/O and no clock. The store
//! does the same in sets of SQL, and a test drives both with the same histories.
//!
//! Promises, after every transaction: `unread` is the number of counted ledger rows by others above a member's pointers;
//! nothing is clamped; `read_seq` never goes back; a user's version steps by one where any of the user's numbers moved.

pub mod applied;
pub mod ledger;

#[cfg(test)]
mod check;
#[cfg(test)]
mod faults;
#[cfg(test)]
pub(crate) mod history;
#[cfg(test)]
mod oracle;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use proto::{DialogId, MessageId, UserId};

use applied::Applied;
use ledger::{Entry, Message, Standing, Why};

/// Everything that the counter knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// Dialogs by id.
    pub dialogs: BTreeMap<DialogId, Dialog>,
    /// The versions of users; absent is 0.
    pub users: BTreeMap<UserId, i64>,
}

/// One dialog.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dialog {
    /// What became of its messages, by seq.
    pub ledger: BTreeMap<i64, Entry>,
    /// Everyone who ever took part or read.
    pub members: BTreeMap<UserId, Member>,
    /// How far its events were applied.
    pub applied: Applied,
}

/// A person's row of a dialog.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Member {
    /// The dialog's version at the last change of the membership.
    pub version: i64,
    /// Whether the person takes part.
    pub membership: Membership,
    /// Everything up to here is read.
    pub read_seq: i64,
    /// Counted messages by others above both pointers.
    pub unread: i64,
}

/// Whether a person takes part.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Membership {
    /// The person has read, and the join is still on its way: counts nothing.
    #[default]
    Unknown,
    /// Since the message of this seq: those above it count.
    Joined(i64),
    /// Not any more: counts nothing.
    Left,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A user exists.
    Registered(UserId),
    /// Something happened in a dialog.
    Dialog {
        /// Where.
        dialog_id: DialogId,
        /// The dialog's version, of an event of the log. A settled or repaired change has none.
        version: Option<i64>,
        /// What.
        change: Change,
    },
}

/// What happened in a dialog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Nothing that counts; its version was seen.
    Nothing,
    /// A message was sent, at this time in microseconds.
    Sent(Message, i64),
    /// A message was sent that the database refuses to count, for this reason.
    Refused(Message, String),
    /// A message was deleted.
    Deleted(Message),
    /// A message has failed.
    Failed(Message),
    /// A person takes part, since this version of the dialog and after the message of `joined_seq`.
    Joined {
        /// Who.
        user_id: UserId,
        /// The membership's version.
        version: i64,
        /// The newest message at that time.
        joined_seq: i64,
    },
    /// A person takes part no longer.
    Left {
        /// Who.
        user_id: UserId,
        /// The membership's version.
        version: i64,
    },
    /// A person has read everything up to a seq, which need not be known yet.
    Read {
        /// Who.
        user_id: UserId,
        /// Up to where, included.
        up_to: i64,
    },
    /// Everything up to this version was asked from dialog and applied.
    Repaired(i64),
}

impl Change {
    /// The message that it is about.
    pub fn message(&self) -> Option<&Message> {
        match self {
            Self::Sent(message, _)
            | Self::Refused(message, _)
            | Self::Deleted(message)
            | Self::Failed(message) => Some(message),
            _ => None,
        }
    }

    /// The person that it is about.
    pub fn user(&self) -> Option<UserId> {
        match self {
            Self::Joined { user_id, .. } | Self::Left { user_id, .. } | Self::Read { user_id, .. } => {
                Some(*user_id)
            }
            _ => None,
        }
    }
}

/// What the world is told of a transaction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Effects {
    /// An answer to each message sent, in order.
    pub answers: Vec<Answer>,
    /// Read pointers that moved, by user and dialog.
    pub reads: Vec<Reading>,
    /// Users whose numbers moved, by user.
    pub changes: Vec<UnreadChange>,
    /// Which of the events name a message at a place that another message has: for the dead letters.
    pub divergences: Vec<usize>,
}

/// The saga's reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The dialog.
    pub dialog_id: DialogId,
    /// The message's place.
    pub seq: i64,
    /// The message.
    pub message_id: MessageId,
    /// Why it is not counted. A deleted message is answered as counted.
    pub refused: Option<String>,
}

/// A read pointer that moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// Who.
    pub user_id: UserId,
    /// Where.
    pub dialog_id: DialogId,
    /// Up to where, included.
    pub read_seq: i64,
}

/// One step of a user's version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadChange {
    /// Whose.
    pub user_id: UserId,
    /// The version after the step; before it, one less.
    pub version: i64,
    /// The rows that moved, newest activity first.
    pub rows: Vec<ChangedRow>,
}

/// A row that moved, in absolute numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangedRow {
    /// The dialog.
    pub dialog_id: DialogId,
    /// Unread now.
    pub unread: i64,
    /// Unread before the step.
    pub was: i64,
    /// Read up to here.
    pub read_seq: i64,
    /// The newest message seen in the dialog.
    pub last_seq: i64,
}

/// Applies the events of one transaction.
pub fn transact(state: &mut State, inputs: &[Input]) -> Effects {
    transact_by(state, inputs, apply)
}

/// What a transaction notes down to tell its effects at the end.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    /// Which event is being applied.
    at: usize,
    effects: Effects,
    /// `unread` and `read_seq` of every row touched, as they were before the transaction.
    before: BTreeMap<(UserId, DialogId), (i64, i64)>,
}

/// [`transact`] with the rules given, so that tests can plant faults in them.
pub(crate) fn transact_by(
    state: &mut State,
    inputs: &[Input],
    mut rules: impl FnMut(&mut State, &Input, &mut Journal),
) -> Effects {
    let mut journal = Journal::default();
    for (at, input) in inputs.iter().enumerate() {
        journal.at = at;
        rules(state, input, &mut journal);
    }
    journal.conclude(state)
}

/// The rules, for one event.
pub(crate) fn apply(state: &mut State, input: &Input, journal: &mut Journal) {
    let (dialog_id, version, change) = match input {
        Input::Registered(user_id) => {
            state.users.entry(*user_id).or_default();
            return;
        }
        Input::Dialog { dialog_id, version, change } => (*dialog_id, version, change),
    };
    let dialog = state.dialogs.entry(dialog_id).or_default();
    if let Some(version) = version {
        dialog.applied.see(*version);
    }
    match change {
        Change::Nothing => {}
        Change::Sent(message, at_us) => {
            if dialog.send(dialog_id, message, Standing::Counted, journal) {
                dialog.applied.last_at_us = dialog.applied.last_at_us.max(*at_us);
            }
        }
        Change::Refused(message, reason) => {
            dialog.send(dialog_id, message, Standing::Void(Why::Refused(reason.clone())), journal);
        }
        Change::Deleted(message) => {
            dialog.move_to(dialog_id, message, Standing::Void(Why::Deleted), journal);
        }
        Change::Failed(message) => {
            dialog.move_to(
                dialog_id,
                message,
                Standing::Void(Why::Refused(FAILED_BEFORE.to_owned())),
                journal,
            );
        }
        Change::Joined { user_id, version, joined_seq } => {
            dialog.change_membership(dialog_id, *user_id, *version, Membership::Joined(*joined_seq), journal);
        }
        Change::Left { user_id, version } => {
            dialog.change_membership(dialog_id, *user_id, *version, Membership::Left, journal);
        }
        Change::Read { user_id, up_to } => dialog.read(dialog_id, *user_id, *up_to, journal),
        Change::Repaired(head) => dialog.applied.repair(*head),
    }
}

/// The reason of a message that dialog says has failed and whose refusal this database does not remember.
pub const FAILED_BEFORE: &str = "the message has failed before";

impl Member {
    /// Whether a message counts for this person.
    fn awaits(&self, user_id: UserId, seq: i64, author_id: UserId) -> bool {
        matches!(self.membership, Membership::Joined(joined_seq) if joined_seq < seq)
            && self.read_seq < seq
            && user_id != author_id
    }

    fn recount(&mut self, user_id: UserId, ledger: &BTreeMap<i64, Entry>) {
        let counted = ledger.iter().filter(|(_, entry)| entry.standing == Standing::Counted);
        self.unread =
            counted.filter(|(seq, entry)| self.awaits(user_id, **seq, entry.author_id)).count() as i64;
    }
}

impl Dialog {
    /// Moves a message towards a standing and answers where it stands; says whether the answer is "counted".
    fn send(&mut self, dialog_id: DialogId, message: &Message, to: Standing, journal: &mut Journal) -> bool {
        if !self.move_to(dialog_id, message, to, journal) {
            return false;
        }
        let refused = match &self.ledger[&message.seq].standing {
            Standing::Void(Why::Refused(reason)) => Some(reason.clone()),
            Standing::Counted | Standing::Void(Why::Deleted) => None,
        };
        let counted = refused.is_none();
        journal.effects.answers.push(Answer { dialog_id, seq: message.seq, message_id: message.id, refused });
        counted
    }

    /// Moves a message towards a standing, with everyone's unread; false where another message has its place.
    fn move_to(
        &mut self,
        dialog_id: DialogId,
        message: &Message,
        to: Standing,
        journal: &mut Journal,
    ) -> bool {
        let Ok(step) = ledger::step(self.ledger.get(&message.seq), message, to) else {
            journal.effects.divergences.push(journal.at);
            return false;
        };
        self.applied.see_message(message.seq);
        self.ledger.insert(message.seq, step.entry);
        if step.delta != 0 {
            for (user_id, member) in &mut self.members {
                if member.awaits(*user_id, message.seq, message.author_id) {
                    journal.touch(*user_id, dialog_id, member);
                    member.unread += step.delta;
                }
            }
        }
        true
    }

    fn change_membership(
        &mut self,
        dialog_id: DialogId,
        user_id: UserId,
        version: i64,
        membership: Membership,
        journal: &mut Journal,
    ) {
        let member = self.members.entry(user_id).or_default();
        if version > member.version {
            journal.touch(user_id, dialog_id, member);
            (member.version, member.membership) = (version, membership);
            member.recount(user_id, &self.ledger);
        }
    }

    fn read(&mut self, dialog_id: DialogId, user_id: UserId, up_to: i64, journal: &mut Journal) {
        let read_seq = self.members.get(&user_id).map_or(0, |member| member.read_seq);
        if up_to > read_seq {
            let member = self.members.entry(user_id).or_default();
            journal.touch(user_id, dialog_id, member);
            member.read_seq = up_to;
            member.recount(user_id, &self.ledger);
        }
    }
}

impl Journal {
    /// To be called before a row is changed.
    pub(crate) fn touch(&mut self, user_id: UserId, dialog_id: DialogId, member: &Member) {
        self.before.entry((user_id, dialog_id)).or_insert((member.unread, member.read_seq));
    }

    fn conclude(mut self, state: &mut State) -> Effects {
        for ((user_id, dialog_id), (was, was_read)) in self.before {
            let dialog = &state.dialogs[&dialog_id];
            let Member { unread, read_seq, .. } = dialog.members[&user_id];
            if (was, was_read) == (unread, read_seq) {
                continue;
            }
            if read_seq != was_read {
                self.effects.reads.push(Reading { user_id, dialog_id, read_seq });
            }
            if self.effects.changes.last().is_none_or(|change| change.user_id != user_id) {
                let version = state.users.entry(user_id).or_default();
                *version += 1;
                self.effects.changes.push(UnreadChange { user_id, version: *version, rows: Vec::new() });
            }
            let row = ChangedRow { dialog_id, unread, was, read_seq, last_seq: dialog.applied.last_seq };
            self.effects.changes.last_mut().expect("pushed above").rows.push(row);
        }
        for change in &mut self.effects.changes {
            change.rows.sort_by_key(|row| (-state.dialogs[&row.dialog_id].applied.last_at_us, row.dialog_id));
        }
        self.effects
    }
}
