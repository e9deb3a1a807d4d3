//! Simulated dialog: builds the events that the dialog service would publish, with correct versions and
//! sequence numbers.

use proto::{
    DialogId, MessageId, UserId,
    events::{DialogCreated, MessageDeleted, MessageSent, ParticipantJoined, ParticipantLeft, event::Kind},
    topic,
};

use crate::app::TestApp;

/// One dialog with its current version and sequence number.
pub(crate) struct SimulatedDialog {
    pub(crate) id: DialogId,
    pub(crate) version: i64,
    seq: i64,
}

impl SimulatedDialog {
    /// Creates a dialog of these users and publishes its creation and their joins.
    pub(crate) async fn create(app: &TestApp, users: &[UserId]) -> Self {
        let mut dialog = Self { id: DialogId::now(), version: 1, seq: 0 };
        let created = DialogCreated { dialog_id: dialog.id.bytes(), version: 1 };
        let mut events = vec![Kind::DialogCreated(created)];
        events.extend(users.iter().map(|user_id| dialog.join(*user_id)));
        app.publish(topic::DIALOG, events).await;
        dialog
    }

    /// Returns a dialog that the counter has not heard of.
    pub(crate) fn unpublished() -> Self {
        Self { id: DialogId::now(), version: 1, seq: 0 }
    }

    /// Increments the version and returns it.
    pub(crate) fn next_version(&mut self) -> i64 {
        self.version += 1;
        self.version
    }

    pub(crate) fn join(&mut self, user_id: UserId) -> Kind {
        Kind::ParticipantJoined(ParticipantJoined {
            dialog_id: self.id.bytes(),
            version: self.next_version(),
            user_id: user_id.bytes(),
            joined_seq: self.seq,
        })
    }

    pub(crate) fn leave(&mut self, user_id: UserId) -> Kind {
        Kind::ParticipantLeft(ParticipantLeft {
            dialog_id: self.id.bytes(),
            version: self.next_version(),
            user_id: user_id.bytes(),
        })
    }

    pub(crate) fn message(&mut self, sender: UserId) -> MessageSent {
        self.seq += 1;
        MessageSent {
            dialog_id: self.id.bytes(),
            version: self.next_version(),
            message_id: MessageId::now().bytes(),
            seq: self.seq,
            sender_id: sender.bytes(),
            transaction_id: vec![1; 16],
            created_at_us: self.seq * 1_000,
            read_up_to: 0,
        }
    }

    pub(crate) fn delete(&mut self, message: &MessageSent) -> Kind {
        Kind::MessageDeleted(MessageDeleted {
            dialog_id: self.id.bytes(),
            version: self.next_version(),
            message_id: message.message_id.clone(),
            seq: message.seq,
            sender_id: message.sender_id.clone(),
        })
    }
}
