//! Application of one batch of inputs in sets of rows, all or nothing. The ledger comes first, and adds
//! to the counts of members by their pointers before the batch; then memberships and read pointers,
//! whose rows are counted again.

use std::collections::{BTreeMap, BTreeSet};

use db::{Error, Tx, query};
use proto::{DialogId, UserId};
use serde_json::{Value, json};

use super::{Outcome, counters, dialog_state, lock};
use crate::kernel::{
    Change, FAILED_BEFORE, Input, SagaReply,
    applied::Applied,
    ledger::{self, Entry, EntryState, Message, VoidReason},
};

/// Effects of a batch, except changed counts.
#[derive(Debug, Default)]
pub(super) struct BatchEffects {
    replies: Vec<SagaReply>,
    /// Indexes in the batch.
    divergences: Vec<usize>,
    seen: Vec<SeenMessage>,
}

/// Message that moves the dialog's `last_seq` and `last_at_us`.
#[derive(Debug)]
struct SeenMessage {
    dialog_id: DialogId,
    seq: i64,
    /// Time of the message if its reply is "counted", else 0.
    at_us: i64,
}

impl BatchEffects {
    /// Adds the effects to those of the transaction. `start` is the index of the batch's first input.
    pub(super) fn merge_into(
        self,
        start: usize,
        applied: &mut BTreeMap<DialogId, Applied>,
        outcome: &mut Outcome,
    ) {
        for SeenMessage { dialog_id, seq, at_us } in self.seen {
            let applied = applied.entry(dialog_id).or_default();
            applied.record_message(seq);
            applied.last_at_us = applied.last_at_us.max(at_us);
        }
        outcome.effects.replies.extend(self.replies);
        outcome.effects.divergences.extend(self.divergences.into_iter().map(|index| start + index));
    }
}

/// Rows that a batch changes, by key.
#[derive(Debug, Default)]
struct Changes {
    /// Newest membership: its version, and `joined_seq` if it is a join.
    memberships: BTreeMap<(UserId, DialogId), (i64, Option<i64>)>,
    /// Highest read pointer.
    reads: BTreeMap<(UserId, DialogId), i64>,
    /// Changed entries, each with the amount to add to `unread` of members for whom the message counts.
    ledger: BTreeMap<(DialogId, i64), (Entry, i64)>,
}

/// Source of the counts of members after a change of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Counting {
    /// The stored count plus or minus the message.
    Adjusted,
    /// The ledger, for all members of the dialog. Never negative, whatever was stored.
    FromLedger,
}

/// Applies one batch. All rows that it may change must be locked (see [`super`]), so no statement here
/// takes a lock that another transaction could hold.
///
/// # Errors
/// [`Error::Refused`] if a constraint does not allow the result; the caller undoes the batch. Other
/// errors of the database.
pub(super) async fn batch(tx: &mut Tx, inputs: &[Input], counting: Counting) -> Result<BatchEffects, Error> {
    let known = load_ledger(tx, inputs).await?;
    let (changes, effects) = collect(inputs, known);
    write_ledger(tx, &changes).await?;
    // By the pointers before the batch. Members whose own pointers move are counted again below, which
    // includes the new entries of the ledger, so they are not counted twice.
    if counting == Counting::Adjusted {
        add_deltas(tx, &changes).await?;
    }
    write_memberships(tx, &changes).await?;
    let mut moved = write_reads(tx, &changes).await?;
    moved.extend(changes.memberships.keys());
    if counting == Counting::FromLedger {
        moved.extend(members(tx, &changes).await?);
    }
    step_over_own(tx, &changes, &moved).await?;
    recount(tx, &moved).await?;
    Ok(effects)
}

/// Runs the inputs over the known ledger entries and collects the rows to write.
fn collect(inputs: &[Input], mut known: BTreeMap<(DialogId, i64), Entry>) -> (Changes, BatchEffects) {
    let mut changes = Changes::default();
    let mut effects = BatchEffects::default();
    for (index, input) in inputs.iter().enumerate() {
        let Input::Dialog { dialog_id, change, .. } = input else { continue };
        let member = |user_id: &UserId| (*user_id, *dialog_id);
        match change {
            Change::VersionOnly | Change::Repaired(_) => {}
            Change::Joined { user_id, version, joined_seq } => {
                changes.add_membership(member(user_id), *version, Some(*joined_seq));
            }
            Change::Left { user_id, version } => changes.add_membership(member(user_id), *version, None),
            Change::Read { user_id, up_to } => {
                let read_seq = changes.reads.entry(member(user_id)).or_default();
                *read_seq = (*read_seq).max(*up_to);
            }
            Change::Sent(message, _)
            | Change::Refused(message, _)
            | Change::Deleted(message)
            | Change::Failed(message) => {
                let key = (*dialog_id, message.seq);
                match ledger::transition(known.get(&key), message, target_state(change)) {
                    Ok(transition) => {
                        effects.add_message(*dialog_id, message, change, &transition.entry);
                        known.insert(key, transition.entry.clone());
                        if transition.changed {
                            changes.ledger.insert(key, (transition.entry, transition.delta));
                        }
                    }
                    Err(ledger::Divergence) => effects.divergences.push(index),
                }
            }
        }
    }
    changes.reads.retain(|_, read_seq| *read_seq > 0);
    (changes, effects)
}

/// Returns the state that a message's change asks for.
fn target_state(change: &Change) -> EntryState {
    match change {
        Change::Refused(_, reason) => EntryState::refused(reason),
        Change::Failed(_) => EntryState::refused(FAILED_BEFORE),
        Change::Deleted(_) => EntryState::Void(VoidReason::Deleted),
        _ => EntryState::Counted,
    }
}

impl BatchEffects {
    fn add_message(&mut self, dialog_id: DialogId, message: &Message, change: &Change, entry: &Entry) {
        let refused = entry.state.refusal().map(str::to_owned);
        let at_us = match change {
            Change::Sent(_, at_us) if refused.is_none() => *at_us,
            _ => 0,
        };
        self.seen.push(SeenMessage { dialog_id, seq: message.seq, at_us });
        if matches!(change, Change::Sent(..) | Change::Refused(..)) {
            self.replies.push(SagaReply { dialog_id, seq: message.seq, message_id: message.id, refused });
        }
    }
}

impl Changes {
    fn add_membership(&mut self, key: (UserId, DialogId), version: i64, joined_seq: Option<i64>) {
        let membership = self.memberships.entry(key).or_insert((version, joined_seq));
        if version > membership.0 {
            *membership = (version, joined_seq);
        }
    }
}

/// Loads the ledger entries of all messages that the inputs name.
pub(super) async fn load_ledger(
    tx: &mut Tx,
    inputs: &[Input],
) -> Result<BTreeMap<(DialogId, i64), Entry>, Error> {
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
        .map(|row| Ok(((DialogId::new(row.get("dialog_id")?), row.get("seq")?), dialog_state::entry(row)?)))
        .collect()
}

/// Writes changed entries. The condition on the states repeats I6 in SQL: no statement of this service
/// can undo a void entry.
async fn write_ledger(tx: &mut Tx, changes: &Changes) -> Result<(), Error> {
    if changes.ledger.is_empty() {
        return Ok(());
    }
    let rows = changes.ledger.iter().map(|((dialog_id, seq), (entry, _))| {
        let (state, why, reason) = dialog_state::entry_columns(entry);
        json!({
            "dialog_id": dialog_id.uuid(), "seq": seq, "message_id": entry.message_id.uuid(),
            "author_id": entry.author_id.uuid(), "state": state, "why": why, "reason": reason,
        })
    });
    // Ledger rows of locked dialogs, so no other transaction can hold a lock on them.
    let upsert = query(
        "insert into ledger (dialog_id, seq, message_id, author_id, state, why, reason)
         select dialog_id, seq, message_id, author_id, state, why, reason
         from rows($1: dialog_id uuid, seq bigint, message_id uuid, author_id uuid, \
                       state text, why text, reason text) as r
         where true order by dialog_id, seq
         on conflict (dialog_id, seq) do update
         set state = excluded.state, why = excluded.why, reason = excluded.reason
         where ledger.state = 'counted' and excluded.state = 'void'",
    );
    upsert.bind(Value::Array(rows.collect())).execute(tx).await.map(drop)
}

/// Adds the ledger's changes to `unread` of every member for whom the messages count: the predicate of
/// the kernel in SQL.
async fn add_deltas(tx: &mut Tx, changes: &Changes) -> Result<(), Error> {
    let counted = changes.ledger.iter().filter(|(_, (_, delta))| *delta != 0);
    let rows: Vec<Value> = counted
        .map(|((dialog_id, seq), (entry, delta))| {
            json!({
                "dialog_id": dialog_id.uuid(), "seq": seq,
                "author_id": entry.author_id.uuid(), "delta": delta,
            })
        })
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    // All members of locked dialogs, so no lock can be waited for, and the counts read here are the
    // newest. Locks and this join must be separate statements: `anomaly_tests` shows the count that is
    // lost otherwise.
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

/// Returns the members of the dialogs with changed messages.
async fn members(tx: &mut Tx, changes: &Changes) -> Result<BTreeSet<(UserId, DialogId)>, Error> {
    let dialogs: BTreeSet<DialogId> = changes.ledger.keys().map(|(dialog_id, _)| *dialog_id).collect();
    let select = query(
        "select m.user_id, m.dialog_id from rows($1: id uuid) as d
         join member_counter m on m.dialog_id = d.id where m.joined_seq is not null",
    );
    let rows = select.bind(lock::ids(dialogs.iter().map(|id| id.uuid()))).all(tx).await?;
    rows.iter()
        .map(|row| Ok((UserId::new(row.get("user_id")?), DialogId::new(row.get("dialog_id")?))))
        .collect()
}

/// Writes memberships that are newer than the stored ones.
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
    // Members of locked dialogs, so no other transaction can hold a lock on these rows or create them.
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

/// Moves read pointers forward, and returns the members whose pointers moved; `where` keeps a stale read
/// from moving one back (I5).
async fn write_reads(tx: &mut Tx, changes: &Changes) -> Result<BTreeSet<(UserId, DialogId)>, Error> {
    if changes.reads.is_empty() {
        return Ok(BTreeSet::new());
    }
    let rows = changes.reads.iter().map(|((user_id, dialog_id), read_seq)| {
        json!({ "user_id": user_id.uuid(), "dialog_id": dialog_id.uuid(), "read_seq": read_seq })
    });
    // Members of locked dialogs, as above.
    let upsert = query(
        "insert into member_counter (user_id, dialog_id, read_seq)
         select user_id, dialog_id, read_seq
         from rows($1: user_id uuid, dialog_id uuid, read_seq bigint) as r
         where true order by user_id, dialog_id
         on conflict (user_id, dialog_id) do update set read_seq = excluded.read_seq
         where excluded.read_seq > member_counter.read_seq
         returning user_id, dialog_id",
    );
    let rows = upsert.bind(Value::Array(rows.collect())).all(tx).await?;
    rows.iter()
        .map(|row| Ok((UserId::new(row.get("user_id")?), DialogId::new(row.get("dialog_id")?))))
        .collect()
}

/// Moves the read pointers of members whose rows may have moved, and of the authors of changed messages,
/// over the own messages that follow them without a gap.
async fn step_over_own(
    tx: &mut Tx,
    changes: &Changes,
    moved: &BTreeSet<(UserId, DialogId)>,
) -> Result<(), Error> {
    let authors = changes.ledger.iter().map(|((dialog_id, _), (entry, _))| (entry.author_id, *dialog_id));
    let members: BTreeSet<(UserId, DialogId)> = moved.iter().copied().chain(authors).collect();
    if members.is_empty() {
        return Ok(());
    }
    // In a separate statement that sees the new pointers and the new ledger entries. Members of locked
    // dialogs, as above. The last condition is the recursion's first step: without an own message after
    // the pointer nothing is written.
    let update = query(
        "update member_counter set read_seq = (
             with recursive own (seq) as (
                 select member_counter.read_seq
                 union all
                 select l.seq from own join ledger l
                     on l.dialog_id = member_counter.dialog_id and l.seq = own.seq + 1
                 where l.author_id = member_counter.user_id
             )
             select max(seq) from own
         )
         from rows($1: user_id uuid, dialog_id uuid) as r
         where member_counter.user_id = r.user_id and member_counter.dialog_id = r.dialog_id and exists (
             select 1 from ledger l
             where l.dialog_id = member_counter.dialog_id and l.seq = member_counter.read_seq + 1
               and l.author_id = member_counter.user_id
         )",
    );
    update.bind(counters::keys(members.iter())).execute(tx).await.map(drop)
}

/// Sets `unread` by its definition (I1) for members whose membership or read pointer may have moved.
async fn recount(tx: &mut Tx, members: &BTreeSet<(UserId, DialogId)>) -> Result<(), Error> {
    if members.is_empty() {
        return Ok(());
    }
    // After the pointers, in a separate statement that sees them. The dialogs' locks keep the ledger
    // still.
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
    update.bind(counters::keys(members.iter())).execute(tx).await.map(drop)
}
