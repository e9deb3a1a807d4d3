//! What the dialog service would tell of a dialog, step by step.

use proto::{
    DialogId, MessageId, UserId,
    events::{DialogCreated, MessageDeleted, MessageSent, ParticipantJoined, ParticipantLeft, event::Kind},
    topic,
};

use crate::world::World;

/// A dialog whose versions and seqs are counted here, as the dialog service would.
pub(crate) struct Talk {
    pub(crate) id: DialogId,
    pub(crate) version: i64,
    seq: i64,
}

impl Talk {
    pub(crate) async fn begin(world: &World, people: &[UserId]) -> Self {
        let mut talk = Self { id: DialogId::now(), version: 1, seq: 0 };
        let mut events = vec![Kind::DialogCreated(DialogCreated { dialog_id: talk.id.bytes(), version: 1 })];
        events.extend(people.iter().map(|person| talk.join(*person)));
        world.emit(topic::DIALOG, events).await;
        talk
    }

    pub(crate) fn step(&mut self) -> i64 {
        self.version += 1;
        self.version
    }

    pub(crate) fn join(&mut self, user_id: UserId) -> Kind {
        let (dialog_id, user_id, joined_seq) = (self.id.bytes(), user_id.bytes(), self.seq);
        Kind::ParticipantJoined(ParticipantJoined { dialog_id, version: self.step(), user_id, joined_seq })
    }

    pub(crate) fn leave(&mut self, user_id: UserId) -> Kind {
        let (dialog_id, user_id) = (self.id.bytes(), user_id.bytes());
        Kind::ParticipantLeft(ParticipantLeft { dialog_id, version: self.step(), user_id })
    }

    pub(crate) fn message(&mut self, sender: UserId) -> MessageSent {
        self.seq += 1;
        MessageSent {
            dialog_id: self.id.bytes(),
            version: self.step(),
            message_id: MessageId::now().bytes(),
            seq: self.seq,
            sender_id: sender.bytes(),
            transaction_id: vec![1; 16],
            created_at_us: self.seq * 1_000,
        }
    }

    pub(crate) fn delete(&mut self, message: &MessageSent) -> Kind {
        Kind::MessageDeleted(MessageDeleted {
            dialog_id: self.id.bytes(),
            version: self.step(),
            message_id: message.message_id.clone(),
            seq: message.seq,
            sender_id: message.sender_id.clone(),
        })
    }
}
