//! Tests of single rules of the state machine of messages.

use std::collections::BTreeSet;

use proto::{
    MessageId, UserId,
    dialog::{self, Status},
};
use uuid::Uuid;
use wake::Wake;

use super::{
    entry::{Entry, FetchReply, FetchRequest, Next},
    frame::{Change, Event, Frame, Kind},
    subscriber::Replay,
};
use crate::version::Version;

fn user(number: u128) -> UserId {
    UserId::new(Uuid::from_u128(number))
}

/// Creates an entry with one live subscriber, 1, at version 1-5, whose first frame is taken.
fn entry_at_version_5() -> Entry {
    let mut entry = Entry::new(1000);
    entry.register(1, user(1), Wake::new());
    assert_eq!(entry.take(1), Next::Wait);
    entry.open(1, Replay { since: None, head: Version::new(1, 5), messages: Vec::new(), reset: false });
    assert_eq!(entry.take(1), Next::Frame(Frame::without_message(Kind::Current, Version::new(1, 5))));
    entry
}

fn sent(version: i64) -> Event {
    Event { version, change: Change::Message(MessageId::new(Uuid::from_u128(version as u128)), Kind::Sent) }
}

/// Serves the next request: user 2 sent every message, user 1 is a participant.
fn serve(entry: &mut Entry, head: Version) -> FetchRequest {
    let request = entry.start_request().expect("a request is needed");
    let message = |id: &MessageId| {
        let mut message =
            dialog::Message { id: id.bytes(), sender_id: user(2).bytes(), ..Default::default() };
        message.set_status(Status::Pending);
        (*id, message)
    };
    let messages = request.messages.iter().map(message).collect();
    entry.finish_request(&request, FetchReply { head, messages, members: BTreeSet::from([user(1)]) });
    request
}

fn take_frame(entry: &mut Entry) -> (Kind, String) {
    match entry.take(1) {
        Next::Frame(frame) => (frame.kind, frame.version.to_string()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_message_is_fetched_once_for_all_subscribers_and_sent_with_its_latest_event() {
    let mut entry = entry_at_version_5();
    entry.register(2, user(1), Wake::new());
    entry.open(2, Replay { since: None, head: Version::new(1, 5), messages: Vec::new(), reset: false });
    assert!(matches!(entry.take(2), Next::Frame(_)));
    entry.apply(sent(6));
    let committed = Change::Message(MessageId::new(Uuid::from_u128(6)), Kind::Committed);
    entry.apply(Event { version: 7, change: committed });
    let request = serve(&mut entry, Version::new(1, 7));
    assert_eq!((request.messages.len(), request.users), (1, vec![user(1)]));
    assert_eq!(take_frame(&mut entry), (Kind::Committed, "1-7".to_owned()));
    assert!(matches!(entry.take(2), Next::Frame(_)));
    assert_eq!((entry.take(1), entry.needs_request(), entry.pending_len()), (Next::Wait, false, 0));
}

#[test]
fn a_stalled_subscriber_receives_a_reset() {
    let mut entry = entry_at_version_5();
    for version in 6..5000 {
        entry.apply(sent(version));
    }
    assert_eq!(entry.pending_len(), 0, "nothing stays pending");
    assert_eq!(take_frame(&mut entry), (Kind::Reset, "1-4999".to_owned()));
    entry.apply(sent(5000));
    serve(&mut entry, Version::new(1, 5000));
    assert_eq!(take_frame(&mut entry), (Kind::Sent, "1-5000".to_owned()));
}

#[test]
fn messages_evicted_from_the_bounded_cache_are_fetched_again() {
    let mut entry = entry_at_version_5();
    for version in 6..1000 {
        entry.apply(sent(version));
        if entry.needs_request() && version % 50 == 0 {
            serve(&mut entry, Version::new(1, version));
        }
    }
    for version in 6..1000 {
        let frame = match entry.take(1) {
            Next::Wait => {
                serve(&mut entry, Version::new(1, 999));
                take_frame(&mut entry)
            }
            Next::Frame(frame) => (frame.kind, frame.version.to_string()),
            Next::Ended => panic!("the subscription has not ended"),
        };
        assert_eq!(frame, (Kind::Sent, format!("1-{version}")));
    }
    assert_eq!((entry.take(1), entry.pending_len()), (Next::Wait, 0));
}

#[test]
fn a_new_epoch_causes_a_reset() {
    let mut entry = entry_at_version_5();
    entry.apply(sent(6));
    serve(&mut entry, Version::new(2, 6));
    assert_eq!(take_frame(&mut entry), (Kind::Reset, "2-6".to_owned()));
    entry.apply(sent(7));
    serve(&mut entry, Version::new(2, 7));
    assert_eq!(take_frame(&mut entry), (Kind::Sent, "2-7".to_owned()));
}

#[test]
fn a_stale_reply_delivers_nothing_and_leaving_ends_the_subscription() {
    let mut entry = entry_at_version_5();
    entry.apply(sent(6));
    let request = entry.start_request().expect("a request is needed");
    let stale =
        FetchReply { head: Version::new(1, 5), messages: Vec::new(), members: BTreeSet::from([user(1)]) };
    assert!(!entry.finish_request(&request, stale), "the reply is older than the request");
    assert_eq!(entry.take(1), Next::Wait);
    serve(&mut entry, Version::new(1, 6));
    entry.apply(Event { version: 7, change: Change::Left(user(1)) });
    assert_eq!(entry.take(1), Next::Ended, "pending messages are not sent");
    assert_eq!(entry.pending_len(), 0);
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

/// Returns the first frames of user 1, who resumes at `since`.
fn replay(since: Version, messages: Vec<dialog::Message>, reset: bool) -> Vec<(Kind, String)> {
    let mut entry = Entry::new(1000);
    entry.register(1, user(1), Wake::new());
    entry.open(1, Replay { since: Some(since), head: Version::new(1, 9), messages, reset });
    let mut all = Vec::new();
    while let Next::Frame(frame) = entry.take(1) {
        all.push((frame.kind, frame.version.to_string()));
    }
    all
}

#[test]
fn a_restore_of_the_dialog_service_resets_every_subscriber() {
    let mut entry = entry_at_version_5();
    entry.apply(sent(6));
    serve(&mut entry, Version::new(1, 6));
    assert_eq!(take_frame(&mut entry), (Kind::Sent, "1-6".to_owned()));
    entry.apply(sent(3));
    assert_eq!(
        entry.take(1),
        Next::Wait,
        "an event below the newest version is ignored until the epoch is known"
    );
    entry.register(2, user(1), Wake::new());
    entry.open(2, Replay { since: None, head: Version::new(2, 3), messages: Vec::new(), reset: false });
    assert_eq!(
        take_frame(&mut entry),
        (Kind::Reset, "2-3".to_owned()),
        "the RESET has a version of the new epoch"
    );
    assert!(matches!(entry.take(2), Next::Frame(frame) if frame.version == Version::new(2, 3)));
    entry.apply(sent(4));
    serve(&mut entry, Version::new(2, 4));
    assert_eq!(take_frame(&mut entry), (Kind::Sent, "2-4".to_owned()));
    assert!(matches!(entry.take(2), Next::Frame(_)));
    entry.apply(sent(5));
    serve(&mut entry, Version::new(3, 1));
    assert_eq!(take_frame(&mut entry), (Kind::Reset, "3-1".to_owned()), "a reply reveals a new epoch too");
    assert_eq!((entry.take(1), entry.needs_request(), entry.pending_len()), (Next::Wait, false, 0));
}

#[test]
fn a_replay_has_the_newest_state_of_each_message_by_version() {
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
    let kinds =
        |since| replay(since, messages(), false).into_iter().map(|(kind, _)| kind).collect::<Vec<_>>();
    let from_three = [Kind::Committed, Kind::Deleted, Kind::Failed, Kind::Failed, Kind::Sent, Kind::Deleted];
    assert_eq!(kinds(Version::new(1, 3)), from_three);
    let from_start = [Kind::Committed, Kind::Deleted, Kind::Failed, Kind::Sent];
    assert_eq!(
        kinds(Version::new(0, 0)),
        from_start,
        "earlier failed messages are sent to their author only"
    );
}

#[test]
fn an_empty_replay_is_current_and_an_impossible_one_is_a_reset() {
    assert_eq!(replay(Version::new(1, 9), Vec::new(), false), [(Kind::Current, "1-9".to_owned())]);
    assert_eq!(replay(Version::new(7, 7), Vec::new(), true), [(Kind::Reset, "1-9".to_owned())]);
}
