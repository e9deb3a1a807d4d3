//! The numbers of the rows that a transaction may change, read before and after it: their difference is what users are
//! told.

use std::collections::BTreeMap;

use db::{Error, Tx, query};
use proto::{DialogId, UserId};
use serde_json::{Value, json};

use super::{Scope, lock};

/// `unread` and `read_seq` by row.
pub(super) type Numbers = BTreeMap<(UserId, DialogId), (i64, i64)>;

/// Reads the numbers of everyone who takes part where messages change, and of the rows that are named.
pub(super) async fn read(tx: &mut Tx, scope: &Scope) -> Result<Numbers, Error> {
    if scope.crowds.is_empty() && scope.rows.is_empty() {
        return Ok(Numbers::new());
    }
    let select = query(
        "select m.user_id, m.dialog_id, m.unread, m.read_seq from rows($1: id uuid) as d
         join member_counter m on m.dialog_id = d.id where m.joined_seq is not null
         union
         select m.user_id, m.dialog_id, m.unread, m.read_seq from rows($2: user_id uuid, dialog_id uuid) as r
         join member_counter m on m.user_id = r.user_id and m.dialog_id = r.dialog_id",
    );
    let crowds = lock::ids(scope.crowds.iter().map(|id| id.uuid()));
    let rows = select.bind(crowds).bind(pairs(scope.rows.iter())).all(tx).await?;
    rows.iter()
        .map(|row| {
            let key = (UserId::new(row.get("user_id")?), DialogId::new(row.get("dialog_id")?));
            Ok((key, (row.get("unread")?, row.get("read_seq")?)))
        })
        .collect()
}

/// Keys of `member_counter` as the rows of a set.
pub(super) fn pairs<'a>(rows: impl Iterator<Item = &'a (UserId, DialogId)>) -> Value {
    Value::Array(
        rows.map(|(user, dialog)| json!({ "user_id": user.uuid(), "dialog_id": dialog.uuid() })).collect(),
    )
}
