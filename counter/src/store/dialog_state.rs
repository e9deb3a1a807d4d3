//! Whole dialogs: reads their rows as the kernel's state, and replaces those rows by a derived state.

use std::collections::{BTreeMap, BTreeSet};

use db::{Error, Row, Tx, query};
use proto::{DialogId, MessageId, UserId};
use serde_json::{Value, json};

use super::{Before, Scope, counters, lock, stale_dialogs, step_versions};
use crate::{
    derived::{self, Drift, Source},
    kernel::{
        Dialog, Effects, Member, Membership,
        applied::Applied,
        ledger::{Entry, EntryState, VoidReason},
    },
};

/// Result of [`replace`].
#[derive(Debug)]
pub(crate) enum Replacement {
    /// The counter has applied events after the source was read. It must be read again up to this version,
    /// which it has if its past was not replaced.
    Behind(i64),
    /// The rows are those of the source.
    Done {
        /// Effects to be published.
        effects: Effects,
        /// What differed.
        drift: Vec<Drift>,
    },
}

/// Loads the state of dialogs, in statements that see one state if the transaction does. A dialog without
/// rows is absent.
pub(crate) async fn load(tx: &mut Tx, ids: &[DialogId]) -> Result<BTreeMap<DialogId, Dialog>, Error> {
    let ids = lock::ids(ids.iter().map(|id| id.uuid()));
    let mut dialogs: BTreeMap<DialogId, Dialog> = BTreeMap::new();
    let applied = query(
        "select a.* from (select distinct id from rows($1: id uuid) as r) as d
         join dialog_applied a on a.dialog_id = d.id",
    );
    for row in applied.bind(ids.clone()).all(&mut *tx).await? {
        let applied = Applied {
            version: row.get("version")?,
            last_seq: row.get("last_seq")?,
            last_at_us: row.get("last_at_us")?,
            missing: lock::parse_missing(&row.get::<String>("missing")?),
        };
        dialogs.entry(DialogId::new(row.get("dialog_id")?)).or_default().applied = applied;
    }
    let members = query(
        "select m.* from (select distinct id from rows($1: id uuid) as r) as d
         join member_counter m on m.dialog_id = d.id",
    );
    for row in members.bind(ids.clone()).all(&mut *tx).await? {
        let dialog = dialogs.entry(DialogId::new(row.get("dialog_id")?)).or_default();
        dialog.members.insert(UserId::new(row.get("user_id")?), member(&row)?);
    }
    let ledger = query(
        "select l.* from (select distinct id from rows($1: id uuid) as r) as d
         join ledger l on l.dialog_id = d.id",
    );
    for row in ledger.bind(ids).all(tx).await? {
        let dialog = dialogs.entry(DialogId::new(row.get("dialog_id")?)).or_default();
        dialog.ledger.insert(row.get("seq")?, entry(&row)?);
    }
    Ok(dialogs)
}

fn member(row: &Row) -> Result<Member, Error> {
    let joined_seq: Option<i64> = row.get("joined_seq")?;
    let membership = match (joined_seq, row.get("has_left")?) {
        (_, true) => Membership::Left,
        (Some(joined_seq), false) => Membership::Joined(joined_seq),
        (None, false) => Membership::Unknown,
    };
    let version = row.get("membership_version")?;
    Ok(Member { version, membership, read_seq: row.get("read_seq")?, unread: row.get("unread")? })
}

/// Decodes a row of the ledger.
pub(super) fn entry(row: &Row) -> Result<Entry, Error> {
    let state = match row.get::<Option<String>>("why")?.as_deref() {
        None => EntryState::Counted,
        Some("deleted") => EntryState::Void(VoidReason::Deleted),
        Some(_) => {
            EntryState::Void(VoidReason::Refused(row.get::<Option<String>>("reason")?.unwrap_or_default()))
        }
    };
    let message_id = MessageId::new(row.get("message_id")?);
    Ok(Entry { message_id, author_id: UserId::new(row.get("author_id")?), state })
}

/// Columns of a ledger entry: state, why and reason.
pub(super) fn entry_columns(entry: &Entry) -> (&'static str, Option<&'static str>, Option<&str>) {
    match &entry.state {
        EntryState::Counted => ("counted", None, None),
        EntryState::Void(VoidReason::Deleted) => ("void", Some("deleted"), None),
        EntryState::Void(VoidReason::Refused(reason)) => ("void", Some("refused"), Some(reason)),
    }
}

/// Replaces the rows of a dialog by the state that follows from its source, under the dialog's locks, and
/// steps the versions of all members whose numbers change.
///
/// A source that was read before the counter applied further events is not enough; then nothing is written.
/// `is_final` says that it was read again and is at its end: the dialog service has lost that past, and
/// what it has now holds.
///
/// # Errors
/// [`crate::Error::Database`]; it is [`Error::Refused`] if a rule of the database does not allow the result.
pub(crate) async fn replace(
    tx: &mut Tx,
    dialog_id: DialogId,
    source: &Source,
    is_final: bool,
) -> Result<Replacement, crate::Error> {
    let mut scope = Scope { dialogs: BTreeSet::from([dialog_id]), ..Scope::default() };
    let applied = lock::dialogs(tx, &scope).await?;
    let stored = load(tx, &[dialog_id]).await?.remove(&dialog_id).unwrap_or_default();
    if !is_final && let Some(version) = unread_version(source, &stored) {
        return Ok(Replacement::Behind(version));
    }
    scope.message_dialogs.insert(dialog_id);
    scope.users = stored.members.keys().chain(source.members.keys()).copied().collect();
    scope.members = scope.users.iter().map(|user_id| (*user_id, dialog_id)).collect();
    lock::users(tx, &scope).await?;
    let before = counters::load(tx, &scope).await?;
    let derived = derived::derive(dialog_id, source, &stored);
    let drift = derived::compare(dialog_id, source, &stored).drift;
    write_ledger(tx, dialog_id, &stored, &derived).await?;
    write_members(tx, dialog_id, &stored, &derived).await?;
    let now = BTreeMap::from([(dialog_id, derived.applied)]);
    lock::write_applied(tx, &now).await?;
    let after = counters::load(tx, &scope).await?;
    if !drift.is_empty() {
        // What gateways and caches hold may differ from the rows that were stored, so a change of these says
        // nothing to them. A version that no event announces makes them load the numbers again.
        lock::step(tx, scope.users.iter().copied()).await?;
    }
    let before = Before { counters: &before, stale_dialogs: &stale_dialogs(&applied) };
    let mut effects = Effects::default();
    step_versions(tx, before, &after, &now, &mut effects).await?;
    Ok(Replacement::Done { effects, drift })
}

/// Returns a version that the source must reach to contain everything that the counter knows; `None` if it
/// does.
fn unread_version(source: &Source, stored: &Dialog) -> Option<i64> {
    let newest = stored.members.values().map(|member| member.version).max().unwrap_or(0);
    let newest = newest.max(stored.applied.version);
    let has_unknown_message = stored.ledger.keys().any(|seq| !source.messages.contains_key(seq));
    let version = newest.max(if has_unknown_message { source.head + 1 } else { 0 });
    (version > source.head).then_some(version)
}

async fn write_ledger(
    tx: &mut Tx,
    dialog_id: DialogId,
    stored: &Dialog,
    derived: &Dialog,
) -> Result<(), Error> {
    let gone: Vec<Value> = stored
        .ledger
        .keys()
        .filter(|seq| !derived.ledger.contains_key(seq))
        .map(|seq| json!({ "seq": seq }))
        .collect();
    if !gone.is_empty() {
        let delete = query(
            "delete from ledger where dialog_id = $1 and seq in (select seq from rows($2: seq bigint) as r)",
        );
        delete.bind(dialog_id.uuid()).bind(Value::Array(gone)).execute(&mut *tx).await?;
    }
    let changed = derived.ledger.iter().filter(|(seq, entry)| stored.ledger.get(seq) != Some(*entry));
    let changed: Vec<Value> = changed
        .map(|(seq, entry)| {
            let (state, why, reason) = entry_columns(entry);
            json!({
                "seq": seq, "message_id": entry.message_id.uuid(), "author_id": entry.author_id.uuid(),
                "state": state, "why": why, "reason": reason,
            })
        })
        .collect();
    if changed.is_empty() {
        return Ok(());
    }
    let upsert = query(
        "insert into ledger (dialog_id, seq, message_id, author_id, state, why, reason)
         select $1, seq, message_id, author_id, state, why, reason
         from rows($2: seq bigint, message_id uuid, author_id uuid, state text, why text, reason text) as r
         where true order by seq
         on conflict (dialog_id, seq) do update
         set message_id = excluded.message_id, author_id = excluded.author_id, state = excluded.state,
             why = excluded.why, reason = excluded.reason",
    );
    upsert.bind(dialog_id.uuid()).bind(Value::Array(changed)).execute(tx).await.map(drop)
}

async fn write_members(
    tx: &mut Tx,
    dialog_id: DialogId,
    stored: &Dialog,
    derived: &Dialog,
) -> Result<(), Error> {
    let changed =
        derived.members.iter().filter(|(user_id, member)| stored.members.get(user_id) != Some(*member));
    let changed: Vec<Value> = changed
        .map(|(user_id, member)| {
            let joined_seq = match member.membership {
                Membership::Joined(joined_seq) => Some(joined_seq),
                Membership::Left | Membership::Unknown => None,
            };
            json!({
                "user_id": user_id.uuid(), "version": member.version, "joined_seq": joined_seq,
                "has_left": member.membership == Membership::Left, "read_seq": member.read_seq,
                "unread": member.unread,
            })
        })
        .collect();
    if changed.is_empty() {
        return Ok(());
    }
    let upsert = query(
        "insert into member_counter
             (user_id, dialog_id, membership_version, joined_seq, has_left, read_seq, unread)
         select user_id, $1, version, joined_seq, has_left, read_seq, unread
         from rows($2: user_id uuid, version bigint, joined_seq bigint, has_left boolean, \
                       read_seq bigint, unread bigint) as r
         where true order by user_id
         on conflict (user_id, dialog_id) do update
         set membership_version = excluded.membership_version, joined_seq = excluded.joined_seq,
             has_left = excluded.has_left, read_seq = excluded.read_seq, unread = excluded.unread",
    );
    upsert.bind(dialog_id.uuid()).bind(Value::Array(changed)).execute(tx).await.map(drop)
}
