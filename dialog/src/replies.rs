//! Consumer of topic `tidings.counter`: settles messages with the counter's replies and ignores read
//! pointers. An event that cannot be decoded, or is inconsistent, becomes a dead letter and does not
//! stop the others.

#![warn(clippy::indexing_slicing, clippy::panic)]

use std::time::Duration;

use db::Tx;
use events::{Apply, BoxError, Event, Loss, LossKind, Record, outbox};
use proto::{
    DialogId, InvalidId, MessageId,
    dead_letter::Origin,
    events::{CountRefused, Counted, DeadLetter, event::Kind},
    topic,
};
use uuid::Uuid;

use crate::{
    restore,
    saga::{Outcome, Reply, settle},
};

/// Consumer name: the key of the stored position in the log.
pub(crate) const CONSUMER: &str = "dialog";

/// Time that an event which does not concern dialogs waits for others.
const IGNORED_MAX_DELAY: Duration = Duration::from_millis(250);
/// Time that a reply waits for others. Authors see COMMITTED so much later.
const REPLY_MAX_DELAY: Duration = Duration::from_millis(25);

/// Handler of the counter's replies.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReplyHandler;

impl Apply for ReplyHandler {
    /// Read pointers do not concern dialogs. A reply changes the status of its message, not a count.
    fn max_delay(&self, record: &Record) -> Duration {
        if record.kind == "ReadMarked" { IGNORED_MAX_DELAY } else { REPLY_MAX_DELAY }
    }

    async fn apply(&self, tx: &mut Tx, records: &[Record]) -> Result<(), BoxError> {
        let mut sources = Vec::new();
        let mut replies = Vec::new();
        let mut dead_letters = Vec::new();
        for record in records {
            match parse(record) {
                Ok(Some(reply)) => {
                    sources.push(record);
                    replies.push(reply);
                }
                Ok(None) => {}
                Err(error) => dead_letters.push(dead_letter(record, error)),
            }
        }
        let results = settle(tx, &replies).await?;
        for (record, result) in sources.into_iter().zip(results) {
            if let Err(invalid) = result {
                dead_letters.push(dead_letter(record, &invalid.to_string()));
            }
        }
        Ok(outbox::append(tx, &dead_letters).await?)
    }

    /// Goes on after any loss. The sweeper asks the counter about every message whose reply was lost, and
    /// a repeated reply changes nothing. Raises the epoch if this database was restored.
    async fn recover(&self, tx: &mut Tx, losses: &[Loss]) -> Result<bool, BoxError> {
        if losses.iter().any(|loss| loss.kind == LossKind::Restored) {
            restore::raise_epoch(tx).await?;
        }
        Ok(true)
    }
}

/// Parses a record. Returns `None` for an event that does not concern dialogs.
fn parse(record: &Record) -> Result<Option<Reply>, &'static str> {
    let kind =
        Kind::decode(&record.payload).ok_or("malformed event, or of a kind that this build does not know")?;
    let reply = match kind {
        Kind::ReadMarked(_) => return Ok(None),
        Kind::Counted(Counted { dialog_id, seq, message_id }) => {
            parse_reply(record, &dialog_id, seq, &message_id, Outcome::Counted)
        }
        Kind::CountRefused(CountRefused { dialog_id, seq, message_id, reason }) => {
            parse_reply(record, &dialog_id, seq, &message_id, Outcome::Refused(reason))
        }
        _ => return Err("event of another topic"),
    };
    reply.map(Some).map_err(|_| "malformed id")
}

fn parse_reply(
    record: &Record,
    dialog: &[u8],
    seq: i64,
    message: &[u8],
    outcome: Outcome,
) -> Result<Reply, InvalidId> {
    let dialog_id = DialogId::parse(dialog)?;
    let message_id = MessageId::parse(message)?;
    Ok(Reply { dialog_id, seq, message_id, outcome, cause: record.headers.clone() })
}

/// Logs and counts a record that cannot be applied, and returns its dead letter.
fn dead_letter(record: &Record, error: &str) -> Event {
    let Record { topic, partition, offset, key, payload, .. } = record;
    tracing::error!(
        consumer = CONSUMER,
        topic,
        partition,
        offset,
        key,
        error,
        "an event that cannot be applied was moved to the dead letters"
    );
    metrics::counter!("dead_letters_total", "consumer" => CONSUMER).increment(1);
    let origin = Origin { topic, position: Some((*partition, *offset)), key, payload };
    let letter = Kind::DeadLetter(DeadLetter::new(CONSUMER, origin, error));
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
