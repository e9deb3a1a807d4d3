//! The locking statements, sorted by key: a row that does not exist cannot be locked, so they make it. And the writes of
//! the rows that were locked.

use std::collections::BTreeMap;

use db::{Error, Tx, query};
use proto::{DialogId, UserId};
use serde_json::{Value, json};

use super::Scope;
use crate::kernel::applied::{Applied, Missing};

/// Locks the dialogs and reads how far their events were applied.
pub(super) async fn dialogs(tx: &mut Tx, scope: &Scope) -> Result<BTreeMap<DialogId, Applied>, Error> {
    if scope.dialogs.is_empty() {
        return Ok(BTreeMap::new());
    }
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
                missing: missing(&row.get::<String>("missing")?),
            };
            Ok((DialogId::new(row.get("dialog_id")?), applied))
        })
        .collect()
}

/// Locks every user whose version may step: those named, and those who take part where messages change. To be called
/// with the dialogs locked, since nobody joins or leaves then.
pub(super) async fn users(tx: &mut Tx, scope: &Scope) -> Result<(), Error> {
    if scope.users.is_empty() && scope.crowds.is_empty() {
        return Ok(());
    }
    let lock = query(
        "insert into user_version (user_id)
         select user_id from (
             select id as user_id from rows($1: id uuid) as named
             union
             select m.user_id from rows($2: id uuid) as d
             join member_counter m on m.dialog_id = d.id where m.joined_seq is not null
         ) as u
         where true order by user_id
         on conflict (user_id) do update set user_id = excluded.user_id",
    );
    let named = ids(scope.users.iter().map(|id| id.uuid()));
    lock.bind(named).bind(ids(scope.crowds.iter().map(|id| id.uuid()))).execute(tx).await.map(drop)
}

/// Writes how far the dialogs' events were applied.
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
                "missing": serde_json::to_string(&applied.missing).expect("pairs of numbers are JSON"),
            })
        })
        .collect();
    let update = query(
        "update dialog_applied
         set version = r.version, last_seq = r.last_seq, last_at_us = r.last_at_us, missing = r.missing
         from rows($1: dialog_id uuid, version bigint, last_seq bigint, last_at_us bigint, missing text) as r
         where dialog_applied.dialog_id = r.dialog_id",
    );
    update.bind(Value::Array(rows)).execute(tx).await.map(drop)
}

/// One step of the versions of these users; their versions after it.
pub(super) async fn step(
    tx: &mut Tx,
    users: impl Iterator<Item = UserId>,
) -> Result<BTreeMap<UserId, i64>, Error> {
    let users = ids(users.map(UserId::uuid));
    if users == Value::Array(Vec::new()) {
        return Ok(BTreeMap::new());
    }
    let step = query(
        "update user_version set version = user_version.version + 1
         from rows($1: id uuid) as r where user_version.user_id = r.id
         returning user_id, version",
    );
    let rows = step.bind(users).all(tx).await?;
    rows.iter().map(|row| Ok((UserId::new(row.get("user_id")?), row.get("version")?))).collect()
}

/// Ids as the rows of a set.
pub(super) fn ids(ids: impl Iterator<Item = uuid::Uuid>) -> Value {
    Value::Array(ids.map(|id| json!({ "id": id })).collect())
}

/// Reads the ranges back. Only [`write_applied`] writes them.
pub(super) fn missing(text: &str) -> Missing {
    serde_json::from_str(text).expect("the column holds what this module has written")
}
