//! The rules of the hub's machine for messages, one by one.

use std::collections::BTreeSet;

use proto::{
    MessageId, UserId,
    dialog::{self, Status},
};
use uuid::Uuid;
use wake::Wake;

use super::{
    entry::{Answer, Entry, Next, Question},
    frame::{Event, Frame, Kind, What},
    subscriber::Missed,
};
use crate::version::Version;

fn user(number: u128) -> UserId {
    UserId::new(Uuid::from_u128(number))
}

/// An entry with one stream, 1, live at 1-5; what it was given first is taken.
fn at_five(bound: usize) -> Entry {
    let mut entry = Entry::new(bound);
    entry.register(1, user(1), Wake::new());
    assert_eq!(entry.take(1), Next::Wait);
    entry.open(1, Missed { since: None, head: Version::new(1, 5), messages: Vec::new(), reset: false });
    assert_eq!(entry.take(1), Next::Frame(Frame::bare(Kind::Current, Version::new(1, 5))));
    entry
}

fn sent(version: i64) -> Event {
    Event { version, what: What::Message(MessageId::new(Uuid::from_u128(version as u128)), Kind::Sent) }
}

/// Answers what is asked: every message sent by user 2, user 1 a member.
fn answer(entry: &mut Entry, head: Version) -> Question {
    let question = entry.ask().expect("something is asked");
    let message = |id: &MessageId| {
        let mut message =
            dialog::Message { id: id.bytes(), sender_id: user(2).bytes(), ..Default::default() };
        message.set_status(Status::Pending);
        (*id, message)
    };
    let messages = question.messages.iter().map(message).collect();
    entry.answered(&question, Answer { head, messages, members: BTreeSet::from([user(1)]) });
    question
}

fn given(entry: &mut Entry) -> (Kind, String) {
    match entry.take(1) {
        Next::Frame(frame) => (frame.kind, frame.version.to_string()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_message_is_fetched_once_for_all_streams_and_told_with_its_newest_event() {
    let mut entry = at_five(1000);
    entry.register(2, user(1), Wake::new());
    entry.open(2, Missed { since: None, head: Version::new(1, 5), messages: Vec::new(), reset: false });
    assert!(matches!(entry.take(2), Next::Frame(_)));
    entry.hear(sent(6));
    let committed = What::Message(MessageId::new(Uuid::from_u128(6)), Kind::Committed);
    entry.hear(Event { version: 7, what: committed });
    let question = answer(&mut entry, Version::new(1, 7));
    assert_eq!((question.messages.len(), question.users), (1, vec![user(1)]));
    assert_eq!(given(&mut entry), (Kind::Committed, "1-7".to_owned()));
    assert!(matches!(entry.take(2), Next::Frame(_)));
    assert_eq!((entry.take(1), entry.wants(), entry.owed()), (Next::Wait, false, 0));
}

#[test]
fn a_reader_that_stalls_is_told_to_load_the_history_again() {
    let mut entry = at_five(1000);
    for version in 6..5000 {
        entry.hear(sent(version));
    }
    assert_eq!(entry.owed(), 0, "nothing is kept for it");
    assert_eq!(given(&mut entry), (Kind::Reset, "1-4999".to_owned()));
    entry.hear(sent(5000));
    answer(&mut entry, Version::new(1, 5000));
    assert_eq!(given(&mut entry), (Kind::Sent, "1-5000".to_owned()));
}

#[test]
fn what_is_kept_for_readers_is_bounded_and_they_get_it_all_the_same() {
    let mut entry = at_five(1000);
    for version in 6..1000 {
        entry.hear(sent(version));
        if entry.wants() && version % 50 == 0 {
            answer(&mut entry, Version::new(1, version));
        }
    }
    for version in 6..1000 {
        let frame = match entry.take(1) {
            Next::Wait => {
                answer(&mut entry, Version::new(1, 999));
                given(&mut entry)
            }
            Next::Frame(frame) => (frame.kind, frame.version.to_string()),
            Next::Over => panic!("it goes on"),
        };
        assert_eq!(frame, (Kind::Sent, format!("1-{version}")));
    }
    assert_eq!((entry.take(1), entry.owed()), (Next::Wait, 0));
}

#[test]
fn another_epoch_is_a_reset() {
    let mut entry = at_five(1000);
    entry.hear(sent(6));
    answer(&mut entry, Version::new(2, 6));
    assert_eq!(given(&mut entry), (Kind::Reset, "2-6".to_owned()));
    entry.hear(sent(7));
    answer(&mut entry, Version::new(2, 7));
    assert_eq!(given(&mut entry), (Kind::Sent, "2-7".to_owned()));
}

#[test]
fn who_leaves_gets_nothing_more_and_an_answer_that_is_too_old_says_so() {
    let mut entry = at_five(1000);
    entry.hear(sent(6));
    let question = entry.ask().expect("asked");
    let stale = Answer { head: Version::new(1, 5), messages: Vec::new(), members: BTreeSet::from([user(1)]) };
    assert!(!entry.answered(&question, stale), "it is older than the question");
    assert_eq!(entry.take(1), Next::Wait);
    answer(&mut entry, Version::new(1, 6));
    entry.hear(Event { version: 7, what: What::Left(user(1)) });
    assert_eq!(entry.take(1), Next::Over, "what was not told yet is not told any more");
    assert_eq!(entry.owed(), 0);
    assert!(entry.remove(1));
}

fn stored(number: u128, author: u128, version: i64, status: Status, deleted: bool) -> dialog::Message {
    let id = MessageId::new(Uuid::from_u128(number));
    let mut message =
        dialog::Message { id: id.bytes(), sender_id: user(author).bytes(), version, ..Default::default() };
    message.set_status(status);
    message.deleted_at_us = deleted.then_some(1);
    message
}

/// What user 1 is given first, who comes back with `since`.
fn replayed(since: Version, messages: Vec<dialog::Message>, reset: bool) -> Vec<(Kind, String)> {
    let mut entry = Entry::new(1000);
    entry.register(1, user(1), Wake::new());
    entry.open(1, Missed { since: Some(since), head: Version::new(1, 9), messages, reset });
    let mut all = Vec::new();
    while let Next::Frame(frame) = entry.take(1) {
        all.push((frame.kind, frame.version.to_string()));
    }
    all
}

#[test]
fn after_the_dialog_service_was_restored_every_stream_loads_the_history_again_and_goes_on() {
    let mut entry = at_five(1000);
    entry.hear(sent(6));
    answer(&mut entry, Version::new(1, 6));
    assert_eq!(given(&mut entry), (Kind::Sent, "1-6".to_owned()));
    entry.hear(sent(3));
    assert_eq!(entry.take(1), Next::Wait, "it is below what was heard, and nobody knows yet why");
    entry.register(2, user(1), Wake::new());
    entry.open(2, Missed { since: None, head: Version::new(2, 3), messages: Vec::new(), reset: false });
    assert_eq!(given(&mut entry), (Kind::Reset, "2-3".to_owned()), "a version that there is");
    assert!(matches!(entry.take(2), Next::Frame(frame) if frame.version == Version::new(2, 3)));
    entry.hear(sent(4));
    answer(&mut entry, Version::new(2, 4));
    assert_eq!(given(&mut entry), (Kind::Sent, "2-4".to_owned()));
    assert!(matches!(entry.take(2), Next::Frame(_)));
    entry.hear(sent(5));
    answer(&mut entry, Version::new(3, 1));
    assert_eq!(given(&mut entry), (Kind::Reset, "3-1".to_owned()), "an answer tells it too");
    assert_eq!((entry.take(1), entry.wants(), entry.owed()), (Next::Wait, false, 0));
}

#[test]
fn a_replay_tells_the_newest_state_of_each_message_by_version() {
    let messages = || {
        vec![
            stored(1, 2, 4, Status::Committed, false),
            stored(2, 2, 5, Status::Committed, true),
            stored(3, 2, 6, Status::Failed, false),
            stored(4, 1, 7, Status::Failed, false),
            stored(5, 2, 8, Status::Pending, false),
            stored(6, 2, 9, Status::Failed, true),
        ]
    };
    let told =
        |since| replayed(since, messages(), false).into_iter().map(|(kind, _)| kind).collect::<Vec<_>>();
    let from_three = [Kind::Committed, Kind::Deleted, Kind::Failed, Kind::Failed, Kind::Sent, Kind::Deleted];
    assert_eq!(told(Version::new(1, 3)), from_three);
    let from_beginning = [Kind::Committed, Kind::Deleted, Kind::Failed, Kind::Sent];
    assert_eq!(told(Version::new(0, 0)), from_beginning, "what failed before one came is its author's alone");
}

#[test]
fn a_replay_of_nothing_is_current_and_one_that_cannot_be_told_is_a_reset() {
    assert_eq!(replayed(Version::new(1, 9), Vec::new(), false), [(Kind::Current, "1-9".to_owned())]);
    assert_eq!(replayed(Version::new(7, 7), Vec::new(), true), [(Kind::Reset, "1-9".to_owned())]);
}
