//! Decoder of events and of the dialog service's changes into inputs of the kernel. All values are
//! checked here; the kernel and the store rely on it. An invalid event becomes a dead letter, since no
//! service writes it and no retry can apply it.

#![warn(clippy::indexing_slicing, clippy::panic)]

use proto::{
    DialogId, MessageId, UserId,
    dialog::{Change as DialogChange, Status, change::Row},
    events::{MessageSent, event::Kind},
};

use crate::{
    derived::source::{Settlement, SourceMember, SourceMessage, SourceRow},
    kernel::{Change, Input, Membership, ledger::Message},
};

/// Maximum of sequence numbers, versions and times: every value up to it is exact in a JSON number, and
/// sums of a thousand values fit into 64 bits.
pub(crate) const NUMBER_MAX: i64 = 1 << 53;

/// Event that can never be applied. The text names the field and its limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidEvent(pub(crate) &'static str);

impl From<proto::InvalidId> for InvalidEvent {
    fn from(_: proto::InvalidId) -> Self {
        Self("an id must have 16 bytes")
    }
}

/// Decodes the payload of a record into the inputs that it stands for: none for an event that does not
/// concern the counter, two for a message whose author has read up to another one.
///
/// # Errors
/// [`InvalidEvent`] if the payload is malformed, of an unknown type, of another topic, or has a value
/// outside its limits.
pub fn decode(payload: &[u8]) -> Result<Vec<Input>, InvalidEvent> {
    let kind = Kind::decode(payload).ok_or(InvalidEvent("unknown or malformed event"))?;
    let mut read = None;
    let (dialog_id, version, change) = match &kind {
        Kind::UserRegistered(event) => return Ok(vec![Input::Registered(UserId::parse(&event.user_id)?)]),
        Kind::UserLoggedIn(_) | Kind::UserRenamed(_) | Kind::SessionRevoked(_) => return Ok(Vec::new()),
        Kind::DialogEpochRaised(_) => return Ok(Vec::new()),
        Kind::DialogCreated(event) => (&event.dialog_id, event.version, Change::VersionOnly),
        Kind::DialogRenamed(event) => (&event.dialog_id, event.version, Change::VersionOnly),
        Kind::MessageCommitted(event) => (&event.dialog_id, event.version, Change::VersionOnly),
        Kind::ParticipantJoined(event) => {
            (&event.dialog_id, event.version, joined(&event.user_id, event.version, event.joined_seq)?)
        }
        Kind::ParticipantLeft(event) => {
            let change = Change::Left { user_id: UserId::parse(&event.user_id)?, version: event.version };
            (&event.dialog_id, event.version, change)
        }
        Kind::MessageSent(event) => {
            read = read_by_author(&event.sender_id, event.seq, event.read_up_to)?;
            (&event.dialog_id, event.version, sent(event)?)
        }
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
        | Kind::UnreadEpochRaised(_)
        | Kind::DeadLetter(_) => return Err(InvalidEvent("event of another topic")),
    };
    let version = Some(positive(version, "version must be between 1 and 2^53")?);
    let dialog_id = DialogId::parse(dialog_id)?;
    let read = read.map(|change| Input::Dialog { dialog_id, version: None, change });
    Ok([Input::Dialog { dialog_id, version, change }].into_iter().chain(read).collect())
}

/// Converts a message that the dialog service asks to settle. The inputs have no version: they do not
/// come from the log, so they neither open nor close a gap.
///
/// # Errors
/// [`InvalidEvent`] if a value is outside its limits.
pub(crate) fn from_settle(event: &MessageSent) -> Result<Vec<Input>, InvalidEvent> {
    let dialog_id = DialogId::parse(&event.dialog_id)?;
    let read = read_by_author(&event.sender_id, event.seq, event.read_up_to)?;
    let changes = [sent(event)?].into_iter().chain(read);
    Ok(changes.map(|change| Input::Dialog { dialog_id, version: None, change }).collect())
}

/// Converts a changed row of the dialog service, fetched by a repair, into the inputs that lead to its
/// current state.
///
/// # Errors
/// [`InvalidEvent`] if a value is missing or outside its limits.
pub(crate) fn from_change(dialog_id: DialogId, change: &DialogChange) -> Result<Vec<Input>, InvalidEvent> {
    let changes = match row(change)? {
        SourceRow::Message(row) => {
            let read = (row.read_up_to > 0)
                .then_some(Change::Read { user_id: row.message.author_id, up_to: row.read_up_to });
            row.changes().into_iter().chain(read).collect()
        }
        SourceRow::Member(user_id, member) => vec![member.change(user_id)],
    };
    Ok(changes.into_iter().map(|change| Input::Dialog { dialog_id, version: None, change }).collect())
}

/// Parses a changed row of the dialog service.
///
/// # Errors
/// [`InvalidEvent`] if a value is missing or outside its limits.
pub(crate) fn row(change: &DialogChange) -> Result<SourceRow, InvalidEvent> {
    let version = positive(change.version, "version must be between 1 and 2^53")?;
    match change.row.as_ref().ok_or(InvalidEvent("a change must have a row"))? {
        Row::Message(row) => {
            let deleted = row.deleted;
            let settlement = match row.status() {
                Status::Pending => Settlement::Pending { deleted },
                Status::Committed => Settlement::Committed { deleted },
                Status::Failed => Settlement::Failed,
                Status::Unspecified => return Err(InvalidEvent("a message must have a status")),
            };
            read_by_author(&row.sender_id, row.seq, row.read_up_to)?;
            Ok(SourceRow::Message(SourceMessage {
                version,
                message: message(&row.message_id, row.seq, &row.sender_id)?,
                settlement,
                at_us: time(row.created_at_us)?,
                read_up_to: row.read_up_to,
            }))
        }
        Row::Membership(row) => {
            let user_id = UserId::parse(&row.user_id)?;
            let membership = match row.left {
                true => Membership::Left,
                false => Membership::Joined(valid_joined_seq(row.joined_seq)?),
            };
            Ok(SourceRow::Member(user_id, SourceMember { version, membership }))
        }
    }
}

fn joined(user_id: &[u8], version: i64, joined_seq: i64) -> Result<Change, InvalidEvent> {
    let joined_seq = valid_joined_seq(joined_seq)?;
    Ok(Change::Joined { user_id: UserId::parse(user_id)?, version, joined_seq })
}

fn valid_joined_seq(joined_seq: i64) -> Result<i64, InvalidEvent> {
    if (0..=NUMBER_MAX).contains(&joined_seq) {
        Ok(joined_seq)
    } else {
        Err(InvalidEvent("joined_seq must be between 0 and 2^53"))
    }
}
fn sent(event: &MessageSent) -> Result<Change, InvalidEvent> {
    let message = message(&event.message_id, event.seq, &event.sender_id)?;
    Ok(Change::Sent(message, time(event.created_at_us)?))
}

/// Returns the read of a message's author, who had seen everything up to `read_up_to` when sending it.
/// Applied whatever becomes of the message; 0 is no read.
fn read_by_author(author_id: &[u8], seq: i64, read_up_to: i64) -> Result<Option<Change>, InvalidEvent> {
    if !(0..seq.max(1)).contains(&read_up_to) {
        return Err(InvalidEvent("read_up_to must be a seq before the message"));
    }
    let user_id = UserId::parse(author_id)?;
    Ok((read_up_to > 0).then_some(Change::Read { user_id, up_to: read_up_to }))
}

fn message(id: &[u8], seq: i64, author_id: &[u8]) -> Result<Message, InvalidEvent> {
    let seq = positive(seq, "seq must be between 1 and 2^53")?;
    Ok(Message { seq, id: MessageId::parse(id)?, author_id: UserId::parse(author_id)? })
}

fn time(at_us: i64) -> Result<i64, InvalidEvent> {
    if (0..=NUMBER_MAX).contains(&at_us) {
        Ok(at_us)
    } else {
        Err(InvalidEvent("time must be between 0 and 2^53"))
    }
}

fn positive(number: i64, otherwise: &'static str) -> Result<i64, InvalidEvent> {
    if (1..=NUMBER_MAX).contains(&number) { Ok(number) } else { Err(InvalidEvent(otherwise)) }
}

#[cfg(test)]
mod tests {
    use proto::{
        dialog::{MembershipChange, MessageChange},
        events::{Counted, MessageCommitted, ParticipantJoined, UserRenamed},
    };

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
            read_up_to: 0,
        }
    }

    fn change_of(version: i64, row: Row) -> DialogChange {
        DialogChange { version, row: Some(row) }
    }

    fn changes(inputs: Vec<Input>) -> Vec<Change> {
        let change = |input| match input {
            Input::Dialog { change, version: None, .. } => change,
            other => panic!("a repaired change has no version: {other:?}"),
        };
        inputs.into_iter().map(change).collect()
    }

    #[test]
    fn an_event_carries_the_version_of_its_dialog() {
        let payload = Kind::MessageSent(message_sent(7, 9)).payload();
        let inputs = decode(&payload).unwrap();
        let [Input::Dialog { version: Some(9), change: Change::Sent(message, 5), .. }] = inputs[..] else {
            panic!("{inputs:?}")
        };
        assert_eq!(message.seq, 7);
        let committed = MessageCommitted { dialog_id: vec![1; 16], version: 3, ..Default::default() };
        let input = decode(&Kind::MessageCommitted(committed).payload()).unwrap();
        let expected = Input::Dialog {
            dialog_id: DialogId::parse(&[1; 16]).unwrap(),
            version: Some(3),
            change: Change::VersionOnly,
        };
        assert_eq!(input, [expected]);
        let renamed = Kind::UserRenamed(UserRenamed { user_id: vec![1; 16] });
        assert_eq!(decode(&renamed.payload()), Ok(Vec::new()));
    }

    #[test]
    fn a_message_reads_for_its_author_whatever_becomes_of_it() {
        let user_id = UserId::parse(&[3; 16]).unwrap();
        let read = Change::Read { user_id, up_to: 6 };
        let sent = MessageSent { read_up_to: 6, ..message_sent(7, 9) };
        let from_log = decode(&Kind::MessageSent(sent.clone()).payload()).unwrap();
        let [Input::Dialog { version: Some(9), .. }, Input::Dialog { version: None, change, .. }] =
            &from_log[..]
        else {
            panic!("{from_log:?}")
        };
        assert_eq!(change, &read);
        assert_eq!(changes(from_settle(&sent).unwrap())[1], read);
        for (status, deleted) in [(Status::Pending, true), (Status::Committed, true), (Status::Failed, false)]
        {
            let row = MessageChange {
                message_id: sent.message_id.clone(),
                seq: 7,
                sender_id: sent.sender_id.clone(),
                transaction_id: sent.transaction_id.clone(),
                status: status.into(),
                deleted,
                created_at_us: 5,
                read_up_to: 6,
            };
            let repaired = from_change(DialogId::now(), &change_of(12, Row::Message(row))).unwrap();
            assert_eq!(changes(repaired).last(), Some(&read), "{status:?}");
        }
        for outside in [-1, 7, 8, i64::MAX] {
            let invalid = MessageSent { read_up_to: outside, ..sent.clone() };
            decode(&Kind::MessageSent(invalid.clone()).payload()).unwrap_err();
            from_settle(&invalid).unwrap_err();
        }
    }

    #[test]
    fn a_value_outside_its_limits_is_invalid() {
        for sent in [
            message_sent(0, 1),
            message_sent(NUMBER_MAX + 1, 1),
            message_sent(1, 0),
            message_sent(1, i64::MAX),
        ] {
            decode(&Kind::MessageSent(sent).payload()).unwrap_err();
        }
        let short = MessageSent { sender_id: vec![3; 15], ..message_sent(1, 1) };
        decode(&Kind::MessageSent(short).payload()).unwrap_err();
        let before_1970 = MessageSent { created_at_us: -1, ..message_sent(1, 1) };
        from_settle(&before_1970).unwrap_err();
        let joined =
            ParticipantJoined { dialog_id: vec![1; 16], version: 1, user_id: vec![1; 16], joined_seq: -1 };
        decode(&Kind::ParticipantJoined(joined).payload()).unwrap_err();
        decode(b"\xff\xff").unwrap_err();
        decode(&Kind::Counted(Counted::default()).payload()).unwrap_err();
    }

    #[test]
    fn a_changed_row_becomes_the_inputs_that_lead_to_it() {
        let dialog_id = DialogId::now();
        let row = |status: Status, deleted| {
            let row = MessageChange {
                message_id: vec![2; 16],
                seq: 1,
                sender_id: vec![3; 16],
                transaction_id: vec![4; 16],
                status: status.into(),
                deleted,
                created_at_us: 5,
                read_up_to: 0,
            };
            from_change(dialog_id, &change_of(4, Row::Message(row))).map(changes)
        };
        assert!(matches!(row(Status::Pending, false).unwrap()[..], [Change::Sent(..)]));
        assert!(matches!(row(Status::Committed, false).unwrap()[..], [Change::Sent(..)]));
        assert!(matches!(row(Status::Pending, true).unwrap()[..], [Change::Deleted(_), Change::Sent(..)]));
        assert!(matches!(row(Status::Committed, true).unwrap()[..], [Change::Deleted(_)]));
        assert!(matches!(row(Status::Failed, false).unwrap()[..], [Change::Failed(_)]));
        assert!(matches!(row(Status::Failed, true).unwrap()[..], [Change::Failed(_)]));
        row(Status::Unspecified, false).unwrap_err();
        let membership = |left| MembershipChange { user_id: vec![3; 16], joined_seq: 6, left };
        let changed =
            |left| changes(from_change(dialog_id, &change_of(4, Row::Membership(membership(left)))).unwrap());
        assert!(matches!(changed(false)[..], [Change::Joined { version: 4, joined_seq: 6, .. }]));
        assert!(matches!(changed(true)[..], [Change::Left { version: 4, .. }]));
        from_change(dialog_id, &DialogChange { version: 1, row: None }).unwrap_err();
    }
}
