//! Who takes part: rows that are never deleted, each with the version of its last change.

use std::collections::BTreeSet;

use db::{Error, On, Row, Tx, query};
use proto::{DialogId, UserId};
use serde_json::{Value, json};

use super::set;

/// Whether a person takes part in a dialog now.
///
/// # Errors
/// As the database has them.
pub async fn is_present(on: impl Into<On<'_>>, dialog: DialogId, person: UserId) -> Result<bool, Error> {
    let select =
        query("select 1 as one from membership where dialog_id = $1 and user_id = $2 and not has_left");
    Ok(select.bind(dialog.uuid()).bind(person.uuid()).optional(on).await?.is_some())
}

/// Everybody who takes part in a dialog now.
///
/// # Errors
/// As the database has them.
pub async fn present(on: impl Into<On<'_>>, dialog: DialogId) -> Result<BTreeSet<UserId>, Error> {
    let select = query("select user_id from membership where dialog_id = $1 and not has_left");
    let rows = select.bind(dialog.uuid()).all(on).await?;
    rows.iter().map(user).collect()
}

/// Those of the given people who take part in a dialog now.
///
/// # Errors
/// As the database has them.
pub async fn present_among(
    on: impl Into<On<'_>>,
    dialog: DialogId,
    people: &[UserId],
) -> Result<BTreeSet<UserId>, Error> {
    let select = query(
        "select user_id from membership where dialog_id = $1 and not has_left
         and user_id in (select id from rows($2: id uuid) as r)",
    );
    let rows = select.bind(dialog.uuid()).bind(set(people.iter().map(|id| id.uuid()))).all(on).await?;
    rows.iter().map(user).collect()
}

/// Those of the given dialogs in which a person takes part now.
///
/// # Errors
/// As the database has them.
pub async fn dialogs_among(
    on: impl Into<On<'_>>,
    person: UserId,
    dialogs: impl IntoIterator<Item = DialogId>,
) -> Result<BTreeSet<DialogId>, Error> {
    let select = query(
        "select dialog_id from membership where user_id = $1 and not has_left
         and dialog_id in (select id from rows($2: id uuid) as r)",
    );
    let rows = select.bind(person.uuid()).bind(set(dialogs.into_iter().map(DialogId::uuid))).all(on).await?;
    rows.iter().map(|row| row.get("dialog_id").map(DialogId::new)).collect()
}

/// People join, or join again, each at a version of its own; what is said from now on counts for them.
///
/// # Errors
/// As the database has them.
pub async fn join(
    tx: &mut Tx,
    dialog: DialogId,
    joined_seq: i64,
    people: impl IntoIterator<Item = (UserId, i64)>,
) -> Result<(), Error> {
    let row = |(person, version): (UserId, i64)| json!({ "user_id": person.uuid(), "version": version });
    let upsert = query(
        "insert into membership (dialog_id, user_id, joined_seq, has_left, changed_version)
         select $1, r.user_id, $2, false, r.version from rows($3: user_id uuid, version bigint) as r where true
         on conflict (dialog_id, user_id) do update
         set joined_seq = excluded.joined_seq, has_left = false, changed_version = excluded.changed_version",
    );
    let rows: Value = people.into_iter().map(row).collect();
    upsert.bind(dialog.uuid()).bind(joined_seq).bind(rows).execute(tx).await.map(drop)
}

/// A person leaves at this version. `false`: the person takes no part.
///
/// # Errors
/// As the database has them.
pub async fn leave(tx: &mut Tx, dialog: DialogId, person: UserId, version: i64) -> Result<bool, Error> {
    let update = query(
        "update membership set has_left = true, changed_version = $3
         where dialog_id = $1 and user_id = $2 and not has_left",
    );
    Ok(update.bind(dialog.uuid()).bind(person.uuid()).bind(version).execute(tx).await? == 1)
}

fn user(row: &Row) -> Result<UserId, Error> {
    row.get("user_id").map(UserId::new)
}
