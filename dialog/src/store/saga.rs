//! Where messages stand in their sagas. A status moves once, guarded in the statement that moves it.

use std::collections::HashMap;

use db::{Db, Dialect, Error, Tx, query};
use proto::{DialogId, MessageId, UserId};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{message, set};
use crate::message::{Message, Status};

/// What a reply is compared with.
#[derive(Debug, Clone, Copy)]
pub struct State {
    /// Where the message is.
    pub dialog_id: DialogId,
    /// Its place.
    pub seq: i64,
    /// Who said it.
    pub author_id: UserId,
    /// Where it stands.
    pub status: Status,
    /// How long ago it was stored, in microseconds.
    pub age_us: i64,
}

/// Where these messages stand. To be read under the locks of their dialogs; absent ones are left out.
///
/// # Errors
/// As the database has them.
pub async fn states(
    tx: &mut Tx,
    ids: impl IntoIterator<Item = MessageId>,
) -> Result<HashMap<MessageId, State>, Error> {
    let select = query(
        "select m.id, m.dialog_id, m.seq, m.author_id, m.status, clock.now_us - m.created_at_us as age_us
         from message m cross join clock where m.id in (select id from rows($1: id uuid) as r)",
    );
    let mut states = HashMap::new();
    for row in select.bind(set(ids.into_iter().map(MessageId::uuid))).all(tx).await? {
        let state = State {
            dialog_id: DialogId::new(row.get("dialog_id")?),
            seq: row.get("seq")?,
            author_id: UserId::new(row.get("author_id")?),
            status: Status::read(&row.get::<String>("status")?),
            age_us: row.get("age_us")?,
        };
        states.insert(MessageId::new(row.get("id")?), state);
    }
    Ok(states)
}

/// A status to move to, at a version.
#[derive(Debug, Clone)]
pub struct Move {
    /// Which message.
    pub id: MessageId,
    /// The dialog's version with it.
    pub version: i64,
    /// Why it failed; without it, it is committed.
    pub failure_reason: Option<String>,
}

/// Moves pending messages on.
///
/// # Errors
/// [`Error::Bug`] where one was not pending, which the dialogs' locks rule out; else as the database has them.
pub async fn advance(tx: &mut Tx, moves: &[Move]) -> Result<(), Error> {
    let row = |to: &Move| {
        let status = if to.failure_reason.is_some() { Status::Failed } else { Status::Committed };
        json!({ "id": to.id.uuid(), "version": to.version, "status": status.as_str(), "reason": to.failure_reason })
    };
    let update = query(
        "update message set status = r.status, failure_reason = r.reason, changed_version = r.version
         from rows($1: id uuid, version bigint, status text, reason text) as r
         where message.id = r.id and message.status = 'pending'",
    );
    if update.bind(moves.iter().map(row).collect::<Value>()).execute(tx).await? == moves.len() as u64 {
        return Ok(());
    }
    Err(Error::Bug(sqlx::Error::Protocol("a message was settled without its dialog's lock".to_owned())))
}

/// A place among overdue messages, oldest first.
#[derive(Debug, Clone, Copy)]
pub struct Place(i64, Uuid);

impl Place {
    /// Before all of them.
    pub const START: Self = Self(i64::MIN, Uuid::nil());

    /// Behind this message.
    pub fn behind(message: &Message) -> Self {
        Self(message.created_at_us, message.id.uuid())
    }
}

/// Messages pending for longer than `age_us` microseconds whose MessageSent was published, oldest first behind a place.
///
/// # Errors
/// As the database has them.
pub async fn overdue(db: &Db, age_us: i64, behind: Place, limit: i64) -> Result<Vec<Message>, Error> {
    let select = query(match db.dialect() {
        // What is committed is published: consumers read this very outbox.
        Dialect::Sqlite => {
            "select m.* from message m
             where m.status = 'pending' and m.created_at_us <= (select now_us from clock) - $1
             and (m.created_at_us, m.id) > ($2, $3)
             order by m.created_at_us, m.id limit $4"
        }
        // The relay deletes a row when the log has acknowledged it.
        Dialect::Postgres => {
            "select m.* from message m
             where m.status = 'pending' and m.created_at_us <= (select now_us from clock) - $1
             and (m.created_at_us, m.id) > ($2, $3)
             and not exists (select 1 from outbox o where o.event_id = m.transaction_id)
             order by m.created_at_us, m.id limit $4"
        }
    });
    let rows = select.bind(age_us).bind(behind.0).bind(behind.1).bind(limit).all(db).await?;
    rows.iter().map(message::read).collect()
}
