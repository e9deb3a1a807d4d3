//! The consumer of `tidings.counter`: replies settle messages, read pointers are not ours, and what cannot be decoded or
//! cannot be true goes to the dead letters, with where it came from and why.

#![warn(clippy::indexing_slicing, clippy::panic)]

use db::Tx;
use events::{Apply, BoxError, Event, Record, outbox};
use proto::{
    DialogId, InvalidId, MessageId,
    events::{CountRefused, Counted, DeadLetter, event::Kind},
    topic,
};
use uuid::Uuid;

use crate::saga::{Outcome, Reply, settle};

/// The name under which the place in the log is kept.
pub const CONSUMER: &str = "dialog";

/// Applies what the counters say.
#[derive(Debug, Clone, Copy)]
pub struct Replies;

impl Apply for Replies {
    async fn apply(&self, tx: &mut Tx, records: &[Record]) -> Result<(), BoxError> {
        let (mut sources, mut replies, mut dead) = (Vec::new(), Vec::new(), Vec::new());
        for record in records {
            match read(record) {
                Ok(Some(reply)) => {
                    sources.push(record);
                    replies.push(reply);
                }
                Ok(None) => {}
                Err(why) => dead.push(letter(record, why)),
            }
        }
        let verdicts = settle(tx, &replies).await?;
        for (record, verdict) in sources.into_iter().zip(verdicts) {
            if let Err(impossible) = verdict {
                dead.push(letter(record, &impossible.to_string()));
            }
        }
        Ok(outbox::append(tx, &dead).await?)
    }
}

/// What a record says: a reply, or nothing that concerns us.
fn read(record: &Record) -> Result<Option<Reply>, &'static str> {
    let kind = Kind::read(&record.payload).ok_or("not an event that this build knows")?;
    let reply = match kind {
        Kind::ReadMarked(_) => return Ok(None),
        Kind::Counted(Counted { dialog_id, seq, message_id }) => {
            reply(record, &dialog_id, seq, &message_id, Outcome::Counted)
        }
        Kind::CountRefused(CountRefused { dialog_id, seq, message_id, reason }) => {
            reply(record, &dialog_id, seq, &message_id, Outcome::Refused(reason))
        }
        _ => return Err("an event of another topic"),
    };
    reply.map(Some).map_err(|_| "an id that is none")
}

fn reply(
    record: &Record,
    dialog: &[u8],
    seq: i64,
    message: &[u8],
    outcome: Outcome,
) -> Result<Reply, InvalidId> {
    let (dialog_id, message_id) = (DialogId::parse(dialog)?, MessageId::parse(message)?);
    Ok(Reply { dialog_id, seq, message_id, outcome, cause: record.headers.clone() })
}

/// A record that nobody here can apply, for operators.
fn letter(record: &Record, why: &str) -> Event {
    let Record { topic: from, partition, offset, key, kind, .. } = record;
    tracing::error!(topic = from, partition, offset, key, kind, why, "a dead letter");
    metrics::counter!("dead_letters_total", "consumer" => CONSUMER).increment(1);
    let letter = Kind::DeadLetter(DeadLetter {
        topic: (*from).to_owned(),
        partition: i32::try_from(*partition).unwrap_or(i32::MAX),
        offset: *offset,
        consumer: CONSUMER.to_owned(),
        error: why.to_owned(),
        key: key.clone(),
        payload: record.payload.to_vec(),
    });
    Event {
        event_id: Uuid::now_v7(),
        topic: topic::DEAD,
        key: key.clone(),
        version: 0,
        kind: letter.name(),
        payload: letter.payload(),
        headers: record.headers.clone(),
    }
}
