//! The counter as its neighbours see it: events come in through the log, calls through the generated client, and what it
//! tells is read from the log.

mod redis;
mod talk;
mod world;

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

use talk::Talk;
use world::databases;

#[tokio::test]
async fn a_message_is_counted_answered_and_told() {
    for world in databases().await {
        let (ada, bob) = (UserId::now(), UserId::now());
        let mut told = world.tail(&[topic::COUNTER, topic::UNREAD]).await;
        let mut talk = Talk::begin(&world, &[ada, bob]).await;
        let sent = talk.message(ada);
        world.emit(topic::DIALOG, vec![Kind::MessageSent(sent.clone())]).await;
        world.unread_is(bob, 1).await;
        assert_eq!(world.unread(ada, None).await.unwrap().total, 0, "nobody's own message is unread");
        let (mut counted, mut changed) = (false, false);
        while !(counted && changed) {
            for record in told.next().await.unwrap().records {
                assert_eq!(record.headers.request_id.as_deref(), Some("cause"), "{}", record.kind);
                match Kind::read(&record.payload).unwrap() {
                    Kind::Counted(answer) => counted = answer.message_id == sent.message_id,
                    Kind::UnreadChanged(change) => {
                        assert_eq!((change.user_id, change.version, change.previous), (bob.bytes(), 1, 0));
                        assert_eq!(
                            (change.rows[0].was, change.rows[0].unread, change.rows[0].last_seq),
                            (0, 1, 1)
                        );
                        changed = true;
                    }
                    other => panic!("nothing else was to be told: {other:?}"),
                }
            }
        }
        world.stop().await;
    }
}

#[tokio::test]
async fn joins_leaves_and_deletions_count_from_where_they_are() {
    for world in databases().await {
        let [ada, bob, cleo] = [(); 3].map(|()| UserId::now());
        let mut talk = Talk::begin(&world, &[ada, bob]).await;
        let (first, second) = (talk.message(ada), talk.message(ada));
        let events = vec![Kind::MessageSent(first.clone()), Kind::MessageSent(second), talk.join(cleo)];
        world.emit(topic::DIALOG, events).await;
        let third = talk.message(bob);
        let events = vec![Kind::MessageSent(third.clone()), talk.delete(&first)];
        // Everything three times: nothing is counted twice.
        world.emit(topic::DIALOG, [events.clone(), events.clone(), events].concat()).await;
        world.unread_is(cleo, 1).await;
        world.unread_is(bob, 1).await;
        world.unread_is(ada, 1).await;
        world.emit(topic::DIALOG, vec![talk.leave(cleo)]).await;
        world.unread_is(cleo, 0).await;
        let rows = RowsRequest { dialog_ids: vec![talk.id.bytes()], at_least: None };
        let mut client = world.client(&world.token_of(cleo));
        assert!(
            client.rows(rows).await.unwrap().into_inner().rows.is_empty(),
            "it is no dialog of hers any more"
        );
        world.stop().await;
    }
}

#[tokio::test]
async fn a_read_moves_forward_and_never_back() {
    for world in databases().await {
        let (ada, bob) = (UserId::now(), UserId::now());
        let mut talk = Talk::begin(&world, &[ada, bob]).await;
        let sent = (0..5).map(|_| Kind::MessageSent(talk.message(ada))).collect();
        world.emit(topic::DIALOG, sent).await;
        world.unread_is(bob, 5).await;
        let read = async |seq| world.read(bob, talk.id, seq).await.unwrap();
        let third = read(3).await;
        let row = third.row.clone().unwrap();
        assert_eq!((third.total, row.unread, row.read_seq, row.last_seq), (2, 2, 3, 5));
        assert_eq!(read(2).await, third, "a stale read moves nothing, the version neither");
        let ahead = read(7).await;
        assert_eq!(ahead.total, 0);
        assert_eq!(ahead.version.unwrap().number, third.version.unwrap().number + 1);
        let (sixth, eighth) = (talk.message(ada), {
            talk.message(ada);
            talk.message(ada)
        });
        world.emit(topic::DIALOG, vec![Kind::MessageSent(sixth), Kind::MessageSent(eighth)]).await;
        world.unread_is(bob, 1).await;
        world.stop().await;
    }
}

#[tokio::test]
async fn an_impossible_event_goes_to_the_dead_letters_and_holds_up_nothing() {
    for world in databases().await {
        let (ada, bob) = (UserId::now(), UserId::now());
        let mut dead = world.tail(&[topic::DEAD]).await;
        let mut talk = Talk::begin(&world, &[ada, bob]).await;
        let first = talk.message(ada);
        let usurper =
            MessageSent { message_id: MessageId::now().bytes(), version: talk.step(), ..first.clone() };
        let nowhere = MessageSent { seq: 0, version: talk.step(), ..first.clone() };
        let events = vec![first, usurper, nowhere, talk.message(ada)].into_iter().map(Kind::MessageSent);
        world.emit(topic::DIALOG, events.collect()).await;
        world.emit_bytes(topic::DIALOG, b"\xff\xff".to_vec()).await;
        world.unread_is(bob, 2).await;
        let mut errors = Vec::new();
        while errors.len() < 3 {
            for record in dead.next().await.unwrap().records {
                let Some(Kind::DeadLetter(letter)) = Kind::read(&record.payload) else {
                    panic!("{record:?}")
                };
                assert_eq!((&*letter.topic, &*letter.consumer), (topic::DIALOG, "counter"));
                errors.push(letter.error);
            }
        }
        errors.sort();
        let expected = ["a seq is not", "another message is known", "this is no event"].iter().zip(&errors);
        assert!(expected.into_iter().all(|(start, error)| error.starts_with(start)), "{errors:?}");
        world.stop().await;
    }
}

#[tokio::test]
async fn a_hole_is_closed_by_what_dialog_tells() {
    for world in databases().await {
        let (ada, bob) = (UserId::now(), UserId::now());
        let mut talk = Talk::begin(&world, &[ada]).await;
        let lost = talk.join(bob);
        let (first, second, third) = (talk.message(ada), talk.message(ada), talk.message(ada));
        let Kind::ParticipantJoined(joined) = lost else { panic!("a join") };
        let membership = MembershipChange { user_id: bob.bytes(), joined_seq: 0, left: false };
        let changes = [&first, &second, &third].map(|sent| Change {
            version: sent.version,
            row: Some(Row::Message(MessageChange {
                message_id: sent.message_id.clone(),
                seq: sent.seq,
                sender_id: sent.sender_id.clone(),
                transaction_id: sent.transaction_id.clone(),
                status: Status::Pending.into(),
                deleted: sent.seq == 2,
                created_at_us: sent.created_at_us,
            })),
        });
        let membership = Change { version: joined.version, row: Some(Row::Membership(membership)) };
        world.dialog_answers(ChangesSinceReply {
            head: talk.version,
            changes: std::iter::once(membership).chain(changes).collect(),
        });
        // The join and the second message never come.
        world.emit(topic::DIALOG, vec![Kind::MessageSent(first), Kind::MessageSent(third)]).await;
        world.unread_is(bob, 2).await;
        assert_eq!(
            world.dialog_was_asked(),
            vec![(talk.id, joined.version - 1)],
            "once, from before the hole"
        );
        world.stop().await;
    }
}

#[tokio::test]
async fn settling_tells_what_became_of_messages() {
    for world in databases().await {
        let (ada, bob) = (UserId::now(), UserId::now());
        let mut talk = Talk::begin(&world, &[ada, bob]).await;
        let (seen, deleted, unseen) = (talk.message(ada), talk.message(ada), talk.message(ada));
        let events = vec![Kind::MessageSent(seen.clone()), talk.delete(&deleted)];
        world.emit(topic::DIALOG, events).await;
        world.unread_is(bob, 1).await;
        let usurper = MessageSent { message_id: MessageId::now().bytes(), ..seen.clone() };
        let request = SettleRequest { messages: vec![unseen, seen, usurper, deleted] };
        let mut told = world.tail(&[topic::UNREAD]).await;
        for _ in 0..2 {
            let mut client = world.client(&world.service_token());
            let outcomes = client.settle(request.clone()).await.unwrap().into_inner().outcomes;
            let counted: Vec<bool> = outcomes.iter().map(|outcome| outcome.counted).collect();
            assert_eq!(counted, [true, true, false, true], "a message that was never seen is applied now");
            assert!(outcomes.iter().all(|outcome| outcome.refused.is_none()));
        }
        world.unread_is(bob, 2).await;
        assert_eq!(told.next().await.unwrap().records.len(), 1, "it is told once");
        world.stop().await;
    }
}

#[tokio::test]
async fn a_message_out_of_bounds_does_not_hold_up_those_that_are_settled_with_it() {
    for world in databases().await {
        let (ada, bob) = (UserId::now(), UserId::now());
        let mut talk = Talk::begin(&world, &[ada, bob]).await;
        let (first, second) = (talk.message(ada), talk.message(ada));
        let out_of_bounds = |change: fn(&mut MessageSent)| {
            let mut message = first.clone();
            message.message_id = MessageId::now().bytes();
            change(&mut message);
            message
        };
        let broken = vec![
            MessageSent::default(),
            out_of_bounds(|message| message.seq = 0),
            out_of_bounds(|message| message.seq = (1 << 53) + 1),
            out_of_bounds(|message| message.message_id.truncate(15)),
            out_of_bounds(|message| message.dialog_id.clear()),
        ];
        let bad = broken.len();
        let messages = [vec![first], broken, vec![second]].concat();
        let mut dead = world.tail(&[topic::DEAD]).await;
        let mut client = world.client(&world.service_token());
        let outcomes = client.settle(SettleRequest { messages }).await.unwrap().into_inner().outcomes;
        let counted: Vec<bool> = outcomes.iter().map(|outcome| outcome.counted).collect();
        assert_eq!(counted, [vec![true], vec![false; bad], vec![true]].concat());
        assert!(
            outcomes.iter().all(|outcome| outcome.refused.is_none()),
            "an outage or a fault of ours fails nothing"
        );
        world.unread_is(bob, 2).await;
        assert_eq!(dead.next().await.unwrap().records.len(), bad, "each goes to the dead letters");
        world.stop().await;
    }
}

#[tokio::test]
async fn counting_that_has_stopped_is_told_by_readiness_with_its_reason() {
    for world in databases().await {
        let (ada, bob) = (UserId::now(), UserId::now());
        let mut talk = Talk::begin(&world, &[ada, bob]).await;
        world.emit(topic::DIALOG, vec![Kind::MessageSent(talk.message(ada))]).await;
        world.unread_is(bob, 1).await;
        assert_eq!(world.readiness.report().1["status"], "ready");
        let world = world.among_strangers().await;
        eventually("it says so", || async { world.readiness.report().1["status"] == "degraded" }).await;
        assert!(world.readiness.is_ready(), "reading goes on");
        world.unread_is(bob, 1).await;
        let told = world.readiness.report().1["checks"]["consumer"]["reason"].as_str().unwrap().to_owned();
        let why = world.stopped().await;
        assert_eq!(told, format!("counting has stopped: {why}"));
    }
}

#[tokio::test]
async fn lists_are_by_newest_activity_and_totals_are_exact() {
    for world in databases().await {
        let [ada, bob, cleo] = [(); 3].map(|()| UserId::now());
        let mut talks = Vec::new();
        for n in 0..4 {
            let mut talk = Talk::begin(&world, &[ada, bob, cleo]).await;
            let sent = MessageSent { created_at_us: 100 - n, ..talk.message(ada) };
            world.emit(topic::DIALOG, vec![Kind::MessageSent(sent)]).await;
            talks.push(talk.id.bytes());
        }
        // Asked for the first time, the state comes from the database.
        world.unread_is(cleo, 4).await;
        let reply = world.unread(bob, None).await.unwrap();
        let order: Vec<_> = reply.rows.iter().map(|row| row.dialog_id.clone()).collect();
        assert_eq!((order, reply.truncated), (talks.clone(), false));
        let request = UnreadRequest { first: 3, at_least: None };
        let page = world.client(&world.token_of(bob)).unread(request).await.unwrap().into_inner();
        assert_eq!((page.rows.len(), page.total, page.truncated), (3, 4, true));

        let of = |user: UserId, since| SnapshotOf { user_id: user.bytes(), since };
        let request = SnapshotsRequest { of: vec![of(ada, None), of(bob, reply.version), of(bob, None)] };
        let reply = world.client(&world.service_token()).snapshots(request).await.unwrap().into_inner();
        let [of_ada, current, of_bob] = &reply.snapshots[..] else { panic!("three were asked: {reply:?}") };
        assert_eq!((of_ada.total, of_ada.version), (0, Some(Version { epoch: 1, number: 0 })));
        assert_eq!((current.current, current.rows.len(), current.total), (true, 0, 4));
        let order: Vec<_> = of_bob.rows.iter().map(|row| row.dialog_id.clone()).collect();
        assert_eq!((of_bob.current, order), (false, talks));
        world.stop().await;
    }
}

#[tokio::test]
async fn an_answer_is_never_older_than_what_is_known() {
    for world in databases().await {
        let (ada, bob) = (UserId::now(), UserId::now());
        let mut talk = Talk::begin(&world, &[ada, bob]).await;
        for n in 1..=20 {
            world.emit(topic::DIALOG, vec![Kind::MessageSent(talk.message(ada))]).await;
            world.unread_is(bob, n.min(2)).await;
            let read = world.read(bob, talk.id, n - 1).await.unwrap();
            let reply = world.unread(bob, read.version).await.unwrap();
            assert_eq!((reply.total, reply.version), (1, read.version), "whatever the cache holds");
        }
        for version in [Version { epoch: 1, number: 1_000 }, Version { epoch: 2, number: 0 }] {
            let future = world.unread(bob, Some(version)).await.unwrap_err();
            assert_eq!(future.code(), Code::InvalidArgument);
        }
        eventually("the cache has the newest", || async {
            world.unread(bob, None).await.unwrap().total == 1
        })
        .await;
        world.stop().await;
    }
}

#[tokio::test]
async fn read_states_are_for_those_who_take_part() {
    for world in databases().await {
        let mut people = [(); 3].map(|()| UserId::now());
        people.sort();
        let [ada, bob, cleo] = people;
        let mut talk = Talk::begin(&world, &[ada, bob, cleo]).await;
        world.emit(topic::DIALOG, vec![Kind::MessageSent(talk.message(ada))]).await;
        world.unread_is(bob, 1).await;
        world.read(bob, talk.id, 1).await.unwrap();
        let page = |first, after: Option<UserId>| ReadStatesPage {
            dialog_id: talk.id.bytes(),
            first,
            after_user_id: after.map(UserId::bytes),
        };
        let foreign = ReadStatesPage { dialog_id: DialogId::now().bytes(), ..page(1, None) };
        let request = ReadStatesRequest {
            pages: vec![page(2, None), foreign, page(2, Some(bob)), page(9, Some(cleo))],
        };
        let states = async |user| {
            let reply =
                world.client(&world.token_of(user)).read_states(request.clone()).await.unwrap().into_inner();
            let page = |page: proto::counter::ReadStatesPageReply| {
                let state = |state: proto::counter::ReadState| {
                    (UserId::parse(&state.user_id).unwrap(), state.read_seq)
                };
                page.found.then(|| page.states.into_iter().map(state).collect::<Vec<_>>())
            };
            reply.pages.into_iter().map(page).collect::<Vec<_>>()
        };
        let expected = vec![Some(vec![(ada, 0), (bob, 1)]), None, Some(vec![(cleo, 0)]), Some(vec![])];
        assert_eq!(states(ada).await, expected);
        assert_eq!(
            states(UserId::now()).await,
            vec![None, None, None, None],
            "a stranger sees what is absent"
        );
        world.stop().await;
    }
}

#[tokio::test]
async fn every_call_has_its_bounds_and_its_callers() {
    for world in databases().await {
        let user = UserId::now();
        let (person, service) = (world.token_of(user), world.service_token());
        for first in [-1, 0, 1_001] {
            let refused =
                world.client(&person).unread(UnreadRequest { first, at_least: None }).await.unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument, "{first}");
        }
        for (dialog_id, seq) in [(vec![1; 15], 1), (vec![1; 16], -1), (vec![1; 16], i64::MAX)] {
            let refused =
                world.client(&person).mark_read(MarkReadRequest { dialog_id, seq }).await.unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument, "{seq}");
        }
        let many = RowsRequest { dialog_ids: vec![vec![1; 16]; 1_001], at_least: None };
        assert_eq!(world.client(&person).rows(many).await.unwrap_err().code(), Code::InvalidArgument);
        let page = ReadStatesPage { dialog_id: vec![1; 16], first: 1, after_user_id: None };
        let many = ReadStatesRequest { pages: vec![page; 101] };
        assert_eq!(world.client(&person).read_states(many).await.unwrap_err().code(), Code::InvalidArgument);
        let of = SnapshotOf { user_id: user.bytes(), since: None };
        let many = SnapshotsRequest { of: vec![of.clone(); 1_001] };
        assert_eq!(world.client(&service).snapshots(many).await.unwrap_err().code(), Code::InvalidArgument);
        let many = SettleRequest { messages: vec![MessageSent::default(); 1_001] };
        let refused = world.client(&service).settle(many).await.unwrap_err();
        assert_eq!(
            (refused.code(), refused.message()),
            (Code::InvalidArgument, "at most 1,000 messages at once")
        );

        let ask = UnreadRequest { first: 1, at_least: None };
        assert_eq!(world.client(&service).unread(ask).await.unwrap_err().code(), Code::Unauthenticated);
        assert_eq!(
            world.client("Bearer no.token.atall").unread(ask).await.unwrap_err().code(),
            Code::Unauthenticated
        );
        let snapshot = SnapshotsRequest { of: vec![of] };
        assert_eq!(
            world.client(&person).snapshots(snapshot).await.unwrap_err().code(),
            Code::PermissionDenied
        );
        let settle = SettleRequest { messages: Vec::new() };
        assert_eq!(world.client(&person).settle(settle).await.unwrap_err().code(), Code::PermissionDenied);
        world.stop().await;
    }
}
