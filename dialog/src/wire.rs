//! Conversions from domain types to protobuf messages.

use proto::{UserId, dialog as wire};

use crate::{
    change::{LiveMessages, Replay, Version},
    dialog::Dialog,
    history::History,
    message::Message,
    store::change::{Change, ChangedRow},
};

impl From<Dialog> for wire::Dialog {
    fn from(dialog: Dialog) -> Self {
        Self {
            id: dialog.id.bytes(),
            title: dialog.title,
            direct: dialog.direct,
            participant_ids: dialog.participants.into_iter().map(UserId::bytes).collect(),
            created_at_us: dialog.created_at_us,
            last_activity_us: dialog.last_activity_us,
            last_message: dialog.last_message.map(Into::into),
        }
    }
}

impl From<Message> for wire::Message {
    fn from(message: Message) -> Self {
        Self {
            id: message.id.bytes(),
            dialog_id: message.dialog_id.bytes(),
            seq: message.seq,
            sender_id: message.author_id.bytes(),
            text: message.text,
            status: message.status.wire(),
            failure_reason: message.failure_reason,
            transaction_id: message.transaction_id.bytes(),
            created_at_us: message.created_at_us,
            deleted_at_us: message.deleted_at_us,
            version: message.version,
        }
    }
}

impl From<History> for wire::HistoryPageReply {
    fn from(history: History) -> Self {
        Self {
            found: true,
            messages: convert_all(history.messages),
            has_next: history.has_next,
            has_previous: history.has_previous,
        }
    }
}

impl From<Version> for wire::Version {
    fn from(version: Version) -> Self {
        Self { epoch: version.epoch, number: version.number }
    }
}

impl From<Replay> for wire::MessagesSinceReply {
    fn from(replay: Replay) -> Self {
        Self { head: Some(replay.head.into()), messages: convert_all(replay.messages), reset: replay.reset }
    }
}

impl From<LiveMessages> for wire::LiveReply {
    fn from(live: LiveMessages) -> Self {
        Self {
            head: Some(live.head.into()),
            messages: convert_all(live.messages),
            member_ids: live.members.into_iter().map(UserId::bytes).collect(),
        }
    }
}

impl From<Change> for wire::Change {
    fn from(change: Change) -> Self {
        let row = match change.row {
            ChangedRow::Message {
                id,
                seq,
                author_id,
                transaction_id,
                status,
                deleted,
                created_at_us,
                read_up_to,
            } => wire::change::Row::Message(wire::MessageChange {
                message_id: id.bytes(),
                seq,
                sender_id: author_id.bytes(),
                transaction_id: transaction_id.bytes(),
                status: status.wire(),
                deleted,
                created_at_us,
                read_up_to,
            }),
            ChangedRow::Membership { user_id, joined_seq, left } => {
                wire::change::Row::Membership(wire::MembershipChange {
                    user_id: user_id.bytes(),
                    joined_seq,
                    left,
                })
            }
        };
        Self { version: change.version, row: Some(row) }
    }
}

/// Converts each element of a list.
pub(crate) fn convert_all<T, W: From<T>>(list: Vec<T>) -> Vec<W> {
    list.into_iter().map(Into::into).collect()
}
