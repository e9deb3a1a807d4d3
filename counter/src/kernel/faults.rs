//! Mutation tests of the rules: each fault wraps [`apply`], and the invariant checker must find it
//! within a few hundred random histories.

use proto::{DialogId, UserId};

use super::{
    Change, EffectRecorder, Input, Member, Membership, State, apply, history, invariants,
    ledger::{EntryState, Message},
};

/// Number of histories within which every fault must be found.
const HISTORIES: u64 = 500;

type Rules = fn(&mut State, &Input, &mut EffectRecorder);

const FAULTS: [(&str, Rules); 17] = [
    ("a message counts for members who have read past it", no_unread_predicate),
    ("a deletion subtracts messages that were read", deletion_without_predicate),
    ("a deletion that arrives first leaves no tombstone", no_tombstone),
    ("reading resets to zero", reset_to_zero),
    ("a repeated message counts twice", no_repetition_check),
    ("a repeated deletion subtracts twice", repeated_deletion),
    ("the author's own message counts", author_counted),
    ("the read pointer goes back", pointer_goes_back),
    ("a stale join restores a member who has left", stale_join),
    ("a join counts messages before it", join_from_the_beginning),
    ("messages count for a member who has left", leave_is_forgotten),
    ("a refused message counts", refusal_ignored),
    ("a row is changed without being recorded", silent_change),
    ("sending reads what others sent before", sending_reads),
    ("own messages that arrived out of order are not stepped over", step_of_one),
    ("own messages that arrived before the join are not stepped over", join_without_step),
    ("a gap opens without a version step", silent_gap),
];

#[test]
fn every_injected_fault_is_found() {
    for (fault, rules) in FAULTS {
        let found = (0..HISTORIES).find(|seed| invariants::check(&history::random(*seed, 1), rules).is_err());
        assert!(found.is_some(), "not found in {HISTORIES} histories: {fault}");
    }
}

#[test]
fn the_unchanged_rules_pass_the_same_histories() {
    assert!((0..HISTORIES).all(|seed| invariants::check(&history::random(seed, 1), apply).is_ok()));
}

fn dialog_of(input: &Input) -> Option<(DialogId, &Change)> {
    match input {
        Input::Registered(_) => None,
        Input::Dialog { dialog_id, change, .. } => Some((*dialog_id, change)),
    }
}

/// Adds `delta` to `unread` of every member that `selects` accepts, and records the rows.
fn add(
    state: &mut State,
    recorder: &mut EffectRecorder,
    at: DialogId,
    delta: i64,
    selects: impl Fn(UserId, &Member) -> bool,
) {
    for (user_id, member) in &mut state.dialogs.entry(at).or_default().members {
        if selects(*user_id, member) {
            recorder.record_before(*user_id, at, member);
            member.unread += delta;
        }
    }
}

fn entry_state(state: &State, at: DialogId, message: &Message) -> Option<EntryState> {
    state.dialogs.get(&at)?.ledger.get(&message.seq).map(|entry| entry.state.clone())
}

fn no_unread_predicate(state: &mut State, input: &Input, recorder: &mut EffectRecorder) {
    if let Some((at, Change::Sent(message, _))) = dialog_of(input)
        && entry_state(state, at, message).is_none()
    {
        add(state, recorder, at, 1, |user_id, member| {
            user_id != message.author_id
                && member.membership != Membership::Left
                && member.read_seq >= message.seq
        });
    }
    apply(state, input, recorder);
}

fn deletion_without_predicate(state: &mut State, input: &Input, recorder: &mut EffectRecorder) {
    if let Some((at, Change::Deleted(message))) = dialog_of(input)
        && entry_state(state, at, message) == Some(EntryState::Counted)
    {
        add(state, recorder, at, -1, |_, member| member.read_seq >= message.seq && member.unread > 0);
    }
    apply(state, input, recorder);
}

fn no_tombstone(state: &mut State, input: &Input, recorder: &mut EffectRecorder) {
    if let Some((at, Change::Deleted(message))) = dialog_of(input)
        && entry_state(state, at, message).is_none()
    {
        return;
    }
    apply(state, input, recorder);
}

fn reset_to_zero(state: &mut State, input: &Input, recorder: &mut EffectRecorder) {
    apply(state, input, recorder);
    if let Some((at, Change::Read { user_id, .. })) = dialog_of(input) {
        add(state, recorder, at, 0, |who, _| who == *user_id);
        if let Some(member) = state.dialogs.entry(at).or_default().members.get_mut(user_id) {
            member.unread = 0;
        }
    }
}

fn no_repetition_check(state: &mut State, input: &Input, recorder: &mut EffectRecorder) {
    if let Some((at, Change::Sent(message, _))) = dialog_of(input)
        && entry_state(state, at, message) == Some(EntryState::Counted)
    {
        add(state, recorder, at, 1, |user_id, member| {
            user_id != message.author_id
                && matches!(member.membership, Membership::Joined(joined_seq) if joined_seq < message.seq)
                && member.read_seq < message.seq
        });
    }
    apply(state, input, recorder);
}

fn repeated_deletion(state: &mut State, input: &Input, recorder: &mut EffectRecorder) {
    if let Some((at, Change::Deleted(message))) = dialog_of(input)
        && matches!(entry_state(state, at, message), Some(EntryState::Void(_)))
    {
        add(state, recorder, at, -1, |_, member| member.unread > 0 && member.read_seq < message.seq);
    }
    apply(state, input, recorder);
}

fn author_counted(state: &mut State, input: &Input, recorder: &mut EffectRecorder) {
    if let Some((at, Change::Sent(message, _))) = dialog_of(input)
        && entry_state(state, at, message).is_none()
    {
        add(state, recorder, at, 1, |user_id, member| user_id == message.author_id && member.is_joined());
    }
    apply(state, input, recorder);
}

fn pointer_goes_back(state: &mut State, input: &Input, recorder: &mut EffectRecorder) {
    if let Some((at, Change::Read { user_id, up_to })) = dialog_of(input)
        && let Some(member) = state.dialogs.entry(at).or_default().members.get_mut(user_id)
        && *up_to > 0
        && member.read_seq > *up_to
    {
        recorder.record_before(*user_id, at, member);
        member.read_seq = up_to - 1;
    }
    apply(state, input, recorder);
}

fn stale_join(state: &mut State, input: &Input, recorder: &mut EffectRecorder) {
    if let Some((at, Change::Joined { user_id, .. })) = dialog_of(input)
        && let Some(member) = state.dialogs.entry(at).or_default().members.get_mut(user_id)
    {
        member.version = 0;
    }
    apply(state, input, recorder);
}

fn join_from_the_beginning(state: &mut State, input: &Input, recorder: &mut EffectRecorder) {
    let mut input = input.clone();
    if let Input::Dialog { change: Change::Joined { joined_seq, .. }, .. } = &mut input {
        *joined_seq = 0;
    }
    apply(state, &input, recorder);
}

fn leave_is_forgotten(state: &mut State, input: &Input, recorder: &mut EffectRecorder) {
    match input {
        Input::Dialog { dialog_id, version, change: Change::Left { .. } } => {
            let nothing =
                Input::Dialog { dialog_id: *dialog_id, version: *version, change: Change::VersionOnly };
            apply(state, &nothing, recorder);
        }
        _ => apply(state, input, recorder),
    }
}

fn refusal_ignored(state: &mut State, input: &Input, recorder: &mut EffectRecorder) {
    let mut input = input.clone();
    if let Input::Dialog { change, .. } = &mut input
        && let Change::Refused(message, _) = change
    {
        *change = Change::Sent(*message, 0);
    }
    apply(state, &input, recorder);
}

fn silent_change(state: &mut State, input: &Input, recorder: &mut EffectRecorder) {
    let mut discarded = EffectRecorder::default();
    match dialog_of(input) {
        Some((_, Change::Deleted(_))) => apply(state, input, &mut discarded),
        _ => apply(state, input, recorder),
    }
}

fn sending_reads(state: &mut State, input: &Input, recorder: &mut EffectRecorder) {
    if let Some((at, Change::Sent(message, _))) = dialog_of(input)
        && let Some(member) = state.dialogs.entry(at).or_default().members.get_mut(&message.author_id)
    {
        recorder.record_before(message.author_id, at, member);
        member.read_seq = member.read_seq.max(message.seq);
    }
    apply(state, input, recorder);
}

fn step_of_one(state: &mut State, input: &Input, recorder: &mut EffectRecorder) {
    apply(state, input, recorder);
    if let Some((at, Change::Sent(message, _))) = dialog_of(input)
        && let Some(member) = state.dialogs.entry(at).or_default().members.get_mut(&message.author_id)
        && recorder.before.get(&(message.author_id, at)).is_some_and(|row| row.read_seq < message.seq)
    {
        member.read_seq = member.read_seq.min(message.seq);
    }
}

fn join_without_step(state: &mut State, input: &Input, recorder: &mut EffectRecorder) {
    apply(state, input, recorder);
    if let Some((at, Change::Joined { user_id, .. })) = dialog_of(input)
        && let Some(member) = state.dialogs.entry(at).or_default().members.get_mut(user_id)
        && recorder.before.get(&(*user_id, at)).is_some_and(|row| row.read_seq == 0)
    {
        member.read_seq = 0;
    }
}

fn silent_gap(state: &mut State, input: &Input, recorder: &mut EffectRecorder) {
    let mut input = input.clone();
    if let Input::Dialog { dialog_id, version, .. } = &mut input
        && let Some(version) = version.take()
    {
        state.dialogs.entry(*dialog_id).or_default().applied.record_version(version);
    }
    apply(state, &input, recorder);
}
