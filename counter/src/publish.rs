//! What a transaction tells the world, written to the outbox in the same transaction.

use db::{Error, Tx};
use events::{Event, Headers, outbox};
use proto::{
    DialogId, UserId,
    events::{CountRefused, Counted, DeadLetter, ReadMarked, UnreadChanged, UnreadRow, event::Kind},
    topic,
};
use uuid::Uuid;

use crate::kernel::{Answer, Effects, Reading, UnreadChange};

/// Something that can never be applied, with its cause.
pub(crate) type Dead = (DeadLetter, Headers);

/// Appends the effects: answers and read pointers by dialog, then the steps of users' versions, then dead letters. `cause`
/// says which request stands behind a message of a dialog, or behind the dialog's newest change.
pub(crate) async fn publish(
    tx: &mut Tx,
    epoch: i64,
    effects: Effects,
    dead: Vec<Dead>,
    cause: impl Fn(DialogId, Option<i64>) -> Headers,
) -> Result<(), Error> {
    let mut events = Vec::new();
    for answer in effects.answers {
        let headers = cause(answer.dialog_id, Some(answer.seq));
        events.push(event(topic::COUNTER, answer.dialog_id.to_string(), 0, answered(answer), headers));
    }
    for reading in effects.reads {
        let headers = cause(reading.dialog_id, None);
        events.push(event(topic::COUNTER, reading.dialog_id.to_string(), 0, marked(&reading), headers));
    }
    for change in effects.changes {
        let headers = change.rows.first().map(|row| cause(row.dialog_id, None)).unwrap_or_default();
        let (user_id, version) = (change.user_id, change.version);
        events.push(event(topic::UNREAD, user_id.to_string(), version, changed(epoch, change), headers));
    }
    for (letter, headers) in dead {
        metrics::counter!("dead_letters_total", "consumer" => letter.consumer.clone()).increment(1);
        tracing::error!(
            topic = letter.topic,
            offset = letter.offset,
            key = letter.key,
            error = letter.error,
            "an event that cannot be applied goes to the dead letters"
        );
        events.push(event(topic::DEAD, letter.key.clone(), 0, Kind::DeadLetter(letter), headers));
    }
    outbox::append(tx, &events).await
}

fn event(topic: &'static str, key: String, version: i64, kind: Kind, headers: Headers) -> Event {
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

/// The saga's reply.
pub(crate) fn answered(answer: Answer) -> Kind {
    let (dialog_id, seq, message_id) = (answer.dialog_id.bytes(), answer.seq, answer.message_id.bytes());
    match answer.refused {
        None => Kind::Counted(Counted { dialog_id, seq, message_id }),
        Some(reason) => Kind::CountRefused(CountRefused { dialog_id, seq, message_id, reason }),
    }
}

/// A read pointer that moved.
pub(crate) fn marked(reading: &Reading) -> Kind {
    Kind::ReadMarked(ReadMarked {
        dialog_id: reading.dialog_id.bytes(),
        user_id: UserId::bytes(reading.user_id),
        read_seq: reading.read_seq,
    })
}

/// A step of a user's version.
pub(crate) fn changed(epoch: i64, change: UnreadChange) -> Kind {
    let rows = change.rows.into_iter().map(|row| UnreadRow {
        dialog_id: row.dialog_id.bytes(),
        unread: row.unread,
        was: row.was,
        read_seq: row.read_seq,
        last_seq: row.last_seq,
    });
    Kind::UnreadChanged(UnreadChanged {
        user_id: change.user_id.bytes(),
        epoch,
        version: change.version,
        previous: change.version - 1,
        rows: rows.collect(),
    })
}
