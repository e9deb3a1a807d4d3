//! Fields of an event for operators: ids, versions and numbers, never a text that a user wrote.

use proto::events::{
    CountRefused, Counted, DeadLetter, MessageCommitted, MessageDeleted, MessageFailed, MessageSent,
    ParticipantJoined, ParticipantLeft, ReadMarked, SessionRevoked, UnreadChanged, UserLoggedIn, event::Kind,
};
use serde_json::{Value, json};
use uuid::Uuid;

/// Fields by name, in the order in which they are printed.
pub(super) type Fields = Vec<(&'static str, Value)>;

/// Formats an id; invalid bytes as they are, in hexadecimal digits.
fn id(bytes: &[u8]) -> Value {
    match Uuid::from_slice(bytes) {
        Ok(id) => json!(id.to_string()),
        Err(_) => json!(db::hexadecimal(bytes)),
    }
}

/// Returns the fields of an event, without the version and the key, which every record has.
pub(super) fn of(kind: &Kind) -> Fields {
    match kind {
        Kind::UserRegistered(_) | Kind::UserRenamed(_) | Kind::DialogCreated(_) | Kind::DialogRenamed(_) => {
            Vec::new()
        }
        Kind::UserLoggedIn(UserLoggedIn { session_id, .. }) => vec![("session", id(session_id))],
        Kind::SessionRevoked(SessionRevoked { session_ids, .. }) => {
            vec![("sessions", session_ids.iter().map(|session_id| id(session_id)).collect())]
        }
        Kind::ParticipantJoined(ParticipantJoined { user_id, joined_seq, .. }) => {
            vec![("user", id(user_id)), ("joined_seq", json!(joined_seq))]
        }
        Kind::ParticipantLeft(ParticipantLeft { user_id, .. }) => vec![("user", id(user_id))],
        Kind::MessageSent(MessageSent { message_id, seq, sender_id, transaction_id, read_up_to, .. }) => {
            let mut fields = message(message_id, *seq, sender_id);
            fields.push(("transaction", id(transaction_id)));
            if *read_up_to > 0 {
                fields.push(("read_up_to", json!(read_up_to)));
            }
            fields
        }
        Kind::MessageCommitted(MessageCommitted { message_id, seq, sender_id, .. })
        | Kind::MessageFailed(MessageFailed { message_id, seq, sender_id, .. })
        | Kind::MessageDeleted(MessageDeleted { message_id, seq, sender_id, .. }) => {
            message(message_id, *seq, sender_id)
        }
        Kind::Counted(Counted { seq, message_id, .. }) => {
            vec![("message", id(message_id)), ("seq", json!(seq))]
        }
        Kind::CountRefused(CountRefused { seq, message_id, reason, .. }) => {
            vec![("message", id(message_id)), ("seq", json!(seq)), ("reason", json!(reason))]
        }
        Kind::ReadMarked(ReadMarked { user_id, read_seq, .. }) => {
            vec![("user", id(user_id)), ("read_seq", json!(read_seq))]
        }
        Kind::UnreadChanged(event) => unread(event),
        Kind::DialogEpochRaised(event) | Kind::UnreadEpochRaised(event) => {
            vec![("epoch", json!(event.epoch))]
        }
        Kind::DeadLetter(letter) => dead_letter(letter),
    }
}

fn message(message_id: &[u8], seq: i64, sender_id: &[u8]) -> Fields {
    vec![("message", id(message_id)), ("seq", json!(seq)), ("sender", id(sender_id))]
}

fn unread(event: &UnreadChanged) -> Fields {
    let rows = event.rows.iter().map(|row| {
        json!({
            "dialog": id(&row.dialog_id), "unread": row.unread, "was": row.was, "read_seq": row.read_seq,
            "last_seq": row.last_seq, "stale": row.stale,
        })
    });
    let version = |number| json!(format!("{}-{number}", event.epoch));
    vec![
        ("counts", version(event.version)),
        ("previous", version(event.previous)),
        ("stale", json!(event.stale)),
        ("rows", rows.collect()),
    ]
}

fn dead_letter(letter: &DeadLetter) -> Fields {
    let of = Kind::decode(&letter.payload);
    vec![
        ("origin", json!(format!("{}/{}@{}", letter.topic, letter.partition, letter.offset))),
        ("event", json!(of.as_ref().map_or("undecodable", Kind::name))),
        ("consumer", json!(letter.consumer)),
        ("error", json!(letter.error)),
        ("bytes", json!(letter.payload.len())),
    ]
}
