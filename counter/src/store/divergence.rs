//! Divergent messages: each claims a `seq` that the ledger has given to another message. They are
//! recorded, so that each becomes one dead letter however often it arrives.

use std::collections::BTreeMap;

use db::{Error, Tx, query};
use proto::{DialogId, MessageId};
use serde_json::{Value, json};

use super::apply;
use crate::kernel::{
    Change, Input,
    ledger::{EntryState, Message},
};

/// Records the messages of these inputs, and returns the indexes of those that were not recorded before.
/// Requires the locks of their dialogs.
pub(super) async fn record(tx: &mut Tx, inputs: &[Input], divergent: &[usize]) -> Result<Vec<usize>, Error> {
    let mut first = BTreeMap::new();
    for index in divergent {
        if let Some((dialog_id, message)) = message_of(&inputs[*index]) {
            first.entry((dialog_id, message.seq, message.id)).or_insert(*index);
        }
    }
    if first.is_empty() {
        return Ok(Vec::new());
    }
    let keys = first.keys().map(|(dialog_id, seq, message_id)| {
        json!({ "dialog_id": dialog_id.uuid(), "seq": seq, "message_id": message_id.uuid() })
    });
    // Rows of locked dialogs, so no other transaction can hold a lock on them.
    let insert = query(
        "insert into divergence (dialog_id, seq, message_id, found_at_us)
         select r.dialog_id, r.seq, r.message_id, clock.now_us
         from rows($1: dialog_id uuid, seq bigint, message_id uuid) as r cross join clock
         where true order by r.dialog_id, r.seq, r.message_id
         on conflict (dialog_id, seq, message_id) do nothing
         returning dialog_id, seq, message_id",
    );
    let rows = insert.bind(Value::Array(keys.collect())).all(tx).await?;
    let mut indexes = Vec::with_capacity(rows.len());
    for row in &rows {
        let dialog_id = DialogId::new(row.get("dialog_id")?);
        let key = (dialog_id, row.get("seq")?, MessageId::new(row.get("message_id")?));
        indexes.extend(first.get(&key));
    }
    indexes.sort_unstable();
    Ok(indexes)
}

/// Returns the inputs that void the counted messages whose `seq` these inputs claim.
///
/// A void entry is the only state in which neither message counts: the one in the ledger is not in the
/// dialog any more, and the one in the dialog becomes FAILED.
pub(crate) async fn displacements(
    tx: &mut Tx,
    inputs: &[Input],
    divergent: &[usize],
) -> Result<Vec<Input>, Error> {
    let claims: Vec<Input> = divergent.iter().map(|index| inputs[*index].clone()).collect();
    let entries = apply::load_ledger(tx, &claims).await?;
    let counted = entries.into_iter().filter(|(_, entry)| entry.state == EntryState::Counted);
    let void = counted.map(|((dialog_id, seq), entry)| {
        let message = Message { seq, id: entry.message_id, author_id: entry.author_id };
        Input::Dialog { dialog_id, version: None, change: Change::Deleted(message) }
    });
    Ok(void.collect())
}

fn message_of(input: &Input) -> Option<(DialogId, &Message)> {
    match input {
        Input::Dialog { dialog_id, change, .. } => Some((*dialog_id, change.message()?)),
        Input::Registered(_) => None,
    }
}
