//! Invariant checker: runs one random history through the rules and checks the oracle and the invariants
//! of [`super`] after every transaction.

use std::collections::{BTreeMap, BTreeSet};

use proto::{DialogId, UserId};

use super::{
    Change, EffectRecorder, Effects, Input, Membership, State,
    history::History,
    ledger::{EntryState, VoidReason},
    oracle, transact_with,
};

/// State of a client that starts empty and applies every change by version.
#[derive(Default)]
struct Replica {
    version: i64,
    /// `unread` and `read_seq` by dialog.
    rows: BTreeMap<DialogId, (i64, i64)>,
    /// Dialogs with missing events.
    stale: BTreeSet<DialogId>,
}

type Replicas = BTreeMap<UserId, Replica>;

/// Runs a history through `rules`. Returns the first invariant that does not hold.
pub(super) fn check(
    history: &History,
    rules: impl FnMut(&mut State, &Input, &mut EffectRecorder) + Copy,
) -> Result<(), String> {
    let mut state = State::default();
    let mut replicas = Replicas::new();
    let mut applied: Vec<Input> = Vec::new();
    for inputs in &history.transactions {
        let before = state.clone();
        let effects = transact_with(&mut state, inputs, rules);
        applied.extend(inputs.iter().cloned());
        check_oracle(&state, &applied)?;
        check_monotonic(&before, &state)?;
        check_changes(&before, &state, &effects, &mut replicas)?;
        check_replies(&state, inputs, &effects)?;
    }
    if !history.diverges {
        let mut other = State::default();
        for input in &history.reordered {
            transact_with(&mut other, std::slice::from_ref(input), rules);
        }
        ensure(
            order_independent(&state, history) == order_independent(&other, history),
            "I12: the result depends on the order",
        )?;
    }
    Ok(())
}

fn ensure(holds: bool, message: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(message.to_owned()) }
}

/// Checks I1, and everything else that the oracle derives from the inputs.
fn check_oracle(state: &State, applied: &[Input]) -> Result<(), String> {
    let expected = oracle::expected(applied);
    if state.dialogs == expected.dialogs {
        return Ok(());
    }
    Err(format!("I1: {:#?}\nis not\n{:#?}", state.dialogs, expected.dialogs))
}

/// Checks I2, I5 and I6.
fn check_monotonic(before: &State, after: &State) -> Result<(), String> {
    for dialog in after.dialogs.values() {
        ensure(dialog.members.values().all(|member| member.unread >= 0), "I2: a count is negative")?;
    }
    for (id, was) in &before.dialogs {
        let Some(is) = after.dialogs.get(id) else { return Err("a dialog was removed".into()) };
        for (user_id, member) in &was.members {
            let kept = is.members.get(user_id).is_some_and(|now| now.read_seq >= member.read_seq);
            ensure(kept, "I5: a read pointer decreased")?;
        }
        for (seq, entry) in &was.ledger {
            let kept = is.ledger.get(seq).is_some_and(|now| {
                now.message_id == entry.message_id && (entry.state == EntryState::Counted || now == entry)
            });
            ensure(kept, "I6: a transition of the ledger was undone")?;
        }
    }
    Ok(())
}

/// Checks I7: one version step with every change and none without, and the changes applied to a replica
/// give the state.
fn check_changes(
    before: &State,
    after: &State,
    effects: &Effects,
    replicas: &mut Replicas,
) -> Result<(), String> {
    let joined_before = joined(before);
    let joined_after = joined(after);
    let stale_before = stale(before);
    let stale_after = stale(after);
    let moved =
        counts(before) != counts(after) || joined_before != joined_after || stale_before != stale_after;
    ensure(moved || effects.changes.is_empty(), "I7: a version step without a change")?;
    for change in &effects.changes {
        let replica = replicas.entry(change.user_id).or_default();
        ensure(change.version == replica.version + 1, "I7: a version did not increase by one")?;
        replica.version = change.version;
        ensure(!change.rows.is_empty(), "I7: a change without rows")?;
        for row in &change.rows {
            let known = replica.rows.entry(row.dialog_id).or_default();
            ensure(known.0 == row.was, "I7: `was` is not the former value")?;
            let member = (change.user_id, row.dialog_id);
            let membership_changed = joined_before.contains(&member) != joined_after.contains(&member);
            let stale_changed = stale_before.contains(&member) != stale_after.contains(&member);
            let moved = *known != (row.unread, row.read_seq);
            ensure(membership_changed || stale_changed || moved, "I7: a row without a change")?;
            *known = (row.unread, row.read_seq);
            ensure(
                row.stale == stale_after.contains(&member),
                "a row is stale without a gap, or not with one",
            )?;
            if row.stale {
                replica.stale.insert(row.dialog_id);
            } else {
                replica.stale.remove(&row.dialog_id);
            }
        }
        ensure(change.stale != replica.stale.is_empty(), "a total is stale without a gap, or not with one")?;
    }
    let known_stale = replicas
        .iter()
        .flat_map(|(user_id, replica)| replica.stale.iter().map(|dialog_id| (*user_id, *dialog_id)));
    ensure(known_stale.collect::<BTreeSet<_>>() == stale_after, "I7: a gap opened or closed without a step")?;
    let mut known = BTreeMap::new();
    for (user_id, replica) in replicas.iter() {
        ensure(
            after.users.get(user_id) == Some(&replica.version),
            "I7: the version is not that of the last change",
        )?;
        known.extend(replica.rows.iter().map(|(dialog_id, row)| ((*user_id, *dialog_id), *row)));
    }
    known.retain(|_, row| *row != (0, 0));
    ensure(known == counts(after), "I7: the changes do not add up to the state")?;
    let rows = effects.changes.iter().flat_map(|change| change.rows.iter().map(|row| (change.user_id, row)));
    let read_before =
        |user_id: UserId, dialog_id| counts(before).get(&(user_id, dialog_id)).map_or(0, |row| row.1);
    let has_left = |user_id: UserId, dialog_id| {
        after.dialogs[&dialog_id].members[&user_id].membership == Membership::Left
    };
    let moved = rows.filter(|(user_id, row)| {
        read_before(*user_id, row.dialog_id) != row.read_seq && !has_left(*user_id, row.dialog_id)
    });
    let moved = moved.count();
    ensure(moved == effects.read_marks.len(), "read marks and moved read pointers differ")
}

/// Returns the members who take part in their dialog.
fn joined(state: &State) -> BTreeSet<(UserId, DialogId)> {
    let dialogs = state.dialogs.iter();
    let members = dialogs.flat_map(|(dialog_id, dialog)| {
        let joined = dialog.members.iter().filter(|(_, member)| member.is_joined());
        joined.map(|(user_id, _)| (*user_id, *dialog_id))
    });
    members.collect()
}

/// Returns the members who take part in a dialog with missing events.
fn stale(state: &State) -> BTreeSet<(UserId, DialogId)> {
    joined(state).into_iter().filter(|(_, dialog_id)| state.dialogs[dialog_id].is_stale()).collect()
}

/// Returns `unread` and `read_seq` of all rows in which one of them is not 0.
fn counts(state: &State) -> BTreeMap<(UserId, DialogId), (i64, i64)> {
    let mut counts = BTreeMap::new();
    for (dialog_id, dialog) in &state.dialogs {
        let rows = dialog.members.iter().filter(|(_, member)| (member.unread, member.read_seq) != (0, 0));
        counts
            .extend(rows.map(|(user_id, member)| ((*user_id, *dialog_id), (member.unread, member.read_seq))));
    }
    counts
}

/// Checks that every message sent has a reply that agrees with its entry, and that every claim of a used
/// `seq` is reported as a divergence.
fn check_replies(state: &State, inputs: &[Input], effects: &Effects) -> Result<(), String> {
    let mut replies = effects.replies.iter();
    let mut divergences = 0;
    for input in inputs {
        let Input::Dialog { dialog_id, change, .. } = input else { continue };
        let (message, sent) = match change {
            Change::Sent(message, _) | Change::Refused(message, _) => (message, true),
            Change::Deleted(message) | Change::Failed(message) => (message, false),
            _ => continue,
        };
        let entry = &state.dialogs[dialog_id].ledger[&message.seq];
        if entry.message_id != message.id {
            divergences += 1;
            continue;
        }
        if !sent {
            continue;
        }
        let Some(reply) = replies.next() else { return Err("a message has no reply".into()) };
        ensure(
            (reply.dialog_id, reply.message_id) == (*dialog_id, message.id),
            "a reply to another message",
        )?;
        let refused = matches!(entry.state, EntryState::Void(VoidReason::Refused(_)));
        // The entry is that of the end of the transaction: a later input may have failed a counted
        // message.
        ensure(refused || reply.refused.is_none(), "a reply does not agree with the ledger")?;
    }
    ensure(replies.next().is_none(), "more replies than messages")?;
    ensure(effects.divergences.len() == divergences, "a divergence is not reported")
}

/// Returns the part of a state that must not depend on the order of inputs: everything except versions
/// of users, reasons of void entries, and times of refused messages.
#[expect(clippy::type_complexity, reason = "compared as a whole, never taken apart")]
fn order_independent(
    state: &State,
    history: &History,
) -> Vec<(DialogId, Vec<(UserId, Membership, i64, i64)>, Vec<(i64, bool)>, String)> {
    let mut all = Vec::new();
    for (id, dialog) in &state.dialogs {
        let members = dialog.members.iter();
        let members =
            members.map(|(user_id, each)| (*user_id, each.membership, each.read_seq, each.unread)).collect();
        let ledger =
            dialog.ledger.iter().map(|(seq, entry)| (*seq, entry.state == EntryState::Counted)).collect();
        let missing = if history.repairs { None } else { Some(&dialog.applied.missing) };
        let applied = format!("{} {} {missing:?}", dialog.applied.version, dialog.applied.last_seq);
        all.push((*id, members, ledger, applied));
    }
    all
}
