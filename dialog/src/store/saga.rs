//! Statements on the saga status of messages. The update itself checks that the status is still pending.

use std::collections::HashMap;

use db::{Db, Dialect, Error, Tx, query};
use proto::{DialogId, MessageId, TransactionId, UserId};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{message, set};
use crate::message::{Message, Status};

/// Stored values of a message that a reply is compared with.
#[derive(Debug, Clone, Copy)]
pub struct SagaState {
    /// Dialog of the message.
    pub dialog_id: DialogId,
    /// Sequence number of the message.
    pub seq: i64,
    /// Author of the message.
    pub author_id: UserId,
    /// Status of the message.
    pub status: Status,
    /// Time since the message was stored, in microseconds.
    pub age_us: i64,
}

/// Message of a saga, as an operator sees it: without the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredMessage {
    /// Message.
    pub id: MessageId,
    /// Dialog of the message.
    pub dialog_id: DialogId,
    /// Sequence number in the dialog.
    pub seq: i64,
    /// State of the saga: pending, committed or failed.
    pub status: String,
    /// Reason of a failure.
    pub failure_reason: Option<String>,
    /// Time of storage in microseconds since the Unix epoch.
    pub created_at_us: i64,
    /// True if the message was deleted.
    pub is_deleted: bool,
}

/// Returns the message of a saga.
pub(crate) async fn stored_message(
    db: &Db,
    transaction: TransactionId,
) -> Result<Option<StoredMessage>, Error> {
    let select = query(
        "select id, dialog_id, seq, status, failure_reason, created_at_us,
             deleted_at_us is not null as deleted
         from message where transaction_id = $1",
    );
    let Some(row) = select.bind(transaction.uuid()).optional(db).await? else { return Ok(None) };
    Ok(Some(StoredMessage {
        id: MessageId::new(row.get("id")?),
        dialog_id: DialogId::new(row.get("dialog_id")?),
        seq: row.get("seq")?,
        status: row.get("status")?,
        failure_reason: row.get("failure_reason")?,
        created_at_us: row.get("created_at_us")?,
        is_deleted: row.get("deleted")?,
    }))
}

/// Returns the states of messages. Requires the locks of their dialogs. Omits unknown ids.
pub(crate) async fn states(
    tx: &mut Tx,
    ids: impl IntoIterator<Item = MessageId>,
) -> Result<HashMap<MessageId, SagaState>, Error> {
    let select = query(
        "select m.id, m.dialog_id, m.seq, m.author_id, m.status, clock.now_us - m.created_at_us as age_us
         from message m cross join clock where m.id in (select id from rows($1: id uuid) as r)",
    );
    let mut states = HashMap::new();
    for row in select.bind(set(ids.into_iter().map(MessageId::uuid))).all(tx).await? {
        let state = SagaState {
            dialog_id: DialogId::new(row.get("dialog_id")?),
            seq: row.get("seq")?,
            author_id: UserId::new(row.get("author_id")?),
            status: Status::parse(&row.get::<String>("status")?),
            age_us: row.get("age_us")?,
        };
        states.insert(MessageId::new(row.get("id")?), state);
    }
    Ok(states)
}

/// Transition of a pending message to its final status.
#[derive(Debug, Clone)]
pub struct Transition {
    /// The message.
    pub id: MessageId,
    /// Version of the dialog after the transition.
    pub version: i64,
    /// Reason of the failure; `None` commits the message.
    pub failure_reason: Option<String>,
}

/// Applies transitions.
///
/// # Errors
/// [`Error::Bug`] if a message was not pending, which means that its dialog was not locked.
pub(crate) async fn apply(tx: &mut Tx, transitions: &[Transition]) -> Result<(), Error> {
    let row = |transition: &Transition| {
        let status = if transition.failure_reason.is_some() { Status::Failed } else { Status::Committed };
        json!({
            "id": transition.id.uuid(),
            "version": transition.version,
            "status": status.as_str(),
            "reason": transition.failure_reason,
        })
    };
    let update = query(
        "update message set status = r.status, failure_reason = r.reason, changed_version = r.version
         from rows($1: id uuid, version bigint, status text, reason text) as r
         where message.id = r.id and message.status = 'pending'",
    );
    let rows: Value = transitions.iter().map(row).collect();
    if update.bind(rows).execute(tx).await? == transitions.len() as u64 {
        return Ok(());
    }
    Err(Error::Bug(sqlx::Error::Protocol("a message was settled without its dialog's lock".to_owned())))
}

/// Cursor of a sweep over overdue messages, oldest first.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SweepCursor {
    created_at_us: i64,
    id: Uuid,
}

impl SweepCursor {
    /// Precedes every message.
    pub(crate) const START: Self = Self { created_at_us: i64::MIN, id: Uuid::nil() };

    /// Returns the cursor after this message.
    pub(crate) fn after(message: &Message) -> Self {
        Self { created_at_us: message.created_at_us, id: message.id.uuid() }
    }
}

/// Messages that are pending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pending {
    /// Number of messages.
    pub(crate) messages: i64,
    /// Age of the oldest one in microseconds; 0 if there is none.
    pub(crate) age_us: i64,
}

/// Returns the number of pending messages and the age of the oldest one.
pub(crate) async fn pending(db: &Db) -> Result<Pending, Error> {
    let select = query(
        "select count(*) as messages,
             cast(coalesce((select now_us from clock) - min(created_at_us), 0) as bigint) as age_us
         from message where status = 'pending'",
    );
    let row = select.one(db).await?;
    Ok(Pending { messages: row.get("messages")?, age_us: row.get("age_us")? })
}

/// Returns at most `limit` messages after a cursor, oldest first, that are pending for more than
/// `age_us` microseconds and whose MessageSent is published. Before that the counter cannot know the
/// message, and the delay is not its fault.
pub(crate) async fn overdue(
    db: &Db,
    age_us: i64,
    after: SweepCursor,
    limit: i64,
) -> Result<Vec<Message>, Error> {
    let select = query(match db.dialect() {
        // Committed means published: in one process, consumers read the outbox itself.
        Dialect::Sqlite => {
            "select m.* from message m
             where m.status = 'pending' and m.created_at_us <= (select now_us from clock) - $1
             and (m.created_at_us, m.id) > ($2, $3)
             order by m.created_at_us, m.id limit $4"
        }
        // The relay deletes an outbox row after Kafka has acknowledged it.
        Dialect::Postgres => {
            "select m.* from message m
             where m.status = 'pending' and m.created_at_us <= (select now_us from clock) - $1
             and (m.created_at_us, m.id) > ($2, $3)
             and not exists (select 1 from outbox o where o.event_id = m.transaction_id)
             order by m.created_at_us, m.id limit $4"
        }
    });
    let rows = select.bind(age_us).bind(after.created_at_us).bind(after.id).bind(limit).all(db).await?;
    rows.iter().map(message::from_row).collect()
}
