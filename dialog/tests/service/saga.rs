//! The end of sagas: what the counters tell through the log.

use proto::{
    DialogId, MessageId,
    dialog::{
        DeleteRequest, HistoryPage, LiveRequest, MessagesSinceRequest, ReadTargetRequest, Status, Version,
    },
    events::{
        CountRefused, Counted, DeadLetter, MessageCommitted, MessageFailed, ReadMarked, UserRenamed,
        event::Kind,
    },
    topic,
};
use testkit::eventually;

use crate::{
    store::{names, outbox},
    world::{Person, World, worlds},
};

fn counted(message: &proto::dialog::Message) -> Kind {
    let (dialog_id, message_id) = (message.dialog_id.clone(), message.id.clone());
    Kind::Counted(Counted { dialog_id, seq: message.seq, message_id })
}

fn refused(message: &proto::dialog::Message, reason: &str) -> Kind {
    let (dialog_id, message_id) = (message.dialog_id.clone(), message.id.clone());
    Kind::CountRefused(CountRefused { dialog_id, seq: message.seq, message_id, reason: reason.to_owned() })
}

/// Waits until the person sees the message in this status.
async fn becomes(person: &Person, message: &proto::dialog::Message, status: Status) {
    eventually("the message is settled", || async {
        person.message(&message.id).await.is_some_and(|message| message.status() == status)
    })
    .await;
}

async fn dead_letters(world: &World) -> Vec<DeadLetter> {
    let letters = outbox(&world.db, topic::DEAD).await.into_iter();
    letters
        .map(|event| match event.kind {
            Kind::DeadLetter(letter) => letter,
            other => panic!("{other:?} among the dead letters"),
        })
        .collect()
}

#[tokio::test]
async fn a_counted_message_is_committed_once() {
    for world in worlds().await {
        let (a, b) = (world.person(), world.person());
        let dialog = a.direct(&b).await;
        let (one, two) = (a.send(&dialog.id, "one").await, a.send(&dialog.id, "two").await);
        let running = world.start();
        world.tell(counted(&one)).await;
        world.tell(counted(&one)).await;
        becomes(&b, &one, Status::Committed).await;
        world.tell(counted(&one)).await;
        world.tell(counted(&two)).await;
        becomes(&b, &two, Status::Committed).await;
        running.stop().await;
        let events = outbox(&world.db, topic::DIALOG).await;
        assert_eq!(events.len(), 7, "{}: twice told is told once", world.name);
        let committed = MessageCommitted {
            dialog_id: dialog.id.clone(),
            version: 6,
            message_id: one.id.clone(),
            seq: 1,
            sender_id: a.id.bytes(),
        };
        assert_eq!(events[5].kind, Kind::MessageCommitted(committed));
        assert_eq!(events[5].request_id.as_deref(), Some("cause"), "the request travels on");
        let now = b.message(&one.id).await.unwrap();
        assert_eq!((now.text.as_str(), now.version, now.failure_reason), ("one", 6, None));
        assert!(dead_letters(&world).await.is_empty());
    }
}

#[tokio::test]
async fn a_refused_message_is_its_authors_alone() {
    for world in worlds().await {
        let (a, b) = (world.person(), world.person());
        let dialog = a.direct(&b).await;
        let kept = b.send(&dialog.id, "kept").await;
        let sent = a.try_send(&dialog.id, "refused", Some("key")).await.unwrap();
        let running = world.start();
        world.tell(refused(&sent, "nul\0 and\nlines: too many unread")).await;
        becomes(&a, &sent, Status::Failed).await;
        let mine = a.message(&sent.id).await.unwrap();
        assert_eq!(mine.text, "refused", "{}", world.name);
        assert_eq!(mine.failure_reason.as_deref(), Some("nul andlines: too many unread"));
        assert_eq!(a.history(&dialog.id).await.last(), Some(&mine));
        assert_eq!(a.get(&dialog.id).await.unwrap().last_message.as_ref(), Some(&mine));
        assert_eq!(
            a.try_send(&dialog.id, "refused", Some("key")).await.unwrap(),
            mine,
            "a retry takes a new key"
        );

        let theirs = b.message(&sent.id).await.unwrap();
        assert_eq!(
            (theirs.text.as_str(), &theirs.failure_reason, theirs.status()),
            ("", &None, Status::Failed)
        );
        assert_eq!(b.history(&dialog.id).await, std::slice::from_ref(&kept));
        assert_eq!(b.get(&dialog.id).await.unwrap().last_message, Some(kept.clone()));
        let ends = HistoryPage { dialog_id: dialog.id.clone(), last: Some(1), ..HistoryPage::default() };
        let page = b.page(HistoryPage { before_seq: Some(2), ..ends.clone() }).await;
        assert!(!page.has_next && !page.has_previous, "what is not found is not hinted at");
        let page = a.page(HistoryPage { before_seq: Some(2), ..ends }).await;
        assert!(page.has_next);
        let since = MessagesSinceRequest {
            dialog_id: dialog.id.clone(),
            since: Some(Version { epoch: 1, number: 5 }),
        };
        assert_eq!(b.client().messages_since(since.clone()).await.unwrap().into_inner().messages, [theirs]);
        assert_eq!(
            a.client().messages_since(since).await.unwrap().into_inner().messages,
            std::slice::from_ref(&mine)
        );
        let live = LiveRequest {
            dialog_id: dialog.id.clone(),
            message_ids: vec![sent.id.clone()],
            user_ids: Vec::new(),
        };
        assert_eq!(world.service().live(live).await.unwrap().into_inner().messages, [mine]);
        let target = ReadTargetRequest { dialog_id: dialog.id.clone(), message_id: Some(sent.id.clone()) };
        assert_eq!(
            b.client().read_target(target).await.unwrap().into_inner().seq,
            2,
            "it was seen before it failed"
        );
        let failed = MessageFailed {
            dialog_id: dialog.id.clone(),
            version: 6,
            message_id: sent.id.clone(),
            seq: 2,
            sender_id: a.id.bytes(),
        };
        assert_eq!(outbox(&world.db, topic::DIALOG).await.pop().unwrap().kind, Kind::MessageFailed(failed));
        running.stop().await;
    }
}

#[tokio::test]
async fn a_deleted_message_is_still_settled() {
    for world in worlds().await {
        let (a, b) = (world.person(), world.person());
        let dialog = a.direct(&b).await;
        let (one, two) = (a.send(&dialog.id, "one").await, a.send(&dialog.id, "two").await);
        for message in [&one, &two] {
            a.client().delete(DeleteRequest { message_id: message.id.clone() }).await.unwrap();
        }
        let running = world.start();
        world.tell(counted(&one)).await;
        world.tell(refused(&two, "")).await;
        becomes(&a, &two, Status::Failed).await;
        becomes(&b, &one, Status::Committed).await;
        let settled = b.message(&one.id).await.unwrap();
        assert!(settled.text.is_empty() && settled.deleted_at_us.is_some(), "{}", world.name);
        assert_eq!(a.message(&two.id).await.unwrap().failure_reason.as_deref(), Some(""));
        running.stop().await;
    }
}

#[tokio::test]
async fn what_cannot_be_true_goes_to_the_dead_letters_and_the_rest_goes_on() {
    for world in worlds().await {
        let (a, b) = (world.person(), world.person());
        let (dialog, other) = (a.direct(&b).await, a.group(&[&b]).await);
        let (one, last) = (a.send(&dialog.id, "one").await, a.send(&dialog.id, "last").await);
        let before = names(&world.db).await.len();
        let mut poison = vec![b"\xff\xff not an event".to_vec(), Vec::new()];
        let mut elsewhere = one.clone();
        elsewhere.dialog_id = other.id.clone();
        let mut another = one.clone();
        another.seq = 2;
        let mut absent = one.clone();
        absent.id = MessageId::now().bytes();
        let mut nowhere = absent.clone();
        nowhere.dialog_id = DialogId::now().bytes();
        let mut broken = one.clone();
        broken.id = vec![1, 2, 3];
        for message in [&elsewhere, &another, &absent, &nowhere, &broken] {
            poison.push(counted(message).payload());
            poison.push(refused(message, "no").payload());
        }
        poison.push(Kind::UserRenamed(UserRenamed { user_id: a.id.bytes() }).payload());
        for payload in &poison {
            world.tell_bytes(payload.clone()).await;
        }
        let read = ReadMarked { dialog_id: dialog.id.clone(), user_id: b.id.bytes(), read_seq: 1 };
        world.tell(Kind::ReadMarked(read)).await;
        world.tell(counted(&one)).await;
        world.tell(refused(&one, "after all")).await;
        world.tell(counted(&last)).await;
        let running = world.start();
        becomes(&b, &last, Status::Committed).await;
        running.stop().await;
        let letters = dead_letters(&world).await;
        assert_eq!(letters.len(), poison.len() + 1, "{}: {letters:?}", world.name);
        for payload in &poison {
            assert!(letters.iter().any(|letter| letter.payload == *payload));
        }
        for letter in &letters {
            assert_eq!((letter.topic.as_str(), letter.consumer.as_str()), (topic::COUNTER, "dialog"));
            assert!(letter.offset > 0 && !letter.error.is_empty() && letter.key == "key");
        }
        assert_eq!(a.message(&one.id).await.unwrap().status(), Status::Committed, "what is settled stays so");
        assert_eq!(names(&world.db).await.len(), before + 2);
    }
}
