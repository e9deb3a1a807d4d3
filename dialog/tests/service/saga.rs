//! Replies of the counter through the log, which settle messages.

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
    fixture::{Fixture, TestUser, fixtures},
    store::{event_names, outbox},
};

fn counted(message: &proto::dialog::Message) -> Kind {
    let dialog_id = message.dialog_id.clone();
    let message_id = message.id.clone();
    Kind::Counted(Counted { dialog_id, seq: message.seq, message_id })
}

fn refused(message: &proto::dialog::Message, reason: &str) -> Kind {
    let dialog_id = message.dialog_id.clone();
    let message_id = message.id.clone();
    Kind::CountRefused(CountRefused { dialog_id, seq: message.seq, message_id, reason: reason.to_owned() })
}

/// Waits until the user sees the message in this status.
async fn wait_for_status(user: &TestUser, message: &proto::dialog::Message, status: Status) {
    eventually("the message is settled", || async {
        user.message(&message.id).await.is_some_and(|message| message.status() == status)
    })
    .await;
}

async fn dead_letters(fixture: &Fixture) -> Vec<DeadLetter> {
    let letters = outbox(&fixture.db, topic::DEAD).await.into_iter();
    letters
        .map(|event| match event.kind {
            Kind::DeadLetter(letter) => letter,
            other => panic!("{other:?} is not a dead letter"),
        })
        .collect()
}

#[tokio::test]
async fn a_counted_message_is_committed_once() {
    for fixture in fixtures().await {
        let a = fixture.user();
        let b = fixture.user();
        let dialog = a.direct(&b).await;
        let one = a.send(&dialog.id, "one").await;
        let two = a.send(&dialog.id, "two").await;
        let background = fixture.start_background();
        fixture.publish_reply(counted(&one)).await;
        fixture.publish_reply(counted(&one)).await;
        wait_for_status(&b, &one, Status::Committed).await;
        fixture.publish_reply(counted(&one)).await;
        fixture.publish_reply(counted(&two)).await;
        wait_for_status(&b, &two, Status::Committed).await;
        background.stop().await;
        let events = outbox(&fixture.db, topic::DIALOG).await;
        assert_eq!(events.len(), 7, "{}: repeated replies append no event", fixture.name);
        let committed = MessageCommitted {
            dialog_id: dialog.id.clone(),
            version: 6,
            message_id: one.id.clone(),
            seq: 1,
            sender_id: a.id.bytes(),
        };
        assert_eq!(events[5].kind, Kind::MessageCommitted(committed));
        assert_eq!(events[5].request_id.as_deref(), Some("cause"), "the request id is passed on");
        let now = b.message(&one.id).await.unwrap();
        assert_eq!((now.text.as_str(), now.version, now.failure_reason), ("one", 6, None));
        assert!(dead_letters(&fixture).await.is_empty());
    }
}

#[tokio::test]
async fn only_the_author_sees_a_refused_message() {
    for fixture in fixtures().await {
        let a = fixture.user();
        let b = fixture.user();
        let dialog = a.direct(&b).await;
        let kept = b.send(&dialog.id, "kept").await;
        let sent = a.try_send(&dialog.id, "refused", Some("key")).await.unwrap();
        let background = fixture.start_background();
        fixture.publish_reply(refused(&sent, "nul\0 and\nlines: too many unread")).await;
        wait_for_status(&a, &sent, Status::Failed).await;
        let mine = a.message(&sent.id).await.unwrap();
        assert_eq!(mine.text, "refused", "{}", fixture.name);
        assert_eq!(mine.failure_reason.as_deref(), Some("nul andlines: too many unread"));
        assert_eq!(a.history(&dialog.id).await.last(), Some(&mine));
        assert_eq!(a.get(&dialog.id).await.unwrap().last_message.as_ref(), Some(&mine));
        assert_eq!(
            a.try_send(&dialog.id, "refused", Some("key")).await.unwrap(),
            mine,
            "the client key still refers to it"
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
        assert!(
            !page.has_next && !page.has_previous,
            "an invisible message does not count as next or previous"
        );
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
        assert_eq!(fixture.service_client().live(live).await.unwrap().into_inner().messages, [mine]);
        let target = ReadTargetRequest { dialog_id: dialog.id.clone(), message_id: Some(sent.id.clone()) };
        assert_eq!(
            b.client().read_target(target).await.unwrap().into_inner().seq,
            2,
            "it was visible before it failed"
        );
        let failed = MessageFailed {
            dialog_id: dialog.id.clone(),
            version: 6,
            message_id: sent.id.clone(),
            seq: 2,
            sender_id: a.id.bytes(),
        };
        assert_eq!(outbox(&fixture.db, topic::DIALOG).await.pop().unwrap().kind, Kind::MessageFailed(failed));
        background.stop().await;
    }
}

#[tokio::test]
async fn a_deleted_message_is_still_settled() {
    for fixture in fixtures().await {
        let a = fixture.user();
        let b = fixture.user();
        let dialog = a.direct(&b).await;
        let one = a.send(&dialog.id, "one").await;
        let two = a.send(&dialog.id, "two").await;
        for message in [&one, &two] {
            a.client().delete(DeleteRequest { message_id: message.id.clone() }).await.unwrap();
        }
        let background = fixture.start_background();
        fixture.publish_reply(counted(&one)).await;
        fixture.publish_reply(refused(&two, "")).await;
        wait_for_status(&a, &two, Status::Failed).await;
        wait_for_status(&b, &one, Status::Committed).await;
        let settled = b.message(&one.id).await.unwrap();
        assert!(settled.text.is_empty() && settled.deleted_at_us.is_some(), "{}", fixture.name);
        assert_eq!(a.message(&two.id).await.unwrap().failure_reason.as_deref(), Some(""));
        background.stop().await;
    }
}

#[tokio::test]
async fn invalid_replies_become_dead_letters_and_do_not_stop_the_others() {
    for fixture in fixtures().await {
        let a = fixture.user();
        let b = fixture.user();
        let dialog = a.direct(&b).await;
        let other = a.group(&[&b]).await;
        let one = a.send(&dialog.id, "one").await;
        let last = a.send(&dialog.id, "last").await;
        let before = event_names(&fixture.db).await.len();
        let mut invalid = vec![b"\xff\xff not an event".to_vec(), Vec::new()];
        let mut other_dialog = one.clone();
        other_dialog.dialog_id = other.id.clone();
        let mut other_seq = one.clone();
        other_seq.seq = 2;
        let mut unknown = one.clone();
        unknown.id = MessageId::now().bytes();
        let mut unknown_dialog = unknown.clone();
        unknown_dialog.dialog_id = DialogId::now().bytes();
        let mut malformed_id = one.clone();
        malformed_id.id = vec![1, 2, 3];
        for message in [&other_dialog, &other_seq, &unknown, &unknown_dialog, &malformed_id] {
            invalid.push(counted(message).payload());
            invalid.push(refused(message, "no").payload());
        }
        invalid.push(Kind::UserRenamed(UserRenamed { user_id: a.id.bytes() }).payload());
        for payload in &invalid {
            fixture.publish_payload(payload.clone()).await;
        }
        let read = ReadMarked { dialog_id: dialog.id.clone(), user_id: b.id.bytes(), read_seq: 1 };
        fixture.publish_reply(Kind::ReadMarked(read)).await;
        fixture.publish_reply(counted(&one)).await;
        fixture.publish_reply(refused(&one, "after all")).await;
        fixture.publish_reply(counted(&last)).await;
        let background = fixture.start_background();
        wait_for_status(&b, &last, Status::Committed).await;
        background.stop().await;
        let letters = dead_letters(&fixture).await;
        assert_eq!(letters.len(), invalid.len() + 1, "{}: {letters:?}", fixture.name);
        for payload in &invalid {
            assert!(letters.iter().any(|letter| letter.payload == *payload));
        }
        for letter in &letters {
            assert_eq!((letter.topic.as_str(), letter.consumer.as_str()), (topic::COUNTER, "dialog"));
            assert!(letter.offset > 0 && !letter.error.is_empty() && letter.key == "key");
        }
        assert_eq!(
            a.message(&one.id).await.unwrap().status(),
            Status::Committed,
            "a settled status does not change"
        );
        assert_eq!(event_names(&fixture.db).await.len(), before + 2);
    }
}
