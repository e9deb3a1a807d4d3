//! Locking statements, and the writes of the rows that they lock. Lock order and reasons are in
//! [`super`].
//!
//! A row that does not exist cannot be locked, so each statement is an upsert that creates missing rows
//! and writes the key of existing ones unchanged. `order by` makes every transaction lock in the order
//! of the keys.

use std::collections::BTreeMap;

use db::{Error, Tx, query};
use proto::{DialogId, UserId};
use serde_json::{Value, json};

use super::Scope;
use crate::kernel::applied::{Applied, Missing};

/// Locks the transaction's dialogs and returns their applied versions.
pub(super) async fn dialogs(tx: &mut Tx, scope: &Scope) -> Result<BTreeMap<DialogId, Applied>, Error> {
    if scope.dialogs.is_empty() {
        return Ok(BTreeMap::new());
    }
    // Locks: the `dialog_applied` rows of all dialogs of the transaction, by dialog id. Before
    // everything else, and in a separate statement: the statements that follow start after the lock is
    // granted, so they see what the last writer of these dialogs has committed. `returning` gives the
    // newest version of each locked row.
    let lock = query(
        "insert into dialog_applied (dialog_id)
         select id from rows($1: id uuid) as r where true order by id
         on conflict (dialog_id) do update set dialog_id = excluded.dialog_id
         returning dialog_id, version, last_seq, last_at_us, missing",
    );
    let rows = lock.bind(ids(scope.dialogs.iter().map(|id| id.uuid()))).all(tx).await?;
    rows.iter()
        .map(|row| {
            let applied = Applied {
                version: row.get("version")?,
                last_seq: row.get("last_seq")?,
                last_at_us: row.get("last_at_us")?,
                missing: parse_missing(&row.get::<String>("missing")?),
            };
            Ok((DialogId::new(row.get("dialog_id")?), applied))
        })
        .collect()
}

/// Locks every user whose version may step: the users named by inputs, and the members of dialogs with
/// changed messages. Call it after [`dialogs`], which keeps members from being added or removed.
pub(super) async fn users(tx: &mut Tx, scope: &Scope) -> Result<(), Error> {
    if scope.users.is_empty() && scope.message_dialogs.is_empty() {
        return Ok(());
    }
    // Locks: the `user_version` rows of all these users, by user id, after the dialogs. A separate
    // statement: it starts when the dialogs are locked, so its join sees the members that the previous
    // holders of those locks have committed. Transactions in different dialogs meet here if they change
    // the same user; sorted, they wait and do not deadlock, and `step` later updates the rows in any
    // order.
    let lock = query(
        "insert into user_version (user_id)
         select user_id from (
             select id as user_id from rows($1: id uuid) as named
             union
             select m.user_id from rows($2: id uuid) as d
             join member_counter m on m.dialog_id = d.id where m.joined_seq is not null
         ) as u
         where true order by user_id
         on conflict (user_id) do update set user_id = excluded.user_id where false",
    );
    let named = ids(scope.users.iter().map(|id| id.uuid()));
    lock.bind(named).bind(ids(scope.message_dialogs.iter().map(|id| id.uuid()))).execute(tx).await.map(drop)
}

/// Writes the applied versions of the dialogs, whose rows are locked.
pub(super) async fn write_applied(tx: &mut Tx, applied: &BTreeMap<DialogId, Applied>) -> Result<(), Error> {
    if applied.is_empty() {
        return Ok(());
    }
    let rows: Vec<Value> = applied
        .iter()
        .map(|(dialog_id, applied)| {
            json!({
                "dialog_id": dialog_id.uuid(),
                "version": applied.version,
                "last_seq": applied.last_seq,
                "last_at_us": applied.last_at_us,
                "missing": serde_json::to_string(&applied.missing).expect("pairs of integers are valid JSON"),
            })
        })
        .collect();
    // No new lock: `dialogs` has locked exactly these rows.
    let update = query(
        "update dialog_applied
         set version = r.version, last_seq = r.last_seq, last_at_us = r.last_at_us, missing = r.missing
         from rows($1: dialog_id uuid, version bigint, last_seq bigint, last_at_us bigint, missing text) as r
         where dialog_applied.dialog_id = r.dialog_id",
    );
    update.bind(Value::Array(rows)).execute(tx).await.map(drop)
}

/// Increments the versions of these users, whose rows are locked. Returns the new versions, and if events
/// of one of the user's dialogs are missing: a transaction that opens or closes a gap locks all its members
/// first, so the answer belongs to the version. Call it after [`write_applied`].
pub(super) async fn step(
    tx: &mut Tx,
    users: impl Iterator<Item = UserId>,
) -> Result<BTreeMap<UserId, (i64, bool)>, Error> {
    let users = ids(users.map(UserId::uuid));
    if users == Value::Array(Vec::new()) {
        return Ok(BTreeMap::new());
    }
    // No new lock: `users` has locked these rows and possibly more.
    let step = query(
        "update user_version set version = user_version.version + 1
         from rows($1: id uuid) as r where user_version.user_id = r.id
         returning user_id, version, exists (
             select 1 from dialog_applied a
             join member_counter m on m.dialog_id = a.dialog_id and m.user_id = user_version.user_id
             where a.missing <> '[]' and m.joined_seq is not null and not m.has_left
         ) as stale",
    );
    let rows = step.bind(users).all(tx).await?;
    rows.iter()
        .map(|row| Ok((UserId::new(row.get("user_id")?), (row.get("version")?, row.get("stale")?))))
        .collect()
}

/// Encodes ids as the rows of a set.
pub(super) fn ids(ids: impl Iterator<Item = uuid::Uuid>) -> Value {
    Value::Array(ids.map(|id| json!({ "id": id })).collect())
}

/// Parses the column `missing`, which only [`write_applied`] writes.
pub(super) fn parse_missing(text: &str) -> Missing {
    serde_json::from_str(text).expect("the column holds ranges that write_applied has encoded")
}
