//! A part of a transaction, applied in sets, all or nothing: first the ledger, with the difference it makes to everyone by
//! the pointers they had; then pointers and memberships, with their rows counted anew.

use std::collections::{BTreeMap, BTreeSet};

use db::{Error, Tx, query};
use proto::{DialogId, MessageId, UserId};
use serde_json::{Value, json};

use super::{Done, number};
use crate::kernel::{
    Answer, Change, FAILED_BEFORE, Input,
    applied::Applied,
    ledger::{self, Entry, Message, Standing, Why},
};

/// What a part did.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    answers: Vec<Answer>,
    divergences: Vec<usize>,
    /// Messages seen, and the time of those answered as counted.
    seen: Vec<(DialogId, i64, i64)>,
}

impl Outcome {
    /// Adds it to what the transaction did; the part began at this event.
    pub(super) fn conclude(self, start: usize, applied: &mut BTreeMap<DialogId, Applied>, done: &mut Done) {
        for (dialog_id, seq, at_us) in self.seen {
            let applied = applied.entry(dialog_id).or_default();
            applied.see_message(seq);
            applied.last_at_us = applied.last_at_us.max(at_us);
        }
        done.effects.answers.extend(self.answers);
        done.effects.divergences.extend(self.divergences.into_iter().map(|at| start + at));
    }
}

/// What a part changes, gathered by key.
#[derive(Debug, Default)]
struct Changes {
    /// The newest membership: version, and the seq of a join.
    memberships: BTreeMap<(UserId, DialogId), (i64, Option<i64>)>,
    reads: BTreeMap<(UserId, DialogId), i64>,
    /// Rows of the ledger that move, and what that adds to unread.
    ledger: BTreeMap<(DialogId, i64), (Entry, i64)>,
}

/// Applies the events of a part, with everything locked that they may change.
pub(super) async fn apply(tx: &mut Tx, inputs: &[Input]) -> Result<Outcome, Error> {
    let known = read_ledger(tx, inputs).await?;
    let (changes, outcome) = gather(inputs, known);
    write_ledger(tx, &changes).await?;
    add(tx, &changes).await?;
    write_memberships(tx, &changes).await?;
    write_reads(tx, &changes).await?;
    recount(tx, &changes).await?;
    Ok(outcome)
}

/// What the events amount to, given the rows of the ledger that they name.
fn gather(inputs: &[Input], mut known: BTreeMap<(DialogId, i64), Entry>) -> (Changes, Outcome) {
    let (mut changes, mut outcome) = (Changes::default(), Outcome::default());
    for (at, input) in inputs.iter().enumerate() {
        let Input::Dialog { dialog_id, change, .. } = input else { continue };
        let row = |user_id: &UserId| (*user_id, *dialog_id);
        match change {
            Change::Nothing | Change::Repaired(_) => {}
            Change::Joined { user_id, version, joined_seq } => {
                changes.membership(row(user_id), *version, Some(*joined_seq));
            }
            Change::Left { user_id, version } => changes.membership(row(user_id), *version, None),
            Change::Read { user_id, up_to } => {
                let read_seq = changes.reads.entry(row(user_id)).or_default();
                *read_seq = (*read_seq).max(*up_to);
            }
            Change::Sent(message, _)
            | Change::Refused(message, _)
            | Change::Deleted(message)
            | Change::Failed(message) => {
                let key = (*dialog_id, message.seq);
                match ledger::step(known.get(&key), message, towards(change)) {
                    Ok(step) => {
                        outcome.tell(*dialog_id, message, change, &step.entry);
                        known.insert(key, step.entry.clone());
                        if step.moved {
                            changes.ledger.insert(key, (step.entry, step.delta));
                        }
                    }
                    Err(ledger::Divergence) => outcome.divergences.push(at),
                }
            }
        }
    }
    changes.reads.retain(|_, read_seq| *read_seq > 0);
    (changes, outcome)
}

fn towards(change: &Change) -> Standing {
    match change {
        Change::Refused(_, reason) => Standing::Void(Why::Refused(reason.clone())),
        Change::Failed(_) => Standing::Void(Why::Refused(FAILED_BEFORE.to_owned())),
        Change::Deleted(_) => Standing::Void(Why::Deleted),
        _ => Standing::Counted,
    }
}

impl Outcome {
    fn tell(&mut self, dialog_id: DialogId, message: &Message, change: &Change, entry: &Entry) {
        let refused = match &entry.standing {
            Standing::Void(Why::Refused(reason)) => Some(reason.clone()),
            Standing::Counted | Standing::Void(Why::Deleted) => None,
        };
        let at_us = match change {
            Change::Sent(_, at_us) if refused.is_none() => *at_us,
            _ => 0,
        };
        self.seen.push((dialog_id, message.seq, at_us));
        if matches!(change, Change::Sent(..) | Change::Refused(..)) {
            self.answers.push(Answer { dialog_id, seq: message.seq, message_id: message.id, refused });
        }
    }
}

impl Changes {
    fn membership(&mut self, row: (UserId, DialogId), version: i64, joined_seq: Option<i64>) {
        let membership = self.memberships.entry(row).or_insert((version, joined_seq));
        if version > membership.0 {
            *membership = (version, joined_seq);
        }
    }
}

async fn read_ledger(tx: &mut Tx, inputs: &[Input]) -> Result<BTreeMap<(DialogId, i64), Entry>, Error> {
    let keys: BTreeSet<(DialogId, i64)> = inputs
        .iter()
        .filter_map(|input| match input {
            Input::Dialog { dialog_id, change, .. } => Some((*dialog_id, change.message()?.seq)),
            Input::Registered(_) => None,
        })
        .collect();
    if keys.is_empty() {
        return Ok(BTreeMap::new());
    }
    let keys =
        keys.iter().map(|(dialog_id, seq)| json!({ "dialog_id": dialog_id.uuid(), "seq": seq })).collect();
    let select = query(
        "select l.dialog_id, l.seq, l.message_id, l.author_id, l.why, l.reason
         from rows($1: dialog_id uuid, seq bigint) as r
         join ledger l on l.dialog_id = r.dialog_id and l.seq = r.seq",
    );
    let rows = select.bind(Value::Array(keys)).all(tx).await?;
    rows.iter()
        .map(|row| {
            let standing = match row.get::<Option<String>>("why")?.as_deref() {
                None => Standing::Counted,
                Some("deleted") => Standing::Void(Why::Deleted),
                Some(_) => {
                    Standing::Void(Why::Refused(row.get::<Option<String>>("reason")?.unwrap_or_default()))
                }
            };
            let message_id = MessageId::new(row.get("message_id")?);
            let entry = Entry { message_id, author_id: UserId::new(row.get("author_id")?), standing };
            Ok(((DialogId::new(row.get("dialog_id")?), row.get("seq")?), entry))
        })
        .collect()
}

async fn write_ledger(tx: &mut Tx, changes: &Changes) -> Result<(), Error> {
    if changes.ledger.is_empty() {
        return Ok(());
    }
    let rows = changes.ledger.iter().map(|((dialog_id, seq), (entry, _))| {
        let (state, why, reason) = match &entry.standing {
            Standing::Counted => ("counted", None, None),
            Standing::Void(Why::Deleted) => ("void", Some("deleted"), None),
            Standing::Void(Why::Refused(reason)) => ("void", Some("refused"), Some(reason)),
        };
        json!({
            "dialog_id": dialog_id.uuid(), "seq": seq, "message_id": entry.message_id.uuid(),
            "author_id": entry.author_id.uuid(), "state": state, "why": why, "reason": reason,
        })
    });
    let upsert = query(
        "insert into ledger (dialog_id, seq, message_id, author_id, state, why, reason)
         select dialog_id, seq, message_id, author_id, state, why, reason
         from rows($1: dialog_id uuid, seq bigint, message_id uuid, author_id uuid, state text, why text, reason text) as r
         where true order by dialog_id, seq
         on conflict (dialog_id, seq) do update set state = excluded.state, why = excluded.why, reason = excluded.reason
         where ledger.state = 'counted' and excluded.state = 'void'",
    );
    upsert.bind(Value::Array(rows.collect())).execute(tx).await.map(drop)
}

/// Adds what moved in the ledger to everyone for whom it counts.
async fn add(tx: &mut Tx, changes: &Changes) -> Result<(), Error> {
    let moved = changes.ledger.iter().filter(|(_, (_, delta))| *delta != 0);
    let rows: Vec<Value> = moved
        .map(|((dialog_id, seq), (entry, delta))| {
            json!({ "dialog_id": dialog_id.uuid(), "seq": seq, "author_id": entry.author_id.uuid(), "delta": delta })
        })
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    let update = query(
        "update member_counter set unread = member_counter.unread + d.delta
         from (
             select m.user_id, m.dialog_id, cast(sum(c.delta) as bigint) as delta
             from rows($1: dialog_id uuid, seq bigint, author_id uuid, delta bigint) as c
             join member_counter m on m.dialog_id = c.dialog_id
             where m.user_id <> c.author_id and m.joined_seq < c.seq and m.read_seq < c.seq and not m.has_left
             group by m.user_id, m.dialog_id
         ) as d
         where member_counter.user_id = d.user_id and member_counter.dialog_id = d.dialog_id",
    );
    update.bind(Value::Array(rows)).execute(tx).await.map(drop)
}

async fn write_memberships(tx: &mut Tx, changes: &Changes) -> Result<(), Error> {
    if changes.memberships.is_empty() {
        return Ok(());
    }
    let rows = changes.memberships.iter().map(|((user_id, dialog_id), (version, joined_seq))| {
        json!({
            "user_id": user_id.uuid(), "dialog_id": dialog_id.uuid(), "version": version,
            "joined_seq": joined_seq, "has_left": joined_seq.is_none(),
        })
    });
    let upsert = query(
        "insert into member_counter (user_id, dialog_id, membership_version, joined_seq, has_left)
         select user_id, dialog_id, version, joined_seq, has_left
         from rows($1: user_id uuid, dialog_id uuid, version bigint, joined_seq bigint, has_left boolean) as r
         where true order by user_id, dialog_id
         on conflict (user_id, dialog_id) do update
         set membership_version = excluded.membership_version, joined_seq = excluded.joined_seq,
             has_left = excluded.has_left
         where excluded.membership_version > member_counter.membership_version",
    );
    upsert.bind(Value::Array(rows.collect())).execute(tx).await.map(drop)
}

async fn write_reads(tx: &mut Tx, changes: &Changes) -> Result<(), Error> {
    if changes.reads.is_empty() {
        return Ok(());
    }
    let rows = changes.reads.iter().map(|((user_id, dialog_id), read_seq)| {
        json!({ "user_id": user_id.uuid(), "dialog_id": dialog_id.uuid(), "read_seq": read_seq })
    });
    let upsert = query(
        "insert into member_counter (user_id, dialog_id, read_seq)
         select user_id, dialog_id, read_seq
         from rows($1: user_id uuid, dialog_id uuid, read_seq bigint) as r
         where true order by user_id, dialog_id
         on conflict (user_id, dialog_id) do update set read_seq = excluded.read_seq
         where excluded.read_seq > member_counter.read_seq",
    );
    upsert.bind(Value::Array(rows.collect())).execute(tx).await.map(drop)
}

/// Counts the ledger for rows whose own pointers moved.
async fn recount(tx: &mut Tx, changes: &Changes) -> Result<(), Error> {
    let rows: BTreeSet<(UserId, DialogId)> =
        changes.memberships.keys().chain(changes.reads.keys()).copied().collect();
    if rows.is_empty() {
        return Ok(());
    }
    let update = query(
        "update member_counter set unread = case when joined_seq is null then 0 else (
             select count(*) from ledger l
             where l.dialog_id = member_counter.dialog_id and l.state = 'counted'
               and l.seq > member_counter.joined_seq and l.seq > member_counter.read_seq
               and l.author_id <> member_counter.user_id
         ) end
         from rows($1: user_id uuid, dialog_id uuid) as r
         where member_counter.user_id = r.user_id and member_counter.dialog_id = r.dialog_id",
    );
    update.bind(number::pairs(rows.iter())).execute(tx).await.map(drop)
}
