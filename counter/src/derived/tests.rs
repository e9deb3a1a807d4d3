//! Random histories: the stored state agrees with its source however events were lost, repeated and
//! reordered, and planted differences are found and mended.

use proto::{MessageId, UserId};
use uuid::Uuid;

use super::{Source, Subject, compare, derive, events_drift};
use crate::kernel::{
    Dialog, Membership, State,
    history::{self, History},
    ledger::{Entry, EntryState},
    transact,
};

const HISTORIES: u64 = 5_000;

/// Returns the dialogs after a history, each with its source.
fn dialogs(history: &History) -> Vec<(proto::DialogId, Source, Dialog)> {
    let mut state = State::default();
    for inputs in &history.transactions {
        transact(&mut state, inputs);
    }
    let stored = history.sources.iter().map(|(dialog_id, source)| {
        let stored = state.dialogs.get(dialog_id).cloned().unwrap_or_default();
        (*dialog_id, source.clone(), stored)
    });
    stored.collect()
}

#[test]
fn the_state_after_any_history_agrees_with_its_source_and_is_derived_from_it() {
    let mut complete = 0;
    let mut in_flight = 0;
    for seed in 0..HISTORIES {
        let history = history::random(seed, 1);
        if history.diverges {
            continue;
        }
        for (dialog_id, source, stored) in dialogs(&history) {
            let comparison = compare(dialog_id, &source, &stored);
            assert_eq!(comparison.drift, [], "history {seed}");
            let derived = derive(dialog_id, &source, &stored);
            for (user_id, member) in &derived.members {
                let unread = member.unread_messages(*user_id, &derived.ledger).count() as i64;
                assert_eq!(member.unread, unread, "history {seed}");
                let read_seq = stored.members.get(user_id).map_or(0, |member| member.read_seq);
                assert!(member.read_seq >= read_seq, "history {seed}: a read pointer went back");
            }
            let again = compare(dialog_id, &source, &derived);
            assert_eq!((again.drift, again.in_flight), (vec![], 0), "history {seed}");
            assert_eq!(derive(dialog_id, &source, &derived), derived, "history {seed}: derived twice");
            in_flight += u32::from(comparison.in_flight > 0);
            if events_drift(dialog_id, source.head, &stored).is_none() && comparison.in_flight == 0 {
                assert_eq!(derived.ledger, stored.ledger, "history {seed}");
                assert_eq!(derived.members, stored.members, "history {seed}");
                complete += 1;
            }
        }
    }
    assert!(complete > HISTORIES / 2 && in_flight > 100, "{complete} complete, {in_flight} in flight");
}

/// Changes the stored state. Returns the subject that must be reported; `None` if there is nothing to
/// change.
type Fault = fn(&mut Dialog) -> Option<Subject>;

fn too_many(dialog: &mut Dialog) -> Option<Subject> {
    let (user_id, member) = dialog.members.iter_mut().next()?;
    member.unread += 1;
    Some(Subject::Count(*user_id))
}

fn forgotten(dialog: &mut Dialog) -> Option<Subject> {
    let (user_id, member) = dialog.members.iter_mut().find(|(_, member)| member.unread > 0)?;
    member.unread -= 1;
    Some(Subject::Count(*user_id))
}

/// Not a refused one: a refusal that dialog has not heard of is known only here.
fn lost_message(dialog: &mut Dialog) -> Option<Subject> {
    let known = dialog.ledger.iter().find(|(_, entry)| entry.state.refusal().is_none());
    let seq = *known?.0;
    dialog.ledger.remove(&seq);
    Some(Subject::Message(seq))
}

fn invented_message(dialog: &mut Dialog) -> Option<Subject> {
    let seq = dialog.ledger.keys().next_back().map_or(1, |seq| seq + 1);
    let message_id = MessageId::new(Uuid::from_u128(9));
    let author_id = UserId::new(Uuid::from_u128(9));
    dialog.ledger.insert(seq, Entry { message_id, author_id, state: EntryState::Counted });
    Some(Subject::Message(seq))
}

fn ghost(dialog: &mut Dialog) -> Option<Subject> {
    let is_deleted = |entry: &Entry| entry.state != EntryState::Counted && entry.state.refusal().is_none();
    let (seq, entry) = dialog.ledger.iter_mut().find(|(_, entry)| is_deleted(entry))?;
    entry.state = EntryState::Counted;
    Some(Subject::Message(*seq))
}

fn swapped_message(dialog: &mut Dialog) -> Option<Subject> {
    let (seq, entry) = dialog.ledger.iter_mut().find(|(_, entry)| entry.state.refusal().is_none())?;
    entry.message_id = MessageId::new(Uuid::from_u128(9));
    Some(Subject::Message(*seq))
}

fn late_join(dialog: &mut Dialog) -> Option<Subject> {
    let (user_id, member) = dialog.members.iter_mut().find(|(_, member)| member.is_joined())?;
    member.membership = Membership::Joined(1_000);
    Some(Subject::Membership(*user_id))
}

fn forgotten_leave(dialog: &mut Dialog) -> Option<Subject> {
    let has_left = |membership: &Membership| *membership == Membership::Left;
    let (user_id, member) = dialog.members.iter_mut().find(|(_, member)| has_left(&member.membership))?;
    member.membership = Membership::Joined(0);
    Some(Subject::Membership(*user_id))
}

fn invented_member(dialog: &mut Dialog) -> Option<Subject> {
    let user_id = UserId::new(Uuid::from_u128(9));
    dialog.members.entry(user_id).or_default().membership = Membership::Joined(0);
    Some(Subject::Membership(user_id))
}

#[test]
fn every_planted_difference_is_found_and_mended() {
    let faults: [(&str, Fault); 9] = [
        ("too many", too_many),
        ("forgotten", forgotten),
        ("lost message", lost_message),
        ("invented message", invented_message),
        ("ghost", ghost),
        ("swapped message", swapped_message),
        ("late join", late_join),
        ("forgotten leave", forgotten_leave),
        ("invented member", invented_member),
    ];
    for (name, fault) in faults {
        let mut found = 0;
        for seed in 0..300 {
            let history = history::random(seed, 1);
            for (dialog_id, source, stored) in dialogs(&history) {
                let complete = derive(dialog_id, &source, &stored);
                let mut damaged = complete.clone();
                let Some(subject) = fault(&mut damaged) else { continue };
                let drift = compare(dialog_id, &source, &damaged).drift;
                let subjects: Vec<Subject> = drift.iter().map(|drift| drift.subject).collect();
                assert!(subjects.contains(&subject), "{name}, history {seed}: {subjects:?}");
                let mut mended = derive(dialog_id, &source, &damaged);
                assert_eq!(compare(dialog_id, &source, &mended).drift, [], "{name}, history {seed}");
                // An invented member keeps a row that counts nothing.
                mended.members.retain(|user_id, _| complete.members.contains_key(user_id));
                assert_eq!(mended.members, complete.members, "{name}, history {seed}");
                found += 1;
            }
        }
        assert!(found > 20, "{name}: planted {found} times only");
    }
}

#[test]
fn events_that_were_not_applied_are_drift_only_in_the_end() {
    let dialog_id = proto::DialogId::now();
    let mut stored = Dialog::default();
    stored.applied.record_version(1);
    assert_eq!(events_drift(dialog_id, 1, &stored), None);
    let drift = events_drift(dialog_id, 3, &stored).expect("two events are missing");
    assert_eq!((drift.stored.as_str(), drift.expected.as_str()), ("version 1", "version 3"));
    stored.applied.record_version(3);
    let drift = events_drift(dialog_id, 3, &stored).expect("there is a gap");
    assert_eq!(drift.stored, "version 3, with gaps");
}
