//! Effects of a transaction, and their recorder, which compares the rows before and after it.

use std::collections::BTreeMap;

use proto::{DialogId, MessageId, UserId};

use super::{Dialog, Member, Membership, State};

/// Effects of one transaction, to be published.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Effects {
    /// A reply for each message sent, in the order of the inputs.
    pub replies: Vec<SagaReply>,
    /// Read pointers that moved, except those of users who left, sorted by user and dialog.
    pub read_marks: Vec<ReadMark>,
    /// Changes of users' counts, sorted by user; at most one for each user.
    pub changes: Vec<UnreadChange>,
    /// Indexes of inputs whose message claims a `seq` that another message has. They become dead
    /// letters.
    pub divergences: Vec<usize>,
}

/// Reply to the message's saga: counted or refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SagaReply {
    /// Dialog of the message.
    pub dialog_id: DialogId,
    /// Sequence number of the message.
    pub seq: i64,
    /// The message.
    pub message_id: MessageId,
    /// Reason of the refusal; `None` if the message was counted. A deleted message is reported as
    /// counted, since its author did send it.
    pub refused: Option<String>,
}

/// Read pointer that moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadMark {
    /// The reader.
    pub user_id: UserId,
    /// Dialog that was read.
    pub dialog_id: DialogId,
    /// New pointer, inclusive.
    pub read_seq: i64,
}

/// One version step of a user's counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadChange {
    /// User whose counts changed.
    pub user_id: UserId,
    /// Version after the change; the previous version is one less.
    pub version: i64,
    /// Rows that changed, newest activity first.
    pub rows: Vec<ChangedRow>,
    /// True if events of one of the user's dialogs are missing, so that the total may be wrong.
    pub stale: bool,
}

/// Counts of one dialog that changed, as absolute numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangedRow {
    /// The dialog.
    pub dialog_id: DialogId,
    /// Unread messages after the change.
    pub unread: i64,
    /// Unread messages before the change. The difference keeps a client's total exact.
    pub was: i64,
    /// Read pointer after the change.
    pub read_seq: i64,
    /// Newest message of the dialog in the ledger. Advisory: it may change without a version step.
    pub last_seq: i64,
    /// True if events of the dialog are missing, so that its numbers may be wrong.
    pub stale: bool,
}

/// Collects the effects of one transaction: replies and divergences as they occur, changed rows by
/// comparing each touched row with its values before the transaction.
#[derive(Debug, Default)]
pub(crate) struct EffectRecorder {
    /// Index of the input that is being applied.
    pub(super) input: usize,
    pub(super) effects: Effects,
    /// Every touched row before the transaction.
    pub(super) before: BTreeMap<(UserId, DialogId), RowValues>,
    /// Dialogs whose gaps opened or closed, and if they had gaps before the transaction.
    stale_before: BTreeMap<DialogId, bool>,
}

/// Values of a row whose changes are published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RowValues {
    unread: i64,
    pub(super) read_seq: i64,
    is_joined: bool,
}

impl RowValues {
    fn of(member: &Member) -> Self {
        Self { unread: member.unread, read_seq: member.read_seq, is_joined: member.is_joined() }
    }
}

impl EffectRecorder {
    /// Records a row's values before the transaction. Call it before each change of a row; only the
    /// first call counts.
    pub(crate) fn record_before(&mut self, user_id: UserId, dialog_id: DialogId, member: &Member) {
        self.before.entry((user_id, dialog_id)).or_insert(RowValues::of(member));
    }

    /// Records that the gaps of a dialog opened or closed. It concerns all who take part.
    pub(super) fn record_stale_before(&mut self, dialog_id: DialogId, was_stale: bool, dialog: &Dialog) {
        self.stale_before.entry(dialog_id).or_insert(was_stale);
        for (user_id, member) in dialog.members.iter().filter(|(_, member)| member.is_joined()) {
            self.record_before(*user_id, dialog_id, member);
        }
    }

    /// Compares the touched rows with their values before, increments the version of each user with a
    /// changed row, and returns all effects. A row that ends with its former values is no change,
    /// whatever happened in between.
    pub(super) fn finish(mut self, state: &mut State) -> Effects {
        for ((user_id, dialog_id), before) in self.before {
            let dialog = &state.dialogs[&dialog_id];
            let now = RowValues::of(&dialog.members[&user_id]);
            let stale = now.is_joined && dialog.is_stale();
            let was_stale = self.stale_before.get(&dialog_id).copied().unwrap_or(dialog.is_stale());
            if before == now && (before.is_joined && was_stale) == stale {
                continue;
            }
            let RowValues { unread, read_seq, .. } = now;
            // The others see receipts of participants only.
            if read_seq != before.read_seq && dialog.members[&user_id].membership != Membership::Left {
                self.effects.read_marks.push(ReadMark { user_id, dialog_id, read_seq });
            }
            if self.effects.changes.last().is_none_or(|change| change.user_id != user_id) {
                let version = state.users.entry(user_id).or_default();
                *version += 1;
                let version = *version;
                let stale = is_stale(state, user_id);
                self.effects.changes.push(UnreadChange { user_id, version, rows: Vec::new(), stale });
            }
            let was = before.unread;
            let last_seq = state.dialogs[&dialog_id].applied.last_seq;
            let row = ChangedRow { dialog_id, unread, was, read_seq, last_seq, stale };
            self.effects.changes.last_mut().expect("a change of this user was pushed above").rows.push(row);
        }
        for change in &mut self.effects.changes {
            change.rows.sort_by_key(|row| (-state.dialogs[&row.dialog_id].applied.last_at_us, row.dialog_id));
        }
        self.effects
    }
}

/// Returns true if events of one of the user's dialogs are missing.
fn is_stale(state: &State, user_id: UserId) -> bool {
    let takes_part = |dialog: &Dialog| dialog.members.get(&user_id).is_some_and(Member::is_joined);
    state.dialogs.values().any(|dialog| dialog.is_stale() && takes_part(dialog))
}
