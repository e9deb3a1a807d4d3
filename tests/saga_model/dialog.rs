//! Dialog: stores messages, deletes them and settles their sagas. The transition of a status and its event
//! are those of the service.

use std::collections::{BTreeMap, HashMap};

use counter::rules::Outcome as Settled;
use dialog::rules::{LockedDialog, Outcome, Reply, SagaState, Status, transition};
use events::Headers;
use proto::events::{CountRefused, Counted, MessageDeleted, MessageSent, event::Kind};

use crate::{
    bounds::Fault,
    ids,
    log::{Log, Outbox, Record, Topic},
};

/// Version of a dialog when the model starts: it was created and both users have joined.
pub const FIRST_VERSION: i64 = 3;

/// Stored message. Its number is its place in the list.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Message {
    /// Client key that the message was sent with.
    pub key: usize,
    /// Number of its dialog.
    pub dialog: usize,
    /// Sequence number in the dialog.
    pub seq: i64,
    /// Status of its saga.
    pub status: Status,
    /// True if it was deleted.
    pub is_deleted: bool,
    /// The MessageSent event.
    sent: Record,
}

/// Dialog with its database and the state of its process.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Dialog {
    /// Messages, oldest first.
    pub messages: Vec<Message>,
    versions: Vec<i64>,
    /// Outbox and relay.
    pub outbox: Outbox,
    /// True if a reply contradicted the status of its message.
    pub is_contradicted: bool,
    /// Answer of the counter to `Settle`, with its message. A crash loses it.
    pub answer: Option<(usize, Settled)>,
    has_sweeper: bool,
}

impl Dialog {
    /// Creates dialogs without messages.
    pub fn new(dialogs: usize, has_sweeper: bool) -> Self {
        Self {
            messages: Vec::new(),
            versions: vec![FIRST_VERSION; dialogs],
            outbox: Outbox::default(),
            is_contradicted: false,
            answer: None,
            has_sweeper,
        }
    }

    /// Sends a message, or does nothing if the key was used before.
    pub fn send(&mut self, key: usize, fault: Option<Fault>) -> bool {
        let is_claimed = self.messages.iter().any(|message| message.key == key);
        if is_claimed && fault != Some(Fault::UnclaimedKey) {
            return false;
        }
        let number = self.messages.len();
        let dialog = key % self.versions.len();
        let seq = 1 + self.messages.iter().filter(|message| message.dialog == dialog).count() as i64;
        let mut locked = self.lock(dialog);
        let event = message_sent(number, dialog, seq, locked.next_version());
        let sent = Record::new(Kind::MessageSent(event.clone()).payload());
        locked.record(Kind::MessageSent(event), &Headers::default());
        self.save(dialog, locked);
        self.messages.push(Message { key, dialog, seq, status: Status::Pending, is_deleted: false, sent });
        true
    }

    /// Deletes a message, or does nothing if it is deleted already.
    pub fn delete(&mut self, number: usize) -> bool {
        let Some(message) = self.messages.get_mut(number) else { return false };
        if std::mem::replace(&mut message.is_deleted, true) {
            return false;
        }
        let dialog = message.dialog;
        let seq = message.seq;
        let mut locked = self.lock(dialog);
        let event = MessageDeleted {
            dialog_id: ids::dialog(dialog).bytes(),
            version: locked.next_version(),
            message_id: ids::message(number).bytes(),
            seq,
            sender_id: ids::AUTHOR.bytes(),
        };
        locked.record(Kind::MessageDeleted(event), &Headers::default());
        self.save(dialog, locked);
        true
    }

    /// Consumes the next reply of the counter.
    pub fn consume(&mut self, log: &mut Log) -> bool {
        let Some(record) = log.replies.pop_front() else { return false };
        match record.kind() {
            Kind::Counted(Counted { message_id, .. }) => {
                self.settle(ids::message_number(&message_id), Outcome::Counted);
            }
            Kind::CountRefused(CountRefused { message_id, reason, .. }) => {
                self.settle(ids::message_number(&message_id), Outcome::Refused(reason));
            }
            _ => {}
        }
        true
    }

    /// Returns the messages that the sweeper asks for, with their MessageSent events. The deadline may be
    /// over at any time.
    pub fn overdue(&self) -> impl Iterator<Item = (usize, MessageSent)> {
        let overdue = self.messages.iter().enumerate().filter(move |(_, message)| {
            self.has_sweeper && message.status == Status::Pending && !self.outbox.contains(&message.sent)
        });
        overdue.map(|(number, message)| (number, message_sent(number, message.dialog, message.seq, 1)))
    }

    /// Applies the answer of the counter to `Settle`.
    pub fn apply_answer(&mut self) -> bool {
        let Some((number, settled)) = self.answer.take() else { return false };
        match settled {
            Settled::Counted => self.settle(number, Outcome::Counted),
            Settled::Refused(reason) => self.settle(number, Outcome::Refused(reason)),
            Settled::Unknown => {}
        }
        true
    }

    /// Crashes the process, whose relay has published some rows and not deleted them.
    pub fn crash(&mut self, published: usize, log: &mut Log, fault: Option<Fault>) {
        self.outbox.crash(published, log, fault);
        self.answer = None;
    }

    /// Settles a message by the rule of the service.
    fn settle(&mut self, number: usize, outcome: Outcome) {
        let Message { dialog, seq, status, .. } = self.messages[number];
        let message_id = ids::message(number);
        let dialog_id = ids::dialog(dialog);
        let reply = Reply { dialog_id, seq, message_id, outcome, cause: Headers::default() };
        let state = SagaState { dialog_id, seq, author_id: ids::AUTHOR, status, age_us: 0 };
        let mut states = HashMap::from([(message_id, state)]);
        let mut dialogs = BTreeMap::from([(dialog_id, self.lock(dialog))]);
        match transition(&reply, &mut states, &mut dialogs) {
            Ok(None) => {}
            Ok(Some(_)) => {
                self.messages[number].status = states[&message_id].status;
                dialogs.into_values().for_each(|locked| self.save(dialog, locked));
            }
            Err(_) => self.is_contradicted = true,
        }
    }

    fn lock(&self, dialog: usize) -> LockedDialog {
        LockedDialog::new(ids::dialog(dialog), true, self.versions[dialog], 0, 0)
    }

    fn save(&mut self, dialog: usize, mut locked: LockedDialog) {
        self.versions[dialog] = locked.version();
        for event in locked.take_events() {
            self.outbox.append(Topic::Dialog, Record::new(event.payload));
        }
    }
}

fn message_sent(number: usize, dialog: usize, seq: i64, version: i64) -> MessageSent {
    MessageSent {
        dialog_id: ids::dialog(dialog).bytes(),
        version,
        message_id: ids::message(number).bytes(),
        seq,
        sender_id: ids::AUTHOR.bytes(),
        transaction_id: ids::transaction(number).bytes(),
        created_at_us: 1 + number as i64,
        read_up_to: 0,
    }
}
