//! Every statement of the service. What they have in common: whoever writes locks the dialog's row first, in a statement
//! of its own, and reads only then; ids come and go as newtypes; membership is checked inside the statement that reads.

pub mod change;
pub mod dialog;
pub mod key;
pub mod membership;
pub mod message;
pub mod saga;

use db::{Dialect, Error, On, Row, Tx, query};
use events::outbox;
use proto::DialogId;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::held::Held;

/// Locks these dialogs in the order of their ids and reads what they are under the lock. Absent ones are left out.
///
/// # Errors
/// As the database has them.
pub async fn lock(tx: &mut Tx, ids: impl IntoIterator<Item = DialogId>) -> Result<Vec<Held>, Error> {
    let lock = match tx.dialect() {
        // A write transaction is the only one of its database: it holds every row from its beginning.
        Dialect::Sqlite => {
            "select d.* from dialog d where d.id in (select id from rows($1: id uuid) as r) order by d.id"
        }
        Dialect::Postgres => {
            "select d.* from dialog d where d.id in (select id from rows($1: id uuid) as r) order by d.id
             for no key update of d"
        }
    };
    let rows = query(lock).bind(set(ids.into_iter().map(DialogId::uuid))).all(tx).await?;
    rows.iter().map(held).collect()
}

/// Locks one dialog. By its key alone: for a set the planner of Postgres prefers to read a table of some ten thousand rows.
///
/// # Errors
/// As the database has them.
pub async fn lock_one(tx: &mut Tx, id: DialogId) -> Result<Option<Held>, Error> {
    let lock = match tx.dialect() {
        Dialect::Sqlite => "select d.* from dialog d where d.id = $1",
        Dialect::Postgres => "select d.* from dialog d where d.id = $1 for no key update",
    };
    query(lock).bind(id.uuid()).optional(tx).await?.as_ref().map(held).transpose()
}

fn held(row: &Row) -> Result<Held, Error> {
    Ok(Held::new(
        DialogId::new(row.get("id")?),
        row.get("direct")?,
        row.get("version")?,
        row.get("head_seq")?,
        row.get("last_activity_us")?,
    ))
}

/// Writes what was recorded about a locked dialog: its row, and the events to the outbox.
///
/// # Errors
/// As the database has them.
pub async fn save(tx: &mut Tx, mut dialog: Held) -> Result<(), Error> {
    if dialog.is_unchanged() {
        return Ok(());
    }
    let update = query("update dialog set version = $2, head_seq = $3, last_activity_us = $4 where id = $1");
    let update = update.bind(dialog.id.uuid()).bind(dialog.version()).bind(dialog.head_seq);
    update.bind(dialog.last_activity_us).execute(&mut *tx).await?;
    outbox::append(tx, &dialog.take_events()).await
}

/// Writes the new versions of locked dialogs in which nothing was said, and the events to the outbox.
///
/// # Errors
/// As the database has them.
pub async fn save_all(tx: &mut Tx, dialogs: impl IntoIterator<Item = Held>) -> Result<(), Error> {
    let (mut rows, mut events) = (Vec::new(), Vec::new());
    for mut dialog in dialogs {
        rows.push(json!({ "id": dialog.id.uuid(), "version": dialog.version() }));
        events.append(&mut dialog.take_events());
    }
    let update = query(
        "update dialog set version = r.version from rows($1: id uuid, version bigint) as r where dialog.id = r.id",
    );
    update.bind(Value::Array(rows)).execute(&mut *tx).await?;
    outbox::append(tx, &events).await
}

/// The epoch of all versions; a restore raises it.
///
/// # Errors
/// As the database has them.
pub async fn epoch(on: impl Into<On<'_>>) -> Result<i64, Error> {
    query("select number from epoch").one(on).await?.get("number")
}

/// A set of ids as one bind: `rows($n: id uuid)`.
fn set(ids: impl IntoIterator<Item = Uuid>) -> Value {
    ids.into_iter().map(|id| json!({ "id": id })).collect()
}
