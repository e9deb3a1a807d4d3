//! SQL statements of dialog, for PostgreSQL and SQLite. A writer locks the dialog's row in a separate
//! statement before it reads: in READ COMMITTED, a statement that waited for a lock still sees the other
//! rows as they were before the wait. Membership is checked within the statement that reads.

pub(crate) mod change;
pub(crate) mod dialog;
pub(crate) mod key;
pub(crate) mod membership;
pub(crate) mod message;
pub(crate) mod saga;

use std::collections::{BTreeMap, BTreeSet};

use db::{Dialect, Error, Row, Tx, query};
use events::outbox;
use proto::DialogId;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::locked_dialog::LockedDialog;

/// Locks dialogs in the order of their ids, which excludes deadlocks between writers. Omits unknown ids.
pub(crate) async fn lock(
    tx: &mut Tx,
    ids: BTreeSet<DialogId>,
) -> Result<BTreeMap<DialogId, LockedDialog>, Error> {
    let lock = match tx.dialect() {
        // No row locks: SQLite has a single writer, which holds the whole database from its begin.
        Dialect::Sqlite => {
            "select d.* from rows($1: id uuid) as r join dialog d on d.id = r.id order by d.id"
        }
        // `no key`: compatible with the `key share` locks that inserts of referencing rows take.
        Dialect::Postgres => {
            "select d.* from rows($1: id uuid) as r join dialog d on d.id = r.id order by d.id
             for no key update of d"
        }
    };
    let rows = query(lock).bind(set(ids.into_iter().map(DialogId::uuid))).all(tx).await?;
    rows.iter().map(|row| locked_from_row(row).map(|dialog| (dialog.id, dialog))).collect()
}

/// Locks one dialog.
pub(crate) async fn lock_one(tx: &mut Tx, id: DialogId) -> Result<Option<LockedDialog>, Error> {
    let lock = match tx.dialect() {
        Dialect::Sqlite => "select d.* from dialog d where d.id = $1",
        Dialect::Postgres => "select d.* from dialog d where d.id = $1 for no key update",
    };
    query(lock).bind(id.uuid()).optional(tx).await?.as_ref().map(locked_from_row).transpose()
}

fn locked_from_row(row: &Row) -> Result<LockedDialog, Error> {
    Ok(LockedDialog::new(
        DialogId::new(row.get("id")?),
        row.get("direct")?,
        row.get("version")?,
        row.get("head_seq")?,
        row.get("last_activity_us")?,
    ))
}

/// Writes a locked dialog with its version, head and activity, and appends its events to the outbox.
pub(crate) async fn save(tx: &mut Tx, mut dialog: LockedDialog) -> Result<(), Error> {
    if dialog.is_unchanged() {
        return Ok(());
    }
    let update = query("update dialog set version = $2, head_seq = $3, last_activity_us = $4 where id = $1");
    let update = update.bind(dialog.id.uuid()).bind(dialog.version()).bind(dialog.head_seq);
    update.bind(dialog.last_activity_us).execute(&mut *tx).await?;
    outbox::append(tx, &dialog.take_events()).await
}

/// Writes those of the locked dialogs that have events, with their versions, heads and activity, and
/// appends the events to the outbox.
pub(crate) async fn save_all(
    tx: &mut Tx,
    dialogs: impl IntoIterator<Item = LockedDialog>,
) -> Result<(), Error> {
    let mut rows = Vec::new();
    let mut events = Vec::new();
    for mut dialog in dialogs.into_iter().filter(|dialog| !dialog.is_unchanged()) {
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
        "update dialog
         set version = r.version, head_seq = r.head_seq, last_activity_us = r.last_activity_us
         from rows($1: id uuid, version bigint, head_seq bigint, last_activity_us bigint) as r
         where dialog.id = r.id",
    );
    update.bind(Value::Array(rows)).execute(&mut *tx).await?;
    outbox::append(tx, &events).await
}

/// Encodes ids as the parameter of `rows($n: id uuid)`.
fn set(ids: impl IntoIterator<Item = Uuid>) -> Value {
    ids.into_iter().map(|id| json!({ "id": id })).collect()
}
