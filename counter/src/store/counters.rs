//! Counts of the members that a transaction may change, read before and after it. Their difference is
//! published.

use std::collections::BTreeMap;

use db::{Error, Tx, query};
use proto::{DialogId, UserId};
use serde_json::{Value, json};

use super::{Scope, lock};

/// Counts of one member.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counter {
    pub(super) unread: i64,
    pub(super) read_seq: i64,
    pub(super) is_joined: bool,
    pub(super) has_left: bool,
}

impl Counter {
    /// Returns the values whose changes are published as a version step.
    pub(super) fn published(&self) -> (i64, i64, bool) {
        (self.unread, self.read_seq, self.is_joined)
    }
}

/// Counts by member.
pub(super) type Counters = BTreeMap<(UserId, DialogId), Counter>;

/// Loads the counts of all members of the dialogs with changed messages, and of the members named by
/// inputs. Takes no lock: the rows belong to dialogs and users that [`lock`] has locked.
pub(super) async fn load(tx: &mut Tx, scope: &Scope) -> Result<Counters, Error> {
    if scope.message_dialogs.is_empty() && scope.members.is_empty() {
        return Ok(Counters::new());
    }
    let select = query(
        "select m.user_id, m.dialog_id, m.unread, m.read_seq, m.joined_seq, m.has_left
         from rows($1: id uuid) as d
         join member_counter m on m.dialog_id = d.id where m.joined_seq is not null
         union
         select m.user_id, m.dialog_id, m.unread, m.read_seq, m.joined_seq, m.has_left
         from rows($2: user_id uuid, dialog_id uuid) as r
         join member_counter m on m.user_id = r.user_id and m.dialog_id = r.dialog_id",
    );
    let dialogs = lock::ids(scope.message_dialogs.iter().map(|id| id.uuid()));
    let rows = select.bind(dialogs).bind(keys(scope.members.iter())).all(tx).await?;
    rows.iter()
        .map(|row| {
            let key = (UserId::new(row.get("user_id")?), DialogId::new(row.get("dialog_id")?));
            let has_left: bool = row.get("has_left")?;
            let is_joined = row.get::<Option<i64>>("joined_seq")?.is_some() && !has_left;
            let unread = row.get("unread")?;
            Ok((key, Counter { unread, read_seq: row.get("read_seq")?, is_joined, has_left }))
        })
        .collect()
}

/// Encodes keys of `member_counter` as the rows of a set.
pub(super) fn keys<'a>(members: impl Iterator<Item = &'a (UserId, DialogId)>) -> Value {
    Value::Array(
        members.map(|(user, dialog)| json!({ "user_id": user.uuid(), "dialog_id": dialog.uuid() })).collect(),
    )
}
