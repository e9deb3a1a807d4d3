//! The check of one history: the oracle and the invariants of the design after every transaction.

use std::collections::BTreeMap;

use proto::{DialogId, UserId};

use super::{
    Change, Effects, Input, Journal, Membership, State,
    history::History,
    ledger::{Standing, Why},
    oracle, transact_by,
};

/// What somebody knows who has the first snapshot and every frame since.
#[derive(Default)]
struct Replica {
    version: i64,
    rows: BTreeMap<DialogId, (i64, i64)>,
}

type Replicas = BTreeMap<UserId, Replica>;

/// Runs a history through rules; tells which invariant broke first.
pub(super) fn history(
    history: &History,
    rules: impl FnMut(&mut State, &Input, &mut Journal) + Copy,
) -> Result<(), String> {
    let mut state = State::default();
    let mut replicas = Replicas::new();
    let mut so_far: Vec<Input> = Vec::new();
    for inputs in &history.transactions {
        let before = state.clone();
        let effects = transact_by(&mut state, inputs, rules);
        so_far.extend(inputs.iter().cloned());
        compare(&state, &so_far)?;
        never_undone(&before, &state)?;
        frames(&before, &state, &effects, &mut replicas)?;
        answers(&state, inputs, &effects)?;
    }
    if !history.diverges {
        let mut other = State::default();
        for input in &history.reordered {
            transact_by(&mut other, std::slice::from_ref(input), rules);
        }
        ensure(timeless(&state, history) == timeless(&other, history), "I12: order mattered")?;
    }
    Ok(())
}

fn ensure(holds: bool, what: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}

/// I1, and everything else that can be worked out from what came.
fn compare(state: &State, history: &[Input]) -> Result<(), String> {
    let expected = oracle::expected(history);
    if state.dialogs == expected.dialogs {
        return Ok(());
    }
    Err(format!("I1: {:#?}\nis not\n{:#?}", state.dialogs, expected.dialogs))
}

/// I2, I5 and I6.
fn never_undone(before: &State, after: &State) -> Result<(), String> {
    for dialog in after.dialogs.values() {
        ensure(dialog.members.values().all(|member| member.unread >= 0), "I2: a negative count")?;
    }
    for (id, was) in &before.dialogs {
        let Some(is) = after.dialogs.get(id) else { return Err("a dialog is gone".into()) };
        for (user_id, member) in &was.members {
            let kept = is.members.get(user_id).is_some_and(|now| now.read_seq >= member.read_seq);
            ensure(kept, "I5: a read pointer went back")?;
        }
        for (seq, entry) in &was.ledger {
            let kept = is.ledger.get(seq).is_some_and(|now| {
                now.message_id == entry.message_id && (entry.standing == Standing::Counted || now == entry)
            });
            ensure(kept, "I6: a step of the ledger was undone")?;
        }
    }
    Ok(())
}

/// I7: one step of the version with every change and none without; frames laid over what was known give what is.
fn frames(before: &State, after: &State, effects: &Effects, replicas: &mut Replicas) -> Result<(), String> {
    let moved = numbers(before) != numbers(after);
    ensure(moved || effects.changes.is_empty(), "I7: a version moved and nothing else")?;
    for change in &effects.changes {
        let replica = replicas.entry(change.user_id).or_default();
        ensure(change.version == replica.version + 1, "I7: a version did not step by one")?;
        replica.version = change.version;
        ensure(!change.rows.is_empty(), "I7: a step without rows")?;
        for row in &change.rows {
            let known = replica.rows.entry(row.dialog_id).or_default();
            ensure(known.0 == row.was, "I7: `was` is not what it was")?;
            ensure(*known != (row.unread, row.read_seq), "I7: a row that did not move")?;
            *known = (row.unread, row.read_seq);
        }
    }
    let mut known = BTreeMap::new();
    for (user_id, replica) in replicas.iter() {
        ensure(
            after.users.get(user_id) == Some(&replica.version),
            "I7: the version is not that of the last frame",
        )?;
        known.extend(replica.rows.iter().map(|(dialog_id, row)| ((*user_id, *dialog_id), *row)));
    }
    known.retain(|_, row| *row != (0, 0));
    ensure(known == numbers(after), "I7: the frames do not add up to the state")?;
    let reads = effects.changes.iter().flat_map(|change| change.rows.iter().map(|row| (change.user_id, row)));
    let moved =
        |user_id: UserId, dialog_id| numbers(before).get(&(user_id, dialog_id)).map_or(0, |row| row.1);
    let expected = reads.filter(|(user_id, row)| moved(*user_id, row.dialog_id) != row.read_seq).count();
    ensure(expected == effects.reads.len(), "a read that moved was not told, or the other way round")
}

fn numbers(state: &State) -> BTreeMap<(UserId, DialogId), (i64, i64)> {
    let mut numbers = BTreeMap::new();
    for (dialog_id, dialog) in &state.dialogs {
        let rows = dialog.members.iter().filter(|(_, member)| (member.unread, member.read_seq) != (0, 0));
        numbers
            .extend(rows.map(|(user_id, member)| ((*user_id, *dialog_id), (member.unread, member.read_seq))));
    }
    numbers
}

/// Every message sent is answered, by where it stands; one at another's place is told apart.
fn answers(state: &State, inputs: &[Input], effects: &Effects) -> Result<(), String> {
    let mut answers = effects.answers.iter();
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
        let Some(answer) = answers.next() else { return Err("a message was not answered".into()) };
        ensure(
            (answer.dialog_id, answer.message_id) == (*dialog_id, message.id),
            "an answer to something else",
        )?;
        let refused = matches!(entry.standing, Standing::Void(Why::Refused(_)));
        // A later event of the same transaction may have failed it.
        ensure(refused || answer.refused.is_none(), "the answer is not where the message stands")?;
    }
    ensure(answers.next().is_none(), "an answer too many")?;
    ensure(effects.divergences.len() == divergences, "a divergence was not told")
}

/// What must not depend on the order: everything but versions of users, reasons, and the time of refused messages.
#[expect(clippy::type_complexity, reason = "compared as a whole, never taken apart")]
fn timeless(
    state: &State,
    history: &History,
) -> Vec<(DialogId, Vec<(UserId, Membership, i64, i64)>, Vec<(i64, bool)>, String)> {
    let mut all = Vec::new();
    for (id, dialog) in &state.dialogs {
        let members = dialog.members.iter();
        let members =
            members.map(|(user_id, each)| (*user_id, each.membership, each.read_seq, each.unread)).collect();
        let ledger =
            dialog.ledger.iter().map(|(seq, entry)| (*seq, entry.standing == Standing::Counted)).collect();
        let missing = if history.repairs { None } else { Some(&dialog.applied.missing) };
        let applied = format!("{} {} {missing:?}", dialog.applied.version, dialog.applied.last_seq);
        all.push((*id, members, ledger, applied));
    }
    all
}
