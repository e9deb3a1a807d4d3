//! Explanation of a count: exactly the messages that it counts.

use db::Db;
use proto::{DialogId, MessageId, UserId};

use crate::{Error, kernel::Membership, store::dialog_state};

/// Explanation of a user's count in a dialog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// Stored count.
    pub unread: i64,
    /// Messages up to this `seq` are read.
    pub read_seq: i64,
    /// Membership of the user; only messages after `Joined` count.
    pub membership: Membership,
    /// Version of the dialog up to which events were applied.
    pub applied: i64,
    /// True if events are missing, so that the count may be wrong.
    pub stale: bool,
    /// Messages that the count consists of, in order.
    pub messages: Vec<UnreadMessage>,
}

/// Message that counts as unread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnreadMessage {
    /// Sequence number in the dialog.
    pub seq: i64,
    /// Message.
    pub message_id: MessageId,
    /// Author.
    pub author_id: UserId,
}

/// Explains a count, in one snapshot.
pub(super) async fn explain(
    db: &Db,
    user_id: UserId,
    dialog_id: DialogId,
) -> Result<Option<Explanation>, Error> {
    let mut tx = db.snapshot().await?;
    let dialog = dialog_state::load(&mut tx, &[dialog_id]).await?.remove(&dialog_id);
    tx.rollback().await?;
    let Some(dialog) = dialog else { return Ok(None) };
    let Some(member) = dialog.members.get(&user_id) else { return Ok(None) };
    let messages = member.unread_messages(user_id, &dialog.ledger).map(|(seq, entry)| UnreadMessage {
        seq,
        message_id: entry.message_id,
        author_id: entry.author_id,
    });
    Ok(Some(Explanation {
        unread: member.unread,
        read_seq: member.read_seq,
        membership: member.membership,
        applied: dialog.applied.version,
        stale: dialog.is_stale(),
        messages: messages.collect(),
    }))
}
