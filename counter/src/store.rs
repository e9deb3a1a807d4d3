//! Store: the rules of [`crate::kernel`] in SQL, applied to sets of rows, and all queries.
//!
//! A transaction has four stages: lock ([`lock`]), read the counts before ([`counters`]), apply the
//! inputs in batches ([`apply`]), and compare the counts to step versions and create effects.
//!
//! # Locks
//!
//! Every writer locks first and computes later, in separate statements, and always in this order:
//!
//! 1. the `dialog_applied` rows of all dialogs of the transaction, sorted by dialog id;
//! 2. the `user_version` rows of all users whose counts may change, sorted by user id. From then on each
//!    of these users' total and version belong together, whatever transactions in other dialogs do.
//!
//! Separate statements, because under READ COMMITTED a statement that waits for a row lock re-reads only
//! that row; every other row is seen as of the statement's start. A statement that both locks and counts
//! therefore misses what the transaction it waited for has written. `anomaly_tests.rs` shows the lost
//! counts. Sorted, because two transactions that lock the same rows in different orders deadlock.
//!
//! Rows of `member_counter` and `ledger` need no separate locks: the transaction that holds the lock on a
//! dialog's row is the only writer of its ledger and its members.

#[cfg(test)]
mod anomaly_tests;
mod apply;
mod counters;
mod lock;
mod query;
#[cfg(test)]
mod race_tests;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use db::{Error, Tx};
use proto::{DialogId, UserId};

pub(crate) use query::{
    epoch, incomplete, memberships, read_states, row, rows, unread, unread_of_many, version, versions,
};

use crate::kernel::{Change, ChangedRow, Effects, Input, ReadMark, UnreadChange, applied::Applied};

/// Reason of a refusal, shown to the author of the message.
pub(crate) const REFUSAL_REASON: &str = "a limit of the unread counters was exceeded";

/// Result of a transaction.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Effects to be published.
    pub(crate) effects: Effects,
    /// Indexes of inputs that the database refused, other than new messages. They become dead letters.
    pub(crate) refused: Vec<usize>,
}

/// Rows that a transaction may change.
#[derive(Debug, Default)]
struct Scope {
    /// All dialogs of the transaction.
    dialogs: BTreeSet<DialogId>,
    /// Dialogs with a changed message: the counts of all their members may change.
    message_dialogs: BTreeSet<DialogId>,
    /// Members named by an input: by joins, leaves and reads, and as authors of messages.
    members: BTreeSet<(UserId, DialogId)>,
    /// Users named by an input.
    users: BTreeSet<UserId>,
}

/// Applies one transaction of inputs, as [`crate::kernel::transact`] does. An input that the database
/// refuses is found by bisection; the others apply.
///
/// # Errors
/// Errors of the database other than refusals: the transaction must be rolled back and may be repeated.
pub(crate) async fn transact(tx: &mut Tx, inputs: &[Input]) -> Result<Outcome, Error> {
    let scope = Scope::of(inputs);
    // Dialogs before users, see the module documentation. With the dialogs locked no member is added or
    // removed, so the second statement finds all users.
    let mut applied = lock::dialogs(tx, &scope).await?;
    lock::users(tx, &scope).await?;
    let before = counters::load(tx, &scope).await?;
    for input in inputs {
        if let Input::Dialog { dialog_id, version, change } = input {
            let applied = applied.entry(*dialog_id).or_default();
            if let Some(version) = version {
                applied.record_version(*version);
            }
            if let Change::Repaired(head) = change {
                applied.mark_repaired(*head);
            }
        }
    }
    let mut outcome = Outcome::default();
    for range in batches(inputs) {
        apply_bisecting(tx, inputs, range, &mut applied, &mut outcome).await?;
    }
    lock::write_applied(tx, &applied).await?;
    let after = counters::load(tx, &scope).await?;
    step_versions(tx, &before, &after, &applied, &mut outcome.effects).await?;
    Ok(outcome)
}

/// Applies one batch. If the database refuses it, applies its halves; a refused batch of one input is
/// turned into a refusal of its message, or noted as refused.
async fn apply_bisecting(
    tx: &mut Tx,
    inputs: &[Input],
    range: Range<usize>,
    applied: &mut BTreeMap<DialogId, Applied>,
    outcome: &mut Outcome,
) -> Result<(), Error> {
    let mut pending = vec![range];
    while let Some(range) = pending.pop() {
        let mut result = try_batch(tx, &inputs[range.clone()]).await;
        if let (Err(Error::Refused(rule)), 1) = (&result, range.len()) {
            tracing::warn!(rule, input = ?inputs[range.start], "input refused by the database");
            metrics::counter!("counter_refused_total").increment(1);
            result = match refusal(&inputs[range.start]) {
                Some(refusal) => try_batch(tx, &[refusal]).await,
                None => result,
            };
        }
        match result {
            Ok(effects) => effects.merge_into(range.start, applied, outcome),
            Err(Error::Refused(_)) if range.len() == 1 => outcome.refused.push(range.start),
            Err(Error::Refused(_)) => {
                let middle = range.start + range.len() / 2;
                // A stack: the first half, pushed last, is applied first, so inputs keep their order.
                pending.extend([middle..range.end, range.start..middle]);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Returns the refusal of a sent message; `None` for other inputs, which cannot be refused.
fn refusal(input: &Input) -> Option<Input> {
    match input {
        Input::Dialog { dialog_id, change: Change::Sent(message, _), .. } => {
            let change = Change::Refused(*message, REFUSAL_REASON.to_owned());
            Some(Input::Dialog { dialog_id: *dialog_id, version: None, change })
        }
        _ => None,
    }
}

/// Applies one batch under a savepoint, so that a refusal leaves the transaction usable and its locks
/// held.
async fn try_batch(tx: &mut Tx, inputs: &[Input]) -> Result<apply::BatchEffects, Error> {
    tx.savepoint().await?;
    match apply::batch(tx, inputs).await {
        Ok(effects) => tx.release_savepoint().await.map(|()| effects),
        Err(Error::Refused(rule)) => {
            tx.rollback_to_savepoint().await?;
            Err(Error::Refused(rule))
        }
        Err(error) => Err(error),
    }
}

/// Cuts the inputs into batches in which no message changes twice in different ways. A batch is written
/// as a set with one transition per message, and the database must be able to refuse each transition.
fn batches(inputs: &[Input]) -> Vec<Range<usize>> {
    let mut batches = Vec::new();
    let mut seen: BTreeMap<(DialogId, i64), &Change> = BTreeMap::new();
    let mut start = 0;
    for (index, input) in inputs.iter().enumerate() {
        let Input::Dialog { dialog_id, change, .. } = input else { continue };
        let Some(message) = change.message() else { continue };
        if seen.get(&(*dialog_id, message.seq)).is_some_and(|other| *other != change) {
            batches.push(start..index);
            start = index;
            seen.clear();
        }
        seen.insert((*dialog_id, message.seq), change);
    }
    if start < inputs.len() {
        batches.push(start..inputs.len());
    }
    batches
}

/// Increments the version of every user whose counts changed (I7), and adds the changes to the effects.
async fn step_versions(
    tx: &mut Tx,
    before: &counters::Counters,
    after: &counters::Counters,
    applied: &BTreeMap<DialogId, Applied>,
    effects: &mut Effects,
) -> Result<(), Error> {
    let mut rows: BTreeMap<UserId, Vec<ChangedRow>> = BTreeMap::new();
    for (&(user_id, dialog_id), now) in after {
        let was = before.get(&(user_id, dialog_id)).copied().unwrap_or_default();
        if was.published() == now.published() {
            continue;
        }
        let read_seq = now.read_seq;
        if was.read_seq != read_seq && !now.has_left {
            effects.read_marks.push(ReadMark { user_id, dialog_id, read_seq });
        }
        let last_seq = applied[&dialog_id].last_seq;
        let row = ChangedRow { dialog_id, unread: now.unread, was: was.unread, read_seq, last_seq };
        rows.entry(user_id).or_default().push(row);
    }
    let versions = lock::step(tx, rows.keys().copied()).await?;
    effects.changes = rows
        .into_iter()
        .map(|(user_id, mut rows)| {
            rows.sort_by_key(|row| (-applied[&row.dialog_id].last_at_us, row.dialog_id));
            UnreadChange { user_id, version: versions[&user_id], rows }
        })
        .collect();
    Ok(())
}

impl Scope {
    fn of(inputs: &[Input]) -> Self {
        let mut scope = Self::default();
        for input in inputs {
            match input {
                Input::Registered(user_id) => {
                    scope.users.insert(*user_id);
                }
                Input::Dialog { dialog_id, change, .. } => {
                    scope.dialogs.insert(*dialog_id);
                    if change.message().is_some() {
                        scope.message_dialogs.insert(*dialog_id);
                    }
                    // An author who has left is no member of the dialog, but has a read pointer.
                    let author = change.message().map(|message| message.author_id);
                    if let Some(user_id) = change.user().or(author) {
                        scope.users.insert(user_id);
                        scope.members.insert((user_id, *dialog_id));
                    }
                }
            }
        }
        scope
    }
}
