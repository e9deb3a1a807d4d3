//! Counter: consumes the events of dialog, settles overdue messages and reads for the reader, each in one
//! transaction of the kernel with its offset and its outbox rows.

use std::slice;

use counter::{
    event,
    kernel::{self, Change, Effects, Input, State, ledger::EntryState},
    rules::{Epoch, Outcome, Request, Row, Unread, Version, saga_reply, unread_changed},
};
use proto::events::MessageSent;

use crate::{
    bounds::Fault,
    dialog::FIRST_VERSION,
    ids,
    log::{Log, Outbox, Record, Topic},
};

/// Epoch of all versions: no database is restored.
pub const EPOCH: i64 = 1;
/// Reason of a refusal.
const REASON: &str = "refused by the database";

/// Counter with its database and the state of its process.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Counter {
    /// Ledgers, members and versions.
    pub state: State,
    /// Outbox and relay.
    pub outbox: Outbox,
    /// Counts of the reader at each version so far, for the properties.
    pub history: Vec<Unread>,
    /// True if a record was delivered a second time.
    pub has_repeated: bool,
    /// Topics that have a consumer in the model. Others are not written.
    topics: Vec<Topic>,
    /// Record whose offset a faulty counter has stored, and whose effect it has not.
    unapplied: Option<Record>,
}

impl Counter {
    /// Creates a counter that has applied the joins of both users.
    pub fn new(dialogs: usize, topics: Vec<Topic>) -> Self {
        let mut state = State::default();
        let mut inputs = Vec::from([ids::AUTHOR, ids::READER].map(Input::Registered));
        for dialog in 0..dialogs {
            let dialog_id = ids::dialog(dialog);
            inputs.push(Input::Dialog { dialog_id, version: Some(1), change: Change::VersionOnly });
            for (version, user_id) in (2..=FIRST_VERSION).zip([ids::AUTHOR, ids::READER]) {
                let change = Change::Joined { user_id, version, joined_seq: 0 };
                inputs.push(Input::Dialog { dialog_id, version: Some(version), change });
            }
        }
        kernel::transact(&mut state, &inputs);
        let first = unread(&state);
        Self {
            state,
            outbox: Outbox::default(),
            history: vec![first],
            has_repeated: false,
            topics,
            unapplied: None,
        }
    }

    /// Returns the counts of the reader in the database.
    pub fn unread(&self) -> &Unread {
        self.history.last().expect("the history starts with the first version")
    }

    /// Applies the next records of the log in one transaction. `refuses`: the database refuses the first
    /// message that is new. Returns false if that is not possible.
    pub fn count(&mut self, log: &mut Log, records: usize, refuses: bool, fault: Option<Fault>) -> bool {
        if fault == Some(Fault::OffsetBeforeEffect) {
            return self.count_after_offset(log, refuses);
        }
        let mut inputs: Vec<Input> = log.events.iter().take(records).flat_map(decode).collect();
        if log.events.len() < records || refuses && !self.refuse(&mut inputs) {
            return false;
        }
        log.events.drain(..records);
        let repeated = self.repeated(&inputs);
        self.has_repeated |= inputs.iter().any(|input| self.has_applied(input));
        let effects = kernel::transact(&mut self.state, &inputs);
        if fault == Some(Fault::NoLedgerCheck) {
            self.count_again(repeated);
        }
        self.publish(effects);
        true
    }

    /// Settles a message. Returns `None` if the message is to be refused and is not new.
    pub fn settle(&mut self, message: &MessageSent, refuses: bool, fault: Option<Fault>) -> Option<Outcome> {
        let request = Request::decode(slice::from_ref(message));
        let mut refusal = request.inputs.clone();
        let is_new = self.refuse(&mut refusal);
        if refuses && !is_new {
            return None;
        }
        if is_new && fault == Some(Fault::NoLateCount) {
            return Some(Outcome::Unknown);
        }
        let before = self.state.clone();
        let inputs = if refuses { &refusal } else { &request.inputs };
        let mut effects = kernel::transact(&mut self.state, inputs);
        let outcome = request.outcomes(&mut effects).pop();
        if refuses && fault == Some(Fault::NoTombstone) {
            self.state = before;
        } else {
            self.publish(effects);
        }
        outcome
    }

    /// Marks a dialog as read for the reader. Returns false if that moves nothing.
    pub fn read(&mut self, dialog: usize, up_to: i64) -> bool {
        let change = Change::Read { user_id: ids::READER, up_to };
        let input = Input::Dialog { dialog_id: ids::dialog(dialog), version: None, change };
        let effects = kernel::transact(&mut self.state, &[input]);
        let moves = !effects.changes.is_empty();
        self.publish(effects);
        moves
    }

    /// Crashes the process, whose relay has published some rows and not deleted them.
    pub fn crash(&mut self, published: usize, log: &mut Log, fault: Option<Fault>) {
        self.outbox.crash(published, log, fault);
        self.unapplied = None;
    }

    /// Returns true if no event is left to be applied.
    pub fn is_at_end(&self, log: &Log) -> bool {
        log.events.is_empty() && self.unapplied.is_none()
    }

    /// Returns the state of a message's entry in the ledger.
    pub fn entry(&self, dialog: usize, seq: i64) -> Option<&EntryState> {
        self.state.dialogs[&ids::dialog(dialog)].ledger.get(&seq).map(|entry| &entry.state)
    }

    /// Returns the number of refused messages.
    pub fn refused(&self) -> usize {
        let ledgers = self.state.dialogs.values().map(|dialog| &dialog.ledger);
        ledgers.flat_map(|ledger| ledger.values()).filter(|entry| entry.state.refusal().is_some()).count()
    }

    /// Writes the effects to the outbox. The model follows the counts of the reader only, and no read
    /// marks.
    fn publish(&mut self, effects: Effects) {
        for reply in effects.replies.into_iter().filter(|_| self.topics.contains(&Topic::Counter)) {
            self.outbox.append(Topic::Counter, Record::new(saga_reply(reply).payload()));
        }
        let epoch = Epoch { number: EPOCH, is_cut: false };
        if !self.topics.contains(&Topic::Unread) {
            self.history = vec![unread(&self.state)];
            return;
        }
        for change in effects.changes.into_iter().filter(|change| change.user_id == ids::READER) {
            self.outbox.append(Topic::Unread, Record::new(unread_changed(epoch, change).payload()));
        }
        let unread = unread(&self.state);
        if unread.version != self.unread().version {
            self.history.push(unread);
        }
    }

    /// Replaces the first new message by its refusal. Returns false if no message is new.
    fn refuse(&self, inputs: &mut [Input]) -> bool {
        for input in inputs {
            if let Input::Dialog { dialog_id, change, .. } = input
                && let Change::Sent(message, _) = change
                && !self.state.dialogs[dialog_id].ledger.contains_key(&message.seq)
            {
                *change = Change::Refused(*message, REASON.to_owned());
                return true;
            }
        }
        false
    }

    /// Stores the offset of the next record, and its effect in a later step: the planted fault.
    fn count_after_offset(&mut self, log: &mut Log, refuses: bool) -> bool {
        let Some(record) = self.unapplied.take() else {
            if !refuses {
                self.unapplied = log.events.pop_front();
            }
            return self.unapplied.is_some();
        };
        let mut inputs = decode(&record);
        if refuses && !self.refuse(&mut inputs) {
            return false;
        }
        let effects = kernel::transact(&mut self.state, &inputs);
        self.publish(effects);
        true
    }

    /// Returns true if an event was applied before, by its version.
    fn has_applied(&self, input: &Input) -> bool {
        matches!(input, Input::Dialog { dialog_id, version: Some(version), .. }
            if self.state.dialogs[dialog_id].applied.has_applied(*version))
    }

    /// Returns the sent messages that count already.
    fn repeated(&self, inputs: &[Input]) -> Vec<Input> {
        let counts = |input: &&Input| match input {
            Input::Dialog { dialog_id, change: Change::Sent(message, _), .. } => {
                let entry = self.state.dialogs[dialog_id].ledger.get(&message.seq);
                entry.is_some_and(|entry| entry.state == EntryState::Counted)
            }
            _ => false,
        };
        inputs.iter().filter(counts).cloned().collect()
    }

    /// Adds messages to the reader's counts a second time: the planted fault.
    fn count_again(&mut self, repeated: Vec<Input>) {
        for input in repeated {
            if let Input::Dialog { dialog_id, .. } = input
                && let Some(dialog) = self.state.dialogs.get_mut(&dialog_id)
                && let Some(member) = dialog.members.get_mut(&ids::READER)
            {
                member.unread += 1;
            }
        }
    }
}

fn decode(record: &Record) -> Vec<Input> {
    event::decode(record.payload()).expect("every event of dialog is valid")
}

/// Returns the counts of the reader, computed from the rows of a state.
fn unread(state: &State) -> Unread {
    let number = state.users.get(&ids::READER).copied().unwrap_or_default();
    let mut rows = Vec::new();
    let mut stale = false;
    for (dialog_id, dialog) in &state.dialogs {
        let member = &dialog.members[&ids::READER];
        stale |= dialog.is_stale();
        if member.unread > 0 {
            rows.push(Row {
                dialog_id: *dialog_id,
                unread: member.unread,
                read_seq: member.read_seq,
                last_seq: dialog.applied.last_seq,
                stale: dialog.is_stale(),
            });
        }
    }
    let total = rows.iter().map(|row| row.unread).sum();
    Unread { version: Version { epoch: EPOCH, number }, total, rows, truncated: false, stale }
}
