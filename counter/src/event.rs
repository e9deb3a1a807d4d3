//! Events of the log and changes that dialog tells, as the counter's own inputs. What is out of its bounds is impossible:
//! no service of ours writes it, and no repetition makes it right.

#![warn(clippy::indexing_slicing, clippy::panic)]

use proto::{
    DialogId, MessageId, UserId,
    dialog::{Change as DialogChange, MembershipChange, MessageChange, Status, change::Row},
    events::{MessageSent, event::Kind},
};

use crate::kernel::{Change, Input, ledger::Message};

/// Seqs, versions and times fit into a JSON number, and their sums into 64 bits.
pub const MAX: i64 = 1 << 53;

/// Why an event can never be applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Impossible(pub(crate) &'static str);

impl From<proto::InvalidId> for Impossible {
    fn from(_: proto::InvalidId) -> Self {
        Self("an id does not have 16 bytes")
    }
}

/// Reads the payload of a record. `None`: nothing that concerns the counter.
///
/// # Errors
/// [`Impossible`] for what belongs into the dead letters.
pub fn read(payload: &[u8]) -> Result<Option<Input>, Impossible> {
    let kind = Kind::read(payload).ok_or(Impossible("this is no event that this build knows"))?;
    let (dialog_id, version, change) = match &kind {
        Kind::UserRegistered(event) => return Ok(Some(Input::Registered(UserId::parse(&event.user_id)?))),
        Kind::UserLoggedIn(_) | Kind::UserRenamed(_) | Kind::SessionRevoked(_) => return Ok(None),
        Kind::DialogCreated(event) => (&event.dialog_id, event.version, Change::Nothing),
        Kind::MessageCommitted(event) => (&event.dialog_id, event.version, Change::Nothing),
        Kind::ParticipantJoined(event) => {
            (&event.dialog_id, event.version, joined(&event.user_id, event.version, event.joined_seq)?)
        }
        Kind::ParticipantLeft(event) => {
            let change = Change::Left { user_id: UserId::parse(&event.user_id)?, version: event.version };
            (&event.dialog_id, event.version, change)
        }
        Kind::MessageSent(event) => (&event.dialog_id, event.version, sent(event)?),
        Kind::MessageDeleted(event) => {
            let message = message(&event.message_id, event.seq, &event.sender_id)?;
            (&event.dialog_id, event.version, Change::Deleted(message))
        }
        Kind::MessageFailed(event) => {
            let message = message(&event.message_id, event.seq, &event.sender_id)?;
            (&event.dialog_id, event.version, Change::Failed(message))
        }
        Kind::Counted(_)
        | Kind::CountRefused(_)
        | Kind::ReadMarked(_)
        | Kind::UnreadChanged(_)
        | Kind::DeadLetter(_) => return Err(Impossible("this event does not belong into this topic")),
    };
    let version = Some(positive(version, "a version is not between 1 and 2^53")?);
    Ok(Some(Input::Dialog { dialog_id: DialogId::parse(dialog_id)?, version, change }))
}

/// A message sent, without its place in the log: to be settled.
///
/// # Errors
/// [`Impossible`] where it is out of bounds.
pub fn settled(event: &MessageSent) -> Result<Input, Impossible> {
    let change = sent(event)?;
    Ok(Input::Dialog { dialog_id: DialogId::parse(&event.dialog_id)?, version: None, change })
}

/// What a row of dialog amounts to that looks like this now.
///
/// # Errors
/// [`Impossible`] where it is out of bounds.
pub fn repaired(dialog_id: DialogId, change: &DialogChange) -> Result<Vec<Input>, Impossible> {
    let version = positive(change.version, "a version is not between 1 and 2^53")?;
    let changes = match change.row.as_ref().ok_or(Impossible("a change without a row"))? {
        Row::Message(row) => message_repaired(row)?,
        Row::Membership(row) => vec![membership_repaired(row, version)?],
    };
    Ok(changes.into_iter().map(|change| Input::Dialog { dialog_id, version: None, change }).collect())
}

/// A pending message wants its answer even where it is deleted, and a deletion that comes first counts nothing.
fn message_repaired(row: &MessageChange) -> Result<Vec<Change>, Impossible> {
    let message = message(&row.message_id, row.seq, &row.sender_id)?;
    let sent = Change::Sent(message, time(row.created_at_us)?);
    Ok(match (row.status(), row.deleted) {
        (Status::Failed, _) => vec![Change::Failed(message)],
        (Status::Pending, true) => vec![Change::Deleted(message), sent],
        (Status::Committed, true) => vec![Change::Deleted(message)],
        (Status::Pending | Status::Committed, false) => vec![sent],
        (Status::Unspecified, _) => return Err(Impossible("a message without a status")),
    })
}

fn membership_repaired(row: &MembershipChange, version: i64) -> Result<Change, Impossible> {
    if row.left {
        return Ok(Change::Left { user_id: UserId::parse(&row.user_id)?, version });
    }
    joined(&row.user_id, version, row.joined_seq)
}

fn joined(user_id: &[u8], version: i64, joined_seq: i64) -> Result<Change, Impossible> {
    if !(0..=MAX).contains(&joined_seq) {
        return Err(Impossible("a joined_seq is not between 0 and 2^53"));
    }
    Ok(Change::Joined { user_id: UserId::parse(user_id)?, version, joined_seq })
}

fn sent(event: &MessageSent) -> Result<Change, Impossible> {
    let message = message(&event.message_id, event.seq, &event.sender_id)?;
    Ok(Change::Sent(message, time(event.created_at_us)?))
}

fn message(id: &[u8], seq: i64, author_id: &[u8]) -> Result<Message, Impossible> {
    let seq = positive(seq, "a seq is not between 1 and 2^53")?;
    Ok(Message { seq, id: MessageId::parse(id)?, author_id: UserId::parse(author_id)? })
}

fn time(at_us: i64) -> Result<i64, Impossible> {
    if (0..=MAX).contains(&at_us) { Ok(at_us) } else { Err(Impossible("a time is not between 0 and 2^53")) }
}

fn positive(number: i64, otherwise: &'static str) -> Result<i64, Impossible> {
    if (1..=MAX).contains(&number) { Ok(number) } else { Err(Impossible(otherwise)) }
}

#[cfg(test)]
mod tests {
    use proto::events::{Counted, MessageCommitted, ParticipantJoined, UserRenamed};

    use super::*;

    fn message_sent(seq: i64, version: i64) -> MessageSent {
        MessageSent {
            dialog_id: vec![1; 16],
            version,
            message_id: vec![2; 16],
            seq,
            sender_id: vec![3; 16],
            transaction_id: vec![4; 16],
            created_at_us: 5,
        }
    }

    fn change(version: i64, row: Row) -> DialogChange {
        DialogChange { version, row: Some(row) }
    }

    fn of(inputs: Vec<Input>) -> Vec<Change> {
        let change = |input| match input {
            Input::Dialog { change, version: None, .. } => change,
            other => panic!("a repair moves no version: {other:?}"),
        };
        inputs.into_iter().map(change).collect()
    }

    #[test]
    fn an_event_of_a_dialog_is_a_step_of_its_version() {
        let payload = Kind::MessageSent(message_sent(7, 9)).payload();
        let Ok(Some(Input::Dialog { version: Some(9), change: Change::Sent(message, 5), .. })) =
            read(&payload)
        else {
            panic!("{:?}", read(&payload))
        };
        assert_eq!(message.seq, 7);
        let committed = MessageCommitted { dialog_id: vec![1; 16], version: 3, ..Default::default() };
        let input = read(&Kind::MessageCommitted(committed).payload()).unwrap();
        assert!(matches!(input, Some(Input::Dialog { version: Some(3), change: Change::Nothing, .. })));
        let renamed = Kind::UserRenamed(UserRenamed { user_id: vec![1; 16] });
        assert_eq!(read(&renamed.payload()), Ok(None));
    }

    #[test]
    fn what_is_out_of_bounds_is_impossible() {
        for sent in
            [message_sent(0, 1), message_sent(MAX + 1, 1), message_sent(1, 0), message_sent(1, i64::MAX)]
        {
            read(&Kind::MessageSent(sent).payload()).unwrap_err();
        }
        let short = MessageSent { sender_id: vec![3; 15], ..message_sent(1, 1) };
        read(&Kind::MessageSent(short).payload()).unwrap_err();
        let before_everything = MessageSent { created_at_us: -1, ..message_sent(1, 1) };
        settled(&before_everything).unwrap_err();
        let joined =
            ParticipantJoined { dialog_id: vec![1; 16], version: 1, user_id: vec![1; 16], joined_seq: -1 };
        read(&Kind::ParticipantJoined(joined).payload()).unwrap_err();
        read(b"\xff\xff").unwrap_err();
        read(&Kind::Counted(Counted::default()).payload()).unwrap_err();
    }

    #[test]
    fn a_row_of_dialog_is_what_its_events_amount_to() {
        let at = DialogId::now();
        let row = |status: Status, deleted| {
            let row = MessageChange {
                message_id: vec![2; 16],
                seq: 1,
                sender_id: vec![3; 16],
                transaction_id: vec![4; 16],
                status: status.into(),
                deleted,
                created_at_us: 5,
            };
            repaired(at, &change(4, Row::Message(row))).map(of)
        };
        assert!(matches!(row(Status::Pending, false).unwrap()[..], [Change::Sent(..)]));
        assert!(matches!(row(Status::Committed, false).unwrap()[..], [Change::Sent(..)]));
        assert!(matches!(row(Status::Pending, true).unwrap()[..], [Change::Deleted(_), Change::Sent(..)]));
        assert!(matches!(row(Status::Committed, true).unwrap()[..], [Change::Deleted(_)]));
        assert!(matches!(row(Status::Failed, false).unwrap()[..], [Change::Failed(_)]));
        assert!(matches!(row(Status::Failed, true).unwrap()[..], [Change::Failed(_)]));
        row(Status::Unspecified, false).unwrap_err();
        let membership = |left| MembershipChange { user_id: vec![3; 16], joined_seq: 6, left };
        let of = |left| of(repaired(at, &change(4, Row::Membership(membership(left)))).unwrap());
        assert!(matches!(of(false)[..], [Change::Joined { version: 4, joined_seq: 6, .. }]));
        assert!(matches!(of(true)[..], [Change::Left { version: 4, .. }]));
        repaired(at, &DialogChange { version: 1, row: None }).unwrap_err();
    }
}
