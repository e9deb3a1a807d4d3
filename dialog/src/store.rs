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

/// Locks one dialog.
///
/// # Errors
/// As the database has them.
pub async fn lock_one(tx: &mut Tx, id: DialogId) -> Result<Option<Held>, Error> {
    Ok(lock(tx, [id]).await?.pop())
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

/// Writes what was recorded about locked dialogs: their rows, and the events to the outbox.
///
/// # Errors
/// As the database has them.
pub async fn save(tx: &mut Tx, held: impl IntoIterator<Item = Held>) -> Result<(), Error> {
    let (mut rows, mut events) = (Vec::new(), Vec::new());
    for mut dialog in held.into_iter().filter(|dialog| !dialog.is_unchanged()) {
        rows.push(json!({
            "id": dialog.id.uuid(),
            "version": dialog.version(),
            "head_seq": dialog.head_seq,
            "last_activity_us": dialog.last_activity_us,
        }));
        events.append(&mut dialog.take_events());
    }
    if rows.is_empty() {
        return Ok(());
    }
    let update = query(
        "update dialog set version = r.version, head_seq = r.head_seq, last_activity_us = r.last_activity_us
         from rows($1: id uuid, version bigint, head_seq bigint, last_activity_us bigint) as r where dialog.id = r.id",
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
