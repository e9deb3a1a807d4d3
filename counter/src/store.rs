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
pub(crate) mod cut;
pub(crate) mod dialog_state;
mod divergence;
#[cfg(test)]
mod fault_tests;
mod lock;
pub(crate) mod maintenance;
mod query;
#[cfg(test)]
mod race_tests;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use db::Tx;
use proto::{DialogId, UserId};

pub use cut::Epoch;
pub(crate) use divergence::displacements;
pub(crate) use query::{
    epoch, incomplete, memberships, read_states, row, rows, unread, unread_messages, unread_of_many, version,
    versions,
};

use crate::{
    Error,
    kernel::{Change, ChangedRow, Effects, Input, ReadMark, UnreadChange, applied::Applied},
};
use apply::{BatchEffects, Counting};

/// Reason of a refusal, shown to the author of the message.
pub(crate) const REFUSAL_REASON: &str = "a limit of the unread counters was exceeded";

/// Result of a transaction.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Effects to be published.
    pub(crate) effects: Effects,
    /// Indexes of inputs with a divergent message that was not known before. They become dead letters.
    pub(crate) dead_letters: Vec<usize>,
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

/// Applies one transaction of inputs, as [`crate::kernel::transact`] does. A message that the database
/// refuses is found by bisection; the others apply.
///
/// # Errors
/// [`Error::Blocked`] if the database refuses anything but a new message, and other errors of the
/// database: the transaction must be rolled back and may be repeated.
pub(crate) async fn transact(tx: &mut Tx, inputs: &[Input]) -> Result<Outcome, Error> {
    let mut scope = Scope::of(inputs);
    // Dialogs before users, see the module documentation. With the dialogs locked no member is added or
    // removed, so the second statement finds all users.
    let mut applied = lock::dialogs(tx, &scope).await?;
    let were_stale = stale_dialogs(&applied);
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
    // Gaps that open or close concern all members, and these must be locked too.
    scope.message_dialogs.extend(were_stale.symmetric_difference(&stale_dialogs(&applied)));
    lock::users(tx, &scope).await?;
    let before = counters::load(tx, &scope).await?;
    let mut outcome = Outcome::default();
    // Versions alone change no row of a batch.
    let ranges = if scope.members.is_empty() { Vec::new() } else { batches(inputs) };
    for range in ranges {
        apply_bisecting(tx, inputs, range, &mut applied, &mut outcome).await?;
    }
    lock::write_applied(tx, &applied).await?;
    let after = counters::load(tx, &scope).await?;
    let before = Before { counters: &before, stale_dialogs: &were_stale };
    step_versions(tx, before, &after, &applied, &mut outcome.effects).await?;
    outcome.dead_letters = divergence::record(tx, inputs, &outcome.effects.divergences).await?;
    Ok(outcome)
}

/// Returns the dialogs with missing events.
fn stale_dialogs(applied: &BTreeMap<DialogId, Applied>) -> BTreeSet<DialogId> {
    applied.iter().filter(|(_, applied)| !applied.missing.is_empty()).map(|(id, _)| *id).collect()
}

/// Applies one batch. If the database refuses it, applies its halves, down to single inputs.
async fn apply_bisecting(
    tx: &mut Tx,
    inputs: &[Input],
    range: Range<usize>,
    applied: &mut BTreeMap<DialogId, Applied>,
    outcome: &mut Outcome,
) -> Result<(), Error> {
    let mut pending = vec![range];
    while let Some(range) = pending.pop() {
        let effects = match try_batch(tx, &inputs[range.clone()], Counting::Adjusted).await {
            Err(db::Error::Refused(rule)) if range.len() == 1 => {
                apply_refused(tx, &inputs[range.start], rule).await?
            }
            Err(db::Error::Refused(_)) => {
                let middle = range.start + range.len() / 2;
                // A stack: the first half, pushed last, is applied first, so inputs keep their order.
                pending.extend([middle..range.end, range.start..middle]);
                continue;
            }
            result => result?,
        };
        effects.merge_into(range.start, applied, outcome);
    }
    Ok(())
}

/// Applies an input that a rule of the database refuses: a new message as its refusal. Everything else
/// lowers a count or has been promised to a user, and is never refused. If the rule is the one on
/// negative counts, a count was wrong before, so the counts are taken from the ledger again.
async fn apply_refused(tx: &mut Tx, input: &Input, rule: String) -> Result<BatchEffects, Error> {
    let result = match refusal(input) {
        Some(refusal) => {
            tracing::warn!(rule, ?input, "message refused by the database");
            metrics::counter!("counter_refused_total").increment(1);
            try_batch(tx, &[refusal], Counting::Adjusted).await
        }
        None => try_batch(tx, std::slice::from_ref(input), Counting::FromLedger).await.inspect(|_| {
            tracing::error!(rule, ?input, "counts contradicted the ledger and were taken from it again");
            metrics::counter!("counter_recounted_total").increment(1);
        }),
    };
    match result {
        Err(db::Error::Refused(rule)) => {
            metrics::counter!("counter_blocked_total").increment(1);
            Err(Error::Blocked { rule, input: Box::new(input.clone()) })
        }
        result => Ok(result?),
    }
}

/// Returns the refusal of a sent message; `None` for other inputs, which cannot be refused. A message
/// that is already in the ledger writes nothing, so the database has no reason to refuse it.
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
async fn try_batch(tx: &mut Tx, inputs: &[Input], counting: Counting) -> Result<BatchEffects, db::Error> {
    tx.savepoint().await?;
    match apply::batch(tx, inputs, counting).await {
        Ok(effects) => tx.release_savepoint().await.map(|()| effects),
        Err(db::Error::Refused(rule)) => {
            tx.rollback_to_savepoint().await?;
            Err(db::Error::Refused(rule))
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

/// State before the transaction.
#[derive(Clone, Copy)]
struct Before<'a> {
    counters: &'a counters::Counters,
    stale_dialogs: &'a BTreeSet<DialogId>,
}

/// Increments the version of every user whose counts changed (I7), and adds the changes to the effects.
async fn step_versions(
    tx: &mut Tx,
    before: Before<'_>,
    after: &counters::Counters,
    applied: &BTreeMap<DialogId, Applied>,
    effects: &mut Effects,
) -> Result<(), Error> {
    let mut rows: BTreeMap<UserId, Vec<ChangedRow>> = BTreeMap::new();
    for (&(user_id, dialog_id), now) in after {
        let was = before.counters.get(&(user_id, dialog_id)).copied().unwrap_or_default();
        let was_stale = was.is_joined && before.stale_dialogs.contains(&dialog_id);
        let stale = now.is_joined && !applied[&dialog_id].missing.is_empty();
        if (was.published(), was_stale) == (now.published(), stale) {
            continue;
        }
        let read_seq = now.read_seq;
        if was.read_seq != read_seq && !now.has_left {
            effects.read_marks.push(ReadMark { user_id, dialog_id, read_seq });
        }
        let last_seq = applied[&dialog_id].last_seq;
        let row = ChangedRow { dialog_id, unread: now.unread, was: was.unread, read_seq, last_seq, stale };
        rows.entry(user_id).or_default().push(row);
    }
    let versions = lock::step(tx, rows.keys().copied()).await?;
    effects.changes = rows
        .into_iter()
        .map(|(user_id, mut rows)| {
            rows.sort_by_key(|row| (-applied[&row.dialog_id].last_at_us, row.dialog_id));
            let (version, stale) = versions[&user_id];
            UnreadChange { user_id, version, rows, stale }
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
