//! The counter through its interfaces: events arrive in the log, calls through the generated client, and
//! its own events are read from the log.

mod app;
mod dialog;
mod own_actions;
mod redis;
mod refusals;
mod restore;

use proto::{
    DialogId, MessageId, UserId,
    counter::{
        MarkReadRequest, ReadStatesPage, ReadStatesRequest, RowsRequest, SettleRequest, SnapshotOf,
        SnapshotsRequest, UnreadRequest, Version,
    },
    dialog::{Change, ChangesSinceReply, MembershipChange, MessageChange, Status, change::Row},
    events::{MessageSent, event::Kind},
    topic,
};
use testkit::eventually;
use tonic::Code;

use app::test_apps;
use dialog::SimulatedDialog;

#[tokio::test]
async fn a_message_is_counted_and_its_events_are_published() {
    for app in test_apps().await {
        let ada = UserId::now();
        let bob = UserId::now();
        let mut published = app.tail(&[topic::COUNTER, topic::UNREAD]).await;
        let mut dialog = SimulatedDialog::create(&app, &[ada, bob]).await;
        let sent = dialog.message(ada);
        app.publish(topic::DIALOG, vec![Kind::MessageSent(sent.clone())]).await;
        app.wait_for_total(bob, 1).await;
        assert_eq!(app.unread(ada, None).await.unwrap().total, 0, "an author's own message is not unread");
        let mut counted = false;
        let mut changed = false;
        while !(counted && changed) {
            for record in published.next().await.unwrap().records {
                assert_eq!(record.headers.request_id.as_deref(), Some("cause"), "{}", record.kind);
                match Kind::decode(&record.payload).unwrap() {
                    Kind::Counted(reply) => counted = reply.message_id == sent.message_id,
                    // The author's pointer steps over the message.
                    Kind::ReadMarked(mark) => assert_eq!((mark.user_id, mark.read_seq), (ada.bytes(), 1)),
                    Kind::UnreadChanged(change) if change.user_id == ada.bytes() => {
                        assert_eq!((change.rows[0].was, change.rows[0].unread), (0, 0));
                    }
                    // The join, unless one batch had the message too.
                    Kind::UnreadChanged(change) if change.rows[0].unread == 0 => {
                        assert_eq!((change.version, change.rows[0].was), (1, 0));
                    }
                    Kind::UnreadChanged(change) => {
                        assert_eq!(change.user_id, bob.bytes());
                        assert_eq!(change.previous, change.version - 1);
                        assert!((1..=2).contains(&change.version), "version {}", change.version);
                        assert_eq!(
                            (change.rows[0].was, change.rows[0].unread, change.rows[0].last_seq),
                            (0, 1, 1)
                        );
                        changed = true;
                    }
                    other => panic!("unexpected event: {other:?}"),
                }
            }
        }
        app.shut_down().await;
    }
}

#[tokio::test]
async fn joins_leaves_and_deletions_change_counts_from_their_seq() {
    for app in test_apps().await {
        let [ada, bob, cleo] = [(); 3].map(|()| UserId::now());
        let mut dialog = SimulatedDialog::create(&app, &[ada, bob]).await;
        let first = dialog.message(ada);
        let second = dialog.message(ada);
        let events = vec![Kind::MessageSent(first.clone()), Kind::MessageSent(second), dialog.join(cleo)];
        app.publish(topic::DIALOG, events).await;
        let third = dialog.message(bob);
        let events = vec![Kind::MessageSent(third.clone()), dialog.delete(&first)];
        // Every event three times: repeated events are not counted.
        app.publish(topic::DIALOG, [events.clone(), events.clone(), events].concat()).await;
        app.wait_for_total(cleo, 1).await;
        app.wait_for_total(bob, 1).await;
        app.wait_for_total(ada, 1).await;
        app.publish(topic::DIALOG, vec![dialog.leave(cleo)]).await;
        app.wait_for_total(cleo, 0).await;
        let rows = RowsRequest { dialog_ids: vec![dialog.id.bytes()], at_least: None };
        let mut client = app.client(&app.token_of(cleo));
        assert!(
            client.rows(rows).await.unwrap().into_inner().rows.is_empty(),
            "she is not a participant any more"
        );
        app.shut_down().await;
    }
}

#[tokio::test]
async fn a_read_pointer_moves_forward_and_never_back() {
    for app in test_apps().await {
        let ada = UserId::now();
        let bob = UserId::now();
        let mut dialog = SimulatedDialog::create(&app, &[ada, bob]).await;
        let sent = (0..5).map(|_| Kind::MessageSent(dialog.message(ada))).collect();
        app.publish(topic::DIALOG, sent).await;
        app.wait_for_total(bob, 5).await;
        let read = async |seq| app.mark_read(bob, dialog.id, seq).await.unwrap();
        let third = read(3).await;
        let row = third.row.clone().unwrap();
        assert_eq!((third.total, row.unread, row.read_seq, row.last_seq), (2, 2, 3, 5));
        assert_eq!(read(2).await, third, "a stale read changes neither the state nor the version");
        let ahead = read(7).await;
        assert_eq!(ahead.total, 0);
        assert_eq!(ahead.version.unwrap().number, third.version.unwrap().number + 1);
        let sixth = dialog.message(ada);
        dialog.message(ada);
        let eighth = dialog.message(ada);
        app.publish(topic::DIALOG, vec![Kind::MessageSent(sixth), Kind::MessageSent(eighth)]).await;
        app.wait_for_total(bob, 1).await;
        app.shut_down().await;
    }
}

#[tokio::test]
async fn an_invalid_event_becomes_a_dead_letter_and_does_not_stop_the_others() {
    for app in test_apps().await {
        let ada = UserId::now();
        let bob = UserId::now();
        let mut dead = app.tail(&[topic::DEAD]).await;
        let mut dialog = SimulatedDialog::create(&app, &[ada, bob]).await;
        let first = dialog.message(ada);
        let duplicate = MessageSent {
            message_id: MessageId::now().bytes(),
            version: dialog.next_version(),
            ..first.clone()
        };
        let without_seq = MessageSent { seq: 0, version: dialog.next_version(), ..first.clone() };
        let events =
            vec![first, duplicate, without_seq, dialog.message(ada)].into_iter().map(Kind::MessageSent);
        app.publish(topic::DIALOG, events.collect()).await;
        app.publish_bytes(topic::DIALOG, b"\xff\xff".to_vec()).await;
        app.wait_for_total(bob, 2).await;
        let mut errors = Vec::new();
        while errors.len() < 3 {
            for record in dead.next().await.unwrap().records {
                let Some(Kind::DeadLetter(letter)) = Kind::decode(&record.payload) else {
                    panic!("{record:?}")
                };
                assert_eq!((&*letter.topic, &*letter.consumer), (topic::DIALOG, "counter"));
                errors.push(letter.error);
            }
        }
        errors.sort();
        let expected = ["seq belongs to another message", "seq must be between", "unknown or malformed"]
            .iter()
            .zip(&errors);
        assert!(expected.into_iter().all(|(start, error)| error.starts_with(start)), "{errors:?}");
        app.shut_down().await;
    }
}

#[tokio::test]
async fn a_gap_is_closed_by_the_changes_of_the_dialog_service() {
    for app in test_apps().await {
        let ada = UserId::now();
        let bob = UserId::now();
        let mut dialog = SimulatedDialog::create(&app, &[ada]).await;
        let lost = dialog.join(bob);
        let first = dialog.message(ada);
        let second = dialog.message(ada);
        let third = dialog.message(ada);
        let Kind::ParticipantJoined(joined) = lost else { panic!("a join is a ParticipantJoined") };
        let membership = MembershipChange { user_id: bob.bytes(), joined_seq: 0, left: false };
        let changes = [&first, &second, &third].map(|sent| Change {
            version: sent.version,
            row: Some(Row::Message(row_of(sent, sent.seq == 2))),
        });
        let membership = Change { version: joined.version, row: Some(Row::Membership(membership)) };
        app.set_changes(ChangesSinceReply {
            head: dialog.version,
            changes: std::iter::once(membership).chain(changes).collect(),
        });
        // The events of the join and of the second message are lost.
        app.publish(topic::DIALOG, vec![Kind::MessageSent(first), Kind::MessageSent(third)]).await;
        app.wait_for_total(bob, 2).await;
        assert_eq!(
            app.changes_since_calls(),
            vec![(dialog.id, joined.version - 1)],
            "one call, from the version before the gap"
        );
        app.shut_down().await;
    }
}

/// Returns a message as the dialog service returns it to a repair.
fn row_of(sent: &MessageSent, deleted: bool) -> MessageChange {
    MessageChange {
        message_id: sent.message_id.clone(),
        seq: sent.seq,
        sender_id: sent.sender_id.clone(),
        transaction_id: sent.transaction_id.clone(),
        status: Status::Pending.into(),
        deleted,
        created_at_us: sent.created_at_us,
        read_up_to: 0,
    }
}

#[tokio::test]
async fn settlement_returns_the_outcome_of_each_message() {
    for app in test_apps().await {
        let ada = UserId::now();
        let bob = UserId::now();
        let mut dialog = SimulatedDialog::create(&app, &[ada, bob]).await;
        let seen = dialog.message(ada);
        let deleted = dialog.message(ada);
        // Counted after the deletion, since the events of a dialog are applied in order: its count shows
        // that the deletion is applied too.
        let deletion = dialog.delete(&deleted);
        let last = dialog.message(ada);
        let unseen = dialog.message(ada);
        let events = vec![Kind::MessageSent(seen.clone()), deletion, Kind::MessageSent(last)];
        app.publish(topic::DIALOG, events).await;
        app.wait_for_total(bob, 2).await;
        let request = SettleRequest { messages: vec![unseen, seen, deleted] };
        let mut published = app.tail(&[topic::UNREAD]).await;
        for _ in 0..2 {
            let mut client = app.client(&app.service_token());
            let outcomes = client.settle(request.clone()).await.unwrap().into_inner().outcomes;
            let counted: Vec<bool> = outcomes.iter().map(|outcome| outcome.counted).collect();
            assert_eq!(counted, [true, true, true], "an unseen message is applied by the settlement");
            assert!(outcomes.iter().all(|outcome| outcome.refused.is_none()));
        }
        app.wait_for_total(bob, 3).await;
        let published = published.next().await.unwrap().records.len();
        assert_eq!(published, 2, "the changes of the reader and of the author are published once");
        app.shut_down().await;
    }
}

#[tokio::test]
async fn an_invalid_message_does_not_affect_others_in_its_settlement() {
    for app in test_apps().await {
        let ada = UserId::now();
        let bob = UserId::now();
        let mut dialog = SimulatedDialog::create(&app, &[ada, bob]).await;
        let first = dialog.message(ada);
        let second = dialog.message(ada);
        let invalid = |change: fn(&mut MessageSent)| {
            let mut message = first.clone();
            message.message_id = MessageId::now().bytes();
            change(&mut message);
            message
        };
        let invalid_messages = vec![
            MessageSent::default(),
            invalid(|message| message.seq = 0),
            invalid(|message| message.seq = (1 << 53) + 1),
            invalid(|message| message.message_id.truncate(15)),
            invalid(|message| message.dialog_id.clear()),
        ];
        let bad = invalid_messages.len();
        let messages = [vec![first], invalid_messages, vec![second]].concat();
        let mut dead = app.tail(&[topic::DEAD]).await;
        let mut client = app.client(&app.service_token());
        let outcomes = client.settle(SettleRequest { messages }).await.unwrap().into_inner().outcomes;
        let counted: Vec<bool> = outcomes.iter().map(|outcome| outcome.counted).collect();
        assert_eq!(counted, [vec![true], vec![false; bad], vec![true]].concat());
        let reasons = outcomes.iter().filter_map(|outcome| outcome.refused.as_deref());
        assert_eq!(reasons.collect::<Vec<_>>(), vec!["the message is invalid"; bad], "each has an end");
        app.wait_for_total(bob, 2).await;
        assert_eq!(dead.next().await.unwrap().records.len(), bad, "each is a dead letter");
        app.shut_down().await;
    }
}

#[tokio::test]
async fn readiness_reports_a_stopped_consumer_with_its_reason() {
    for app in test_apps().await {
        let ada = UserId::now();
        let bob = UserId::now();
        let mut dialog = SimulatedDialog::create(&app, &[ada, bob]).await;
        app.publish(topic::DIALOG, vec![Kind::MessageSent(dialog.message(ada))]).await;
        app.wait_for_total(bob, 1).await;
        assert_eq!(app.readiness.report().1["status"], "ready");
        let app = app.restart_with_lost_upstream().await;
        eventually("readiness is degraded", || async { app.readiness.report().1["status"] == "degraded" })
            .await;
        assert!(app.readiness.is_ready(), "reads continue");
        app.wait_for_total(bob, 1).await;
        let reason = app.readiness.report().1["checks"]["consumer"]["reason"].as_str().unwrap().to_owned();
        let stopped = app.shut_down_stopped().await;
        assert_eq!(reason, format!("counting has stopped: {stopped}"));
    }
}

#[tokio::test]
async fn lists_are_sorted_by_newest_activity_and_totals_are_exact() {
    for app in test_apps().await {
        let [ada, bob, cleo] = [(); 3].map(|()| UserId::now());
        let mut dialogs = Vec::new();
        for n in 0..4 {
            let mut dialog = SimulatedDialog::create(&app, &[ada, bob, cleo]).await;
            let sent = MessageSent { created_at_us: 100 - n, ..dialog.message(ada) };
            app.publish(topic::DIALOG, vec![Kind::MessageSent(sent)]).await;
            dialogs.push(dialog.id.bytes());
        }
        // The first read of a user comes from the database.
        app.wait_for_total(cleo, 4).await;
        let reply = app.unread(bob, None).await.unwrap();
        let order: Vec<_> = reply.rows.iter().map(|row| row.dialog_id.clone()).collect();
        assert_eq!((order, reply.truncated), (dialogs.clone(), false));
        let request = UnreadRequest { first: 3, at_least: None };
        let page = app.client(&app.token_of(bob)).unread(request).await.unwrap().into_inner();
        assert_eq!((page.rows.len(), page.total, page.truncated), (3, 4, true));

        let of = |user: UserId, since| SnapshotOf { user_id: user.bytes(), since };
        let request = SnapshotsRequest { of: vec![of(ada, None), of(bob, reply.version), of(bob, None)] };
        let reply = app.client(&app.service_token()).snapshots(request).await.unwrap().into_inner();
        let [of_ada, current, of_bob] = &reply.snapshots[..] else { panic!("three snapshots: {reply:?}") };
        // One step for each batch with a join or an own message.
        let version = of_ada.version.expect("a version");
        assert!(of_ada.total == 0 && (1..=8).contains(&version.number), "{of_ada:?}");
        assert_eq!((current.current, current.rows.len(), current.total), (true, 0, 4));
        let order: Vec<_> = of_bob.rows.iter().map(|row| row.dialog_id.clone()).collect();
        assert_eq!((of_bob.current, order), (false, dialogs));
        app.shut_down().await;
    }
}

#[tokio::test]
async fn an_answer_is_never_older_than_the_requested_version() {
    for app in test_apps().await {
        let ada = UserId::now();
        let bob = UserId::now();
        let mut dialog = SimulatedDialog::create(&app, &[ada, bob]).await;
        for n in 1..=20 {
            app.publish(topic::DIALOG, vec![Kind::MessageSent(dialog.message(ada))]).await;
            app.wait_for_total(bob, n.min(2)).await;
            let read = app.mark_read(bob, dialog.id, n - 1).await.unwrap();
            let reply = app.unread(bob, read.version).await.unwrap();
            assert_eq!((reply.total, reply.version), (1, read.version), "whatever the cache has");
        }
        for version in [Version { epoch: 1, number: 1_000 }, Version { epoch: 2, number: 0 }] {
            let future = app.unread(bob, Some(version)).await.unwrap_err();
            assert_eq!(future.code(), Code::InvalidArgument);
        }
        eventually("the cache has the newest version", || async {
            app.unread(bob, None).await.unwrap().total == 1
        })
        .await;
        app.shut_down().await;
    }
}

#[tokio::test]
async fn read_states_are_visible_to_participants_only() {
    for app in test_apps().await {
        let mut users = [(); 3].map(|()| UserId::now());
        users.sort();
        let [ada, bob, cleo] = users;
        let mut dialog = SimulatedDialog::create(&app, &[ada, bob, cleo]).await;
        app.publish(topic::DIALOG, vec![Kind::MessageSent(dialog.message(ada))]).await;
        app.wait_for_total(bob, 1).await;
        app.mark_read(bob, dialog.id, 1).await.unwrap();
        let page = |first, after: Option<UserId>| ReadStatesPage {
            dialog_id: dialog.id.bytes(),
            first,
            after_user_id: after.map(UserId::bytes),
        };
        let foreign = ReadStatesPage { dialog_id: DialogId::now().bytes(), ..page(1, None) };
        let request = ReadStatesRequest {
            pages: vec![page(2, None), foreign, page(2, Some(bob)), page(9, Some(cleo))],
        };
        let states = async |user| {
            let reply =
                app.client(&app.token_of(user)).read_states(request.clone()).await.unwrap().into_inner();
            let page = |page: proto::counter::ReadStatesPageReply| {
                let state = |state: proto::counter::ReadState| {
                    (UserId::parse(&state.user_id).unwrap(), state.read_seq)
                };
                page.found.then(|| page.states.into_iter().map(state).collect::<Vec<_>>())
            };
            reply.pages.into_iter().map(page).collect::<Vec<_>>()
        };
        let expected = vec![Some(vec![(ada, 1), (bob, 1)]), None, Some(vec![(cleo, 0)]), Some(vec![])];
        assert_eq!(states(ada).await, expected);
        assert_eq!(
            states(UserId::now()).await,
            vec![None, None, None, None],
            "other users get the same answer as for an absent dialog"
        );
        app.shut_down().await;
    }
}

#[tokio::test]
async fn every_call_has_its_limits_and_its_callers() {
    for app in test_apps().await {
        let user = UserId::now();
        let user_token = app.token_of(user);
        let service_token = app.service_token();
        for first in [-1, 0, 1_001] {
            let refused =
                app.client(&user_token).unread(UnreadRequest { first, at_least: None }).await.unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument, "{first}");
        }
        for (dialog_id, seq) in [(vec![1; 15], 1), (vec![1; 16], -1), (vec![1; 16], i64::MAX)] {
            let refused =
                app.client(&user_token).mark_read(MarkReadRequest { dialog_id, seq }).await.unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument, "{seq}");
        }
        let many = RowsRequest { dialog_ids: vec![vec![1; 16]; 1_001], at_least: None };
        assert_eq!(app.client(&user_token).rows(many).await.unwrap_err().code(), Code::InvalidArgument);
        let page = ReadStatesPage { dialog_id: vec![1; 16], first: 1, after_user_id: None };
        let many = ReadStatesRequest { pages: vec![page; 101] };
        assert_eq!(
            app.client(&user_token).read_states(many).await.unwrap_err().code(),
            Code::InvalidArgument
        );
        let of = SnapshotOf { user_id: user.bytes(), since: None };
        let many = SnapshotsRequest { of: vec![of.clone(); 1_001] };
        assert_eq!(
            app.client(&service_token).snapshots(many).await.unwrap_err().code(),
            Code::InvalidArgument
        );
        let many = SettleRequest { messages: vec![MessageSent::default(); 1_001] };
        let refused = app.client(&service_token).settle(many).await.unwrap_err();
        assert_eq!(
            (refused.code(), refused.message()),
            (Code::InvalidArgument, "at most 1,000 messages at once")
        );

        let request = UnreadRequest { first: 1, at_least: None };
        assert_eq!(
            app.client(&service_token).unread(request).await.unwrap_err().code(),
            Code::Unauthenticated
        );
        assert_eq!(
            app.client("Bearer no.token.atall").unread(request).await.unwrap_err().code(),
            Code::Unauthenticated
        );
        let snapshot = SnapshotsRequest { of: vec![of] };
        assert_eq!(
            app.client(&user_token).snapshots(snapshot).await.unwrap_err().code(),
            Code::PermissionDenied
        );
        let settle = SettleRequest { messages: Vec::new() };
        assert_eq!(app.client(&user_token).settle(settle).await.unwrap_err().code(), Code::PermissionDenied);
        app.shut_down().await;
    }
}
