//! Statements on table `membership`. Rows are never deleted: a user who left keeps a row with
//! `has_left`.

use std::collections::BTreeSet;

use db::{Error, Executor, Row, Tx, query};
use proto::{DialogId, UserId};
use serde_json::{Value, json};

use super::set;

/// Returns true if a user takes part in a dialog now.
pub(crate) async fn is_present(
    on: impl Into<Executor<'_>>,
    dialog: DialogId,
    user: UserId,
) -> Result<bool, Error> {
    let select =
        query("select 1 as one from membership where dialog_id = $1 and user_id = $2 and not has_left");
    Ok(select.bind(dialog.uuid()).bind(user.uuid()).optional(on).await?.is_some())
}

/// Returns the current participants of a dialog.
pub(crate) async fn present(
    on: impl Into<Executor<'_>>,
    dialog: DialogId,
) -> Result<BTreeSet<UserId>, Error> {
    let select = query("select user_id from membership where dialog_id = $1 and not has_left");
    let rows = select.bind(dialog.uuid()).all(on).await?;
    rows.iter().map(user_from_row).collect()
}

/// Returns those of the dialogs that a user takes part in now.
pub(crate) async fn dialogs_among(
    on: impl Into<Executor<'_>>,
    user: UserId,
    dialogs: impl IntoIterator<Item = DialogId>,
) -> Result<BTreeSet<DialogId>, Error> {
    let select = query(
        "select dialog_id from membership where user_id = $1 and not has_left
         and dialog_id in (select id from rows($2: id uuid) as r)",
    );
    let rows = select.bind(user.uuid()).bind(set(dialogs.into_iter().map(DialogId::uuid))).all(on).await?;
    rows.iter().map(|row| row.get("dialog_id").map(DialogId::new)).collect()
}

/// User that joins a dialog, at the version of the ParticipantJoined event.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Join {
    pub user_id: UserId,
    pub version: i64,
}

/// Inserts memberships, or renews those of users who left. Messages after `joined_seq` count for the
/// users.
pub(crate) async fn join(
    tx: &mut Tx,
    dialog: DialogId,
    joined_seq: i64,
    joins: impl IntoIterator<Item = Join>,
) -> Result<(), Error> {
    let row = |join: Join| json!({ "user_id": join.user_id.uuid(), "version": join.version });
    let upsert = query(
        "insert into membership (dialog_id, user_id, joined_seq, has_left, changed_version)
         select $1, r.user_id, $2, false, r.version
         from rows($3: user_id uuid, version bigint) as r where true
         on conflict (dialog_id, user_id) do update
         set joined_seq = excluded.joined_seq, has_left = false, changed_version = excluded.changed_version",
    );
    let rows: Value = joins.into_iter().map(row).collect();
    upsert.bind(dialog.uuid()).bind(joined_seq).bind(rows).execute(tx).await.map(drop)
}

/// Sets `has_left`. Returns false if the user does not take part.
pub(crate) async fn leave(tx: &mut Tx, dialog: DialogId, user: UserId, version: i64) -> Result<bool, Error> {
    let update = query(
        "update membership set has_left = true, changed_version = $3
         where dialog_id = $1 and user_id = $2 and not has_left",
    );
    Ok(update.bind(dialog.uuid()).bind(user.uuid()).bind(version).execute(tx).await? == 1)
}

fn user_from_row(row: &Row) -> Result<UserId, Error> {
    row.get("user_id").map(UserId::new)
}
