//! Faults planted in the rules, each as a closure around them, and each caught within a few hundred histories.

use proto::{DialogId, UserId};

use super::{
    Change, Input, Journal, Member, Membership, State, apply, check, history,
    ledger::{Message, Standing},
};

/// Histories within which every fault must show.
const BOUND: u64 = 500;

type Rules = fn(&mut State, &Input, &mut Journal);

const FAULTS: [(&str, Rules); 13] = [
    ("a message counts for those who have read past it", no_unread_predicate),
    ("a deletion takes back what was read", deletion_without_predicate),
    ("a deletion that comes first leaves no tombstone", no_tombstone),
    ("reading resets to zero", reset_to_zero),
    ("a repeated message counts again", no_repetition_check),
    ("a deletion repeated takes back again", repeated_deletion),
    ("the author's own message counts", author_counted),
    ("the read pointer goes back", pointer_goes_back),
    ("a stale join brings back who has left", stale_join),
    ("a join counts from the beginning", join_from_the_beginning),
    ("who has left goes on counting", leave_is_forgotten),
    ("a refused message counts", refusal_ignored),
    ("a row is changed behind the journal", silent_change),
];

#[test]
fn every_planted_fault_is_caught() {
    for (fault, rules) in FAULTS {
        let caught = (0..BOUND).find(|seed| check::history(&history::random(*seed, 1), rules).is_err());
        assert!(caught.is_some(), "in {BOUND} histories nobody noticed that {fault}");
    }
}

#[test]
fn the_rules_without_a_fault_pass_the_same_histories() {
    assert!((0..BOUND).all(|seed| check::history(&history::random(seed, 1), apply).is_ok()));
}

fn dialog_of(input: &Input) -> Option<(DialogId, &Change)> {
    match input {
        Input::Registered(_) => None,
        Input::Dialog { dialog_id, change, .. } => Some((*dialog_id, change)),
    }
}

/// Adds to the unread of those members for whom `whom` says so, properly noted down.
fn add(
    state: &mut State,
    journal: &mut Journal,
    at: DialogId,
    delta: i64,
    whom: impl Fn(UserId, &Member) -> bool,
) {
    for (user_id, member) in &mut state.dialogs.entry(at).or_default().members {
        if whom(*user_id, member) {
            journal.touch(*user_id, at, member);
            member.unread += delta;
        }
    }
}

fn standing(state: &State, at: DialogId, message: &Message) -> Option<Standing> {
    state.dialogs.get(&at)?.ledger.get(&message.seq).map(|entry| entry.standing.clone())
}

fn no_unread_predicate(state: &mut State, input: &Input, journal: &mut Journal) {
    if let Some((at, Change::Sent(message, _))) = dialog_of(input)
        && standing(state, at, message).is_none()
    {
        add(state, journal, at, 1, |user_id, member| {
            user_id != message.author_id
                && member.membership != Membership::Left
                && member.read_seq >= message.seq
        });
    }
    apply(state, input, journal);
}

fn deletion_without_predicate(state: &mut State, input: &Input, journal: &mut Journal) {
    if let Some((at, Change::Deleted(message))) = dialog_of(input)
        && standing(state, at, message) == Some(Standing::Counted)
    {
        add(state, journal, at, -1, |_, member| member.read_seq >= message.seq && member.unread > 0);
    }
    apply(state, input, journal);
}

fn no_tombstone(state: &mut State, input: &Input, journal: &mut Journal) {
    if let Some((at, Change::Deleted(message))) = dialog_of(input)
        && standing(state, at, message).is_none()
    {
        return;
    }
    apply(state, input, journal);
}

fn reset_to_zero(state: &mut State, input: &Input, journal: &mut Journal) {
    apply(state, input, journal);
    if let Some((at, Change::Read { user_id, .. })) = dialog_of(input) {
        add(state, journal, at, 0, |who, _| who == *user_id);
        if let Some(member) = state.dialogs.entry(at).or_default().members.get_mut(user_id) {
            member.unread = 0;
        }
    }
}

fn no_repetition_check(state: &mut State, input: &Input, journal: &mut Journal) {
    if let Some((at, Change::Sent(message, _))) = dialog_of(input)
        && standing(state, at, message) == Some(Standing::Counted)
    {
        add(state, journal, at, 1, |user_id, member| {
            user_id != message.author_id
                && matches!(member.membership, Membership::Joined(joined_seq) if joined_seq < message.seq)
                && member.read_seq < message.seq
        });
    }
    apply(state, input, journal);
}

fn repeated_deletion(state: &mut State, input: &Input, journal: &mut Journal) {
    if let Some((at, Change::Deleted(message))) = dialog_of(input)
        && matches!(standing(state, at, message), Some(Standing::Void(_)))
    {
        add(state, journal, at, -1, |_, member| member.unread > 0 && member.read_seq < message.seq);
    }
    apply(state, input, journal);
}

fn author_counted(state: &mut State, input: &Input, journal: &mut Journal) {
    if let Some((at, Change::Sent(message, _))) = dialog_of(input)
        && standing(state, at, message).is_none()
    {
        add(state, journal, at, 1, |user_id, member| {
            user_id == message.author_id && matches!(member.membership, Membership::Joined(_))
        });
    }
    apply(state, input, journal);
}

fn pointer_goes_back(state: &mut State, input: &Input, journal: &mut Journal) {
    if let Some((at, Change::Read { user_id, up_to })) = dialog_of(input)
        && let Some(member) = state.dialogs.entry(at).or_default().members.get_mut(user_id)
        && *up_to > 0
        && member.read_seq > *up_to
    {
        journal.touch(*user_id, at, member);
        member.read_seq = up_to - 1;
    }
    apply(state, input, journal);
}

fn stale_join(state: &mut State, input: &Input, journal: &mut Journal) {
    if let Some((at, Change::Joined { user_id, .. })) = dialog_of(input)
        && let Some(member) = state.dialogs.entry(at).or_default().members.get_mut(user_id)
    {
        member.version = 0;
    }
    apply(state, input, journal);
}

fn join_from_the_beginning(state: &mut State, input: &Input, journal: &mut Journal) {
    let mut input = input.clone();
    if let Input::Dialog { change: Change::Joined { joined_seq, .. }, .. } = &mut input {
        *joined_seq = 0;
    }
    apply(state, &input, journal);
}

fn leave_is_forgotten(state: &mut State, input: &Input, journal: &mut Journal) {
    match input {
        Input::Dialog { dialog_id, version, change: Change::Left { .. } } => {
            let nothing = Input::Dialog { dialog_id: *dialog_id, version: *version, change: Change::Nothing };
            apply(state, &nothing, journal);
        }
        _ => apply(state, input, journal),
    }
}

fn refusal_ignored(state: &mut State, input: &Input, journal: &mut Journal) {
    let mut input = input.clone();
    if let Input::Dialog { change, .. } = &mut input
        && let Change::Refused(message, _) = change
    {
        *change = Change::Sent(*message, 0);
    }
    apply(state, &input, journal);
}

fn silent_change(state: &mut State, input: &Input, journal: &mut Journal) {
    let mut unnoticed = Journal::default();
    match dialog_of(input) {
        Some((_, Change::Deleted(_))) => apply(state, input, &mut unnoticed),
        _ => apply(state, input, journal),
    }
}
