//! Publication: appends the effects of a transaction and its dead letters to the outbox, in the same
//! transaction.

use db::{Error, Tx};
use events::{Event, Headers, outbox};
use proto::{
    DialogId,
    events::{CountRefused, Counted, DeadLetter, ReadMarked, UnreadChanged, UnreadRow, event::Kind},
    topic,
};
use uuid::Uuid;

use crate::{
    kernel::{Effects, ReadMark, SagaReply, UnreadChange},
    store::Epoch,
};

/// Dead letter with the headers of its event.
pub(crate) type DeadLetterWithHeaders = (DeadLetter, Headers);

/// Appends saga replies and read marks by dialog, then changes by user, then dead letters.
///
/// `headers_of` returns the headers of the request that caused an effect: of the message with a `seq`,
/// or of the dialog's newest change if there is no `seq`.
///
/// # Errors
/// Errors of the database.
pub(crate) async fn append(
    tx: &mut Tx,
    epoch: Epoch,
    effects: Effects,
    dead_letters: Vec<DeadLetterWithHeaders>,
    headers_of: impl Fn(DialogId, Option<i64>) -> Headers,
) -> Result<(), Error> {
    let mut events = Vec::new();
    for reply in effects.replies {
        let headers = headers_of(reply.dialog_id, Some(reply.seq));
        events.push(event(topic::COUNTER, reply.dialog_id.to_string(), 0, saga_reply(reply), headers));
    }
    for mark in effects.read_marks {
        let headers = headers_of(mark.dialog_id, None);
        events.push(event(topic::COUNTER, mark.dialog_id.to_string(), 0, read_marked(&mark), headers));
    }
    for change in effects.changes {
        // A change may have several causes; one of them, the newest activity, stands for all.
        let headers = change.rows.first().map(|row| headers_of(row.dialog_id, None)).unwrap_or_default();
        let key = change.user_id.to_string();
        let version = change.version;
        events.push(event(topic::UNREAD, key, version, unread_changed(epoch, change), headers));
    }
    for (letter, headers) in dead_letters {
        metrics::counter!("dead_letters_total", "consumer" => letter.consumer.clone()).increment(1);
        tracing::error!(
            consumer = letter.consumer,
            topic = letter.topic,
            partition = letter.partition,
            offset = letter.offset,
            key = letter.key,
            error = letter.error,
            "an event that cannot be applied was moved to the dead letters"
        );
        events.push(event(topic::DEAD, letter.key.clone(), 0, Kind::DeadLetter(letter), headers));
    }
    outbox::append(tx, &events).await
}

/// Creates an event with a new id.
pub(crate) fn event(topic: &'static str, key: String, version: i64, kind: Kind, headers: Headers) -> Event {
    Event {
        event_id: Uuid::now_v7(),
        topic,
        key,
        version,
        kind: kind.name(),
        payload: kind.payload(),
        headers,
    }
}

/// Encodes the reply to a message's saga.
pub fn saga_reply(reply: SagaReply) -> Kind {
    let dialog_id = reply.dialog_id.bytes();
    let message_id = reply.message_id.bytes();
    let seq = reply.seq;
    match reply.refused {
        None => Kind::Counted(Counted { dialog_id, seq, message_id }),
        Some(reason) => Kind::CountRefused(CountRefused { dialog_id, seq, message_id, reason }),
    }
}

/// Encodes a read pointer that moved.
pub(crate) fn read_marked(mark: &ReadMark) -> Kind {
    Kind::ReadMarked(ReadMarked {
        dialog_id: mark.dialog_id.bytes(),
        user_id: mark.user_id.bytes(),
        read_seq: mark.read_seq,
    })
}

/// Encodes a change of a user's counts.
pub fn unread_changed(epoch: Epoch, change: UnreadChange) -> Kind {
    let rows = change.rows.into_iter().map(|row| UnreadRow {
        dialog_id: row.dialog_id.bytes(),
        unread: row.unread,
        was: row.was,
        read_seq: row.read_seq,
        last_seq: row.last_seq,
        stale: row.stale || epoch.is_cut,
    });
    Kind::UnreadChanged(UnreadChanged {
        user_id: change.user_id.bytes(),
        epoch: epoch.number,
        version: change.version,
        previous: change.version - 1,
        rows: rows.collect(),
        stale: change.stale || epoch.is_cut,
    })
}
