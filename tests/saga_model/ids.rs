//! Fixed ids of the users, dialogs and messages of the model. Messages and dialogs are numbered from 0.

use proto::{DialogId, MessageId, TransactionId, UserId};
use uuid::Uuid;

/// Writer of all messages.
pub const AUTHOR: UserId = UserId::new(Uuid::from_u128(1));
/// User whose counts are cached and sent to the device.
pub const READER: UserId = UserId::new(Uuid::from_u128(2));

/// Returns the id of a dialog.
pub const fn dialog(number: usize) -> DialogId {
    DialogId::new(Uuid::from_u128(0x100 + number as u128))
}

/// Returns the id of a message.
pub const fn message(number: usize) -> MessageId {
    MessageId::new(Uuid::from_u128(0x200 + number as u128))
}

/// Returns the id of a message's saga.
pub const fn transaction(number: usize) -> TransactionId {
    TransactionId::new(Uuid::from_u128(0x300 + number as u128))
}

/// Returns the number of the message with this id.
pub fn message_number(id: &[u8]) -> usize {
    let id = MessageId::parse(id).expect("the events of the model have valid ids");
    usize::try_from(id.uuid().as_u128() - 0x200).expect("the number of a message is small")
}
