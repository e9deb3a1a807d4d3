//! The rules of [`crate::kernel`] in SQL: the events of a transaction applied in sets, and every read. What a transaction
//! may change is locked first, in statements of their own and sorted by key: the rows of `dialog_applied`, then those of
//! `user_version`. Only then pointers are read and the ledger is counted, so that no statement computes from what another
//! transaction is about to change.

#[cfg(test)]
mod anomaly_tests;
mod lock;
mod number;
mod part;
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
    epoch, incomplete, memberships, pointer, read_states, rows_of, unread, unread_of_many, version, versions,
};

use crate::kernel::{Change, ChangedRow, Effects, Input, Reading, UnreadChange, applied::Applied};

/// What the author of a refused message is told.
pub(crate) const REFUSED: &str = "a limit of the counters does not allow it";

/// What a transaction did.
#[derive(Debug, Default)]
pub(crate) struct Done {
    /// What the world is told.
    pub(crate) effects: Effects,
    /// Which of the events the database refused although they are no new messages: for the dead letters.
    pub(crate) refused: Vec<usize>,
}

/// What a transaction may change.
#[derive(Debug, Default)]
struct Scope {
    dialogs: BTreeSet<DialogId>,
    /// Dialogs whose messages change: the numbers of all their members may move.
    crowds: BTreeSet<DialogId>,
    /// Rows that an event names.
    rows: BTreeSet<(UserId, DialogId)>,
    /// Users that an event names.
    users: BTreeSet<UserId>,
}

/// Applies the events of one transaction, as [`crate::kernel::transact`] does: lock, compute, write. What the database
/// refuses is found by halving; the rest applies.
///
/// # Errors
/// As the database has them, refusals excepted: the transaction is to be repeated.
pub(crate) async fn transact(tx: &mut Tx, inputs: &[Input]) -> Result<Done, Error> {
    let scope = Scope::of(inputs);
    let mut applied = lock::dialogs(tx, &scope).await?;
    lock::users(tx, &scope).await?;
    let before = number::read(tx, &scope).await?;
    for input in inputs {
        if let Input::Dialog { dialog_id, version, change } = input {
            let applied = applied.entry(*dialog_id).or_default();
            if let Some(version) = version {
                applied.see(*version);
            }
            if let Change::Repaired(head) = change {
                applied.repair(*head);
            }
        }
    }
    let mut done = Done::default();
    for range in parts(inputs) {
        apply(tx, inputs, range, &mut applied, &mut done).await?;
    }
    lock::write_applied(tx, &applied).await?;
    let after = number::read(tx, &scope).await?;
    conclude(tx, &before, &after, &applied, &mut done.effects).await?;
    Ok(done)
}

/// Applies one part; where the database refuses it, its halves; where it refuses a single event, notes that down.
async fn apply(
    tx: &mut Tx,
    inputs: &[Input],
    range: Range<usize>,
    applied: &mut BTreeMap<DialogId, Applied>,
    done: &mut Done,
) -> Result<(), Error> {
    let mut open = vec![range];
    while let Some(range) = open.pop() {
        let mut result = attempt(tx, &inputs[range.clone()]).await;
        if let (Err(Error::Refused(rule)), 1) = (&result, range.len()) {
            tracing::warn!(rule, input = ?inputs[range.start], "the database refuses to count");
            metrics::counter!("counter_refused_total").increment(1);
            result = match refused(&inputs[range.start]) {
                Some(void) => attempt(tx, &[void]).await,
                None => result,
            };
        }
        match result {
            Ok(outcome) => outcome.conclude(range.start, applied, done),
            Err(Error::Refused(_)) if range.len() == 1 => done.refused.push(range.start),
            Err(Error::Refused(_)) => {
                let middle = range.start + range.len() / 2;
                open.extend([middle..range.end, range.start..middle]);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// What becomes of an event that the database refuses: a message sent is void; anything else is impossible.
fn refused(input: &Input) -> Option<Input> {
    match input {
        Input::Dialog { dialog_id, change: Change::Sent(message, _), .. } => {
            let change = Change::Refused(*message, REFUSED.to_owned());
            Some(Input::Dialog { dialog_id: *dialog_id, version: None, change })
        }
        _ => None,
    }
}

async fn attempt(tx: &mut Tx, inputs: &[Input]) -> Result<part::Outcome, Error> {
    tx.savepoint().await?;
    match part::apply(tx, inputs).await {
        Ok(outcome) => tx.release().await.map(|()| outcome),
        Err(Error::Refused(rule)) => {
            tx.undo().await?;
            Err(Error::Refused(rule))
        }
        Err(error) => Err(error),
    }
}

/// Cuts the events into parts in which no message is both counted and made void: within a part the order of events does
/// not matter to what the database may refuse.
fn parts(inputs: &[Input]) -> Vec<Range<usize>> {
    let mut parts = Vec::new();
    let mut seen: BTreeMap<(DialogId, i64), &Change> = BTreeMap::new();
    let mut start = 0;
    for (at, input) in inputs.iter().enumerate() {
        let Input::Dialog { dialog_id, change, .. } = input else { continue };
        let Some(message) = change.message() else { continue };
        if seen.get(&(*dialog_id, message.seq)).is_some_and(|other| *other != change) {
            parts.push(start..at);
            start = at;
            seen.clear();
        }
        seen.insert((*dialog_id, message.seq), change);
    }
    if start < inputs.len() {
        parts.push(start..inputs.len());
    }
    parts
}

/// One step of the version of every user whose numbers moved, and the effects that tell of it.
async fn conclude(
    tx: &mut Tx,
    before: &number::Numbers,
    after: &number::Numbers,
    applied: &BTreeMap<DialogId, Applied>,
    effects: &mut Effects,
) -> Result<(), Error> {
    let mut rows: BTreeMap<UserId, Vec<ChangedRow>> = BTreeMap::new();
    for ((user_id, dialog_id), &(unread, read_seq)) in after {
        let (was, was_read) = before.get(&(*user_id, *dialog_id)).copied().unwrap_or_default();
        if (was, was_read) == (unread, read_seq) {
            continue;
        }
        if was_read != read_seq {
            effects.reads.push(Reading { user_id: *user_id, dialog_id: *dialog_id, read_seq });
        }
        let last_seq = applied[dialog_id].last_seq;
        let row = ChangedRow { dialog_id: *dialog_id, unread, was, read_seq, last_seq };
        rows.entry(*user_id).or_default().push(row);
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
                        scope.crowds.insert(*dialog_id);
                    }
                    if let Some(user_id) = change.user() {
                        scope.users.insert(user_id);
                        scope.rows.insert((user_id, *dialog_id));
                    }
                }
            }
        }
        scope
    }
}
