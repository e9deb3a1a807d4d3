//! Sending messages.

use std::{collections::BTreeMap, time::Duration};

use futures_util::future::join_all;
use proto::{
    DialogId, MessageId,
    dialog::{ChangesSinceRequest, ReadTargetRequest, SendRequest, Status, change::Row},
    events::{MessageSent, event::Kind},
    topic,
};
use tonic::Code;

use crate::{
    fixture::{code, fixtures},
    store::{begin_leave, client_keys, event_names, outbox, refuse_text},
};

#[tokio::test]
async fn a_sent_message_is_pending_numbered_and_immediately_visible() {
    for fixture in fixtures().await {
        let a = fixture.user();
        let b = fixture.user();
        let dialog = a.direct(&b).await;
        let first = a.send(&dialog.id, "hello\n\t👋").await;
        let second = b.send(&dialog.id, "hello to you").await;
        assert_eq!((first.seq, second.seq), (1, 2), "{}", fixture.name);
        assert_eq!((first.version, second.version), (4, 5));
        assert_eq!((first.status(), first.text.as_str()), (Status::Pending, "hello\n\t👋"));
        assert_eq!((&first.sender_id, &first.dialog_id), (&a.id.bytes(), &dialog.id));
        assert!(first.failure_reason.is_none() && first.deleted_at_us.is_none());
        assert_eq!(b.history(&dialog.id).await, [first.clone(), second.clone()]);
        assert_eq!(b.message(&first.id).await.unwrap(), first);
        let now = a.get(&dialog.id).await.unwrap();
        assert_eq!(now.last_message.as_ref(), Some(&second));
        assert_eq!(now.last_activity_us, second.created_at_us);
        let events = outbox(&fixture.db, topic::DIALOG).await;
        let sent = MessageSent {
            dialog_id: dialog.id.clone(),
            version: 4,
            message_id: first.id.clone(),
            seq: 1,
            sender_id: a.id.bytes(),
            transaction_id: first.transaction_id.clone(),
            created_at_us: first.created_at_us,
            read_up_to: 0,
        };
        assert_eq!(events[3].kind, Kind::MessageSent(sent));
    }
}

#[tokio::test]
async fn a_send_after_its_deadline_stores_nothing() {
    for fixture in fixtures().await {
        let a = fixture.user();
        let b = fixture.user();
        let dialog = a.direct(&b).await;
        let late = |timeout| {
            let send = SendRequest {
                dialog_id: dialog.id.clone(),
                text: "late".to_owned(),
                client_key: None,
                read_up_to: None,
            };
            let mut request = tonic::Request::new(send);
            request.set_timeout(timeout);
            request
        };
        let events = event_names(&fixture.db).await;
        assert_eq!(
            code(a.client().send(late(Duration::ZERO)).await),
            Code::DeadlineExceeded,
            "{}",
            fixture.name
        );
        assert_eq!((a.history(&dialog.id).await.len(), event_names(&fixture.db).await), (0, events));
        assert_eq!(a.client().send(late(Duration::from_secs(60))).await.unwrap().into_inner().seq, 1);
    }
}

#[tokio::test]
async fn a_client_key_always_returns_the_same_message() {
    for fixture in fixtures().await {
        let a = fixture.user();
        let b = fixture.user();
        let dialog = a.direct(&b).await;
        let other = a.group(&[&b]).await;
        let sent = a.try_send(&dialog.id, "once", Some("key")).await.unwrap();
        let events = event_names(&fixture.db).await;
        assert_eq!(a.try_send(&dialog.id, "once", Some("key")).await.unwrap(), sent, "{}", fixture.name);
        assert_eq!(code(a.try_send(&dialog.id, "twice", Some("key")).await), Code::AlreadyExists);
        assert_eq!(code(a.try_send(&other.id, "once", Some("key")).await), Code::AlreadyExists);
        assert_eq!(event_names(&fixture.db).await, events);
        assert_eq!(
            b.try_send(&dialog.id, "once", Some("key")).await.unwrap().seq,
            2,
            "client keys are per user"
        );
        let delete = proto::dialog::DeleteRequest { message_id: sent.id.clone() };
        let deleted = a.client().delete(delete).await.unwrap().into_inner();
        assert_eq!(
            a.try_send(&dialog.id, "once", Some("key")).await.unwrap(),
            deleted,
            "in its current state"
        );
        assert_eq!(code(a.try_send(&dialog.id, "", Some("key")).await), Code::InvalidArgument);
    }
}

#[tokio::test]
async fn line_ends_become_line_feeds_before_the_limit_and_the_comparison_of_a_client_key() {
    for fixture in fixtures().await {
        let a = fixture.user();
        let b = fixture.user();
        let dialog = a.direct(&b).await;
        let sent = a.try_send(&dialog.id, "one\r\ntwo\rthree", Some("key")).await.unwrap();
        assert_eq!(sent.text, "one\ntwo\nthree", "{}", fixture.name);
        for text in ["one\ntwo\nthree", "one\r\ntwo\r\nthree", "one\rtwo\rthree"] {
            assert_eq!(a.try_send(&dialog.id, text, Some("key")).await.unwrap(), sent, "{text:?}");
        }
        let other = a.try_send(&dialog.id, "one\r\n\rtwo\rthree", Some("key")).await;
        assert_eq!(code(other), Code::AlreadyExists);
        let stored = a.try_send(&dialog.id, "one\ntwo", Some("line feed")).await.unwrap();
        assert_eq!(a.try_send(&dialog.id, "one\r\ntwo", Some("line feed")).await.unwrap(), stored);
        let longest = a.send(&dialog.id, &"a\r\n".repeat(2_000)).await;
        assert_eq!(longest.text, "a\n".repeat(2_000));
        assert_eq!(b.history(&dialog.id).await, [sent, stored, longest]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn refused_sends_between_others_leave_no_gap_and_no_client_key() {
    for fixture in fixtures().await {
        let a = fixture.user();
        let b = fixture.user();
        let stranger = fixture.user();
        let dialog = a.direct(&b).await.id;
        let other = a.direct(&stranger).await;
        let foreign = a.send(&other.id, "elsewhere").await;
        let events = event_names(&fixture.db).await.len();
        let sends = (0..60).map(|index| {
            let (user, dialog_id, key, read_up_to) = match index % 6 {
                0 => (&stranger, dialog.clone(), Some(format!("stranger {index}")), None),
                1 => (&a, DialogId::now().bytes(), Some(format!("absent {index}")), None),
                2 => (&b, dialog.clone(), Some(format!("foreign {index}")), Some(foreign.id.clone())),
                3 => (&a, dialog.clone(), None, None),
                // Each key twice.
                _ => (&b, dialog.clone(), Some(format!("key {}", index / 12)), None),
            };
            let mut client = user.client();
            let send = SendRequest { dialog_id, text: "text".to_owned(), client_key: key, read_up_to };
            tokio::spawn(async move { client.send(send).await.map(tonic::Response::into_inner) })
        });
        let results: Vec<_> = join_all(sends).await.into_iter().map(Result::unwrap).collect();
        let mut stored = BTreeMap::new();
        for (index, result) in results.into_iter().enumerate() {
            match result {
                Ok(message) => drop(stored.insert(message.seq, message)),
                Err(status) => assert_eq!((index % 6 < 3, status.code()), (true, Code::NotFound), "{status}"),
            }
        }
        assert_eq!(
            stored.keys().copied().collect::<Vec<_>>(),
            (1..=15).collect::<Vec<_>>(),
            "{}",
            fixture.name
        );
        assert_eq!(client_keys(&fixture.db).await, 5, "refused sends keep no key");
        assert_eq!(event_names(&fixture.db).await.len(), events + 15);
        assert_eq!(a.history(&dialog).await, stored.into_values().collect::<Vec<_>>());
        let versions: Vec<_> = outbox(&fixture.db, topic::DIALOG).await;
        let of_dialog = DialogId::parse(&dialog).unwrap().to_string();
        let versions: Vec<_> =
            versions.iter().filter(|event| event.key == of_dialog).map(|event| event.version).collect();
        assert_eq!(versions, (1..=18).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_row_that_the_database_refuses_fails_only_its_own_send() {
    for fixture in fixtures().await {
        let a = fixture.user();
        let b = fixture.user();
        let dialog = a.direct(&b).await.id;
        refuse_text(&fixture.db).await;
        let sends = (0..30).map(|index| {
            let a = a.clone();
            let dialog = dialog.clone();
            let text = if index % 10 == 5 { "refused" } else { "text" };
            tokio::spawn(async move { a.try_send(&dialog, text, Some(&format!("{index}"))).await })
        });
        let results: Vec<_> = join_all(sends).await.into_iter().map(Result::unwrap).collect();
        for (index, result) in results.into_iter().enumerate() {
            match result {
                Ok(_) => assert_ne!(index % 10, 5),
                Err(status) => assert_eq!((index % 10, status.code()), (5, Code::Internal)),
            }
        }
        let seqs: Vec<_> = b.history(&dialog).await.iter().map(|message| message.seq).collect();
        assert_eq!(seqs, (1..=27).collect::<Vec<_>>(), "{}", fixture.name);
        assert_eq!(client_keys(&fixture.db).await, 27);
    }
}

/// The transaction of the leave ends after the send has begun, so the send must wait for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_send_that_waits_for_a_leave_is_refused_and_spends_no_version() {
    for fixture in fixtures().await {
        let users: Vec<_> = (0..3).map(|_| fixture.user()).collect();
        let group = users[0].group(&users[1..].iter().collect::<Vec<_>>()).await.id;
        let leave = begin_leave(&fixture.db, &group, users[0].id).await;
        let sends: Vec<_> = users
            .iter()
            .map(|user| {
                let user = user.clone();
                let group = group.clone();
                tokio::spawn(async move { user.try_send(&group, "text", Some("key")).await })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(200)).await;
        leave.commit().await.unwrap();
        let results: Vec<_> = join_all(sends).await.into_iter().map(Result::unwrap).collect();
        assert_eq!(results[0].as_ref().unwrap_err().code(), Code::NotFound, "{}", fixture.name);
        let mut versions: Vec<_> =
            results[1..].iter().map(|result| result.as_ref().unwrap().version).collect();
        versions.sort_unstable();
        assert_eq!(versions, [6, 7], "after the creation, three joins and the leave");
    }
}

#[tokio::test]
async fn a_failed_call_claims_no_client_key() {
    for fixture in fixtures().await {
        let a = fixture.user();
        let b = fixture.user();
        let c = fixture.user();
        let foreign = b.direct(&c).await;
        assert_eq!(
            code(a.try_send(&foreign.id, "text", Some("key")).await),
            Code::NotFound,
            "{}",
            fixture.name
        );
        assert_eq!(code(a.try_send(&DialogId::now().bytes(), "text", Some("key")).await), Code::NotFound);
        assert_eq!(client_keys(&fixture.db).await, 0);
        let dialog = a.direct(&b).await;
        a.try_send(&dialog.id, "text", Some("key")).await.unwrap();
        assert_eq!(b.send(&foreign.id, "first").await.seq, 1, "no seq was consumed");
    }
}

#[tokio::test]
async fn invalid_input_sends_nothing() {
    for fixture in fixtures().await {
        let a = fixture.user();
        let b = fixture.user();
        let dialog = a.direct(&b).await;
        let before = event_names(&fixture.db).await;
        let long = "é".repeat(4_001);
        let longer = "k".repeat(65);
        for (text, key) in [
            ("", None),
            (long.as_str(), None),
            ("nul\0", None),
            ("bell\u{7}", None),
            ("\r\n\t ", None),
            ("\u{200b}\u{fe0f}", None),
            ("text", Some("")),
            ("text", Some(longer.as_str())),
            ("text", Some("nul\0")),
        ] {
            assert_eq!(
                code(a.try_send(&dialog.id, text, key).await),
                Code::InvalidArgument,
                "{}",
                fixture.name
            );
        }
        for dialog_id in [vec![], vec![1; 15], vec![1; 17]] {
            let request =
                SendRequest { dialog_id, text: "text".to_owned(), client_key: None, read_up_to: None };
            assert_eq!(code(a.client().send(request).await), Code::InvalidArgument);
        }
        assert_eq!(event_names(&fixture.db).await, before);
        a.try_send(&dialog.id, &"é".repeat(4_000), Some(&"k".repeat(64))).await.unwrap();
    }
}

#[tokio::test]
async fn the_read_target_is_the_given_message_or_the_newest() {
    for fixture in fixtures().await {
        let a = fixture.user();
        let b = fixture.user();
        let dialog = a.direct(&b).await;
        let other = a.group(&[&b]).await;
        let target = |dialog: &[u8], message: Option<&[u8]>| {
            let request =
                ReadTargetRequest { dialog_id: dialog.to_vec(), message_id: message.map(<[u8]>::to_vec) };
            let mut client = b.client();
            async move { client.read_target(request).await.map(|reply| reply.into_inner().seq) }
        };
        assert_eq!(target(&dialog.id, None).await.unwrap(), 0, "{}", fixture.name);
        let first = a.send(&dialog.id, "one").await;
        a.send(&dialog.id, "two").await;
        let other_dialog = a.send(&other.id, "three").await;
        assert_eq!(target(&dialog.id, None).await.unwrap(), 2);
        assert_eq!(target(&dialog.id, Some(&first.id)).await.unwrap(), 1);
        assert_eq!(code(target(&dialog.id, Some(&other_dialog.id)).await), Code::NotFound);
        assert_eq!(code(target(&dialog.id, Some(&DialogId::now().bytes())).await), Code::NotFound);
        assert_eq!(code(target(&dialog.id, Some(b"short")).await), Code::InvalidArgument);
        assert_eq!(code(target(b"short", None).await), Code::InvalidArgument);
    }
}

#[tokio::test]
async fn what_the_author_had_read_is_a_message_of_the_dialog() {
    for fixture in fixtures().await {
        let a = fixture.user();
        let b = fixture.user();
        let dialog = a.direct(&b).await;
        let elsewhere = a.send(&a.group(&[&b]).await.id, "elsewhere").await;
        a.send(&dialog.id, "first").await;
        let second = a.send(&dialog.id, "second").await;
        let answer = |read_up_to: Vec<u8>| {
            let dialog_id = dialog.id.clone();
            let text = "answer".to_owned();
            let request = SendRequest { dialog_id, text, client_key: None, read_up_to: Some(read_up_to) };
            let mut client = b.client();
            async move { client.send(request).await }
        };
        let events = event_names(&fixture.db).await;
        for (unknown, expected) in [
            (elsewhere.id, Code::NotFound),
            (MessageId::now().bytes(), Code::NotFound),
            (vec![1; 3], Code::InvalidArgument),
        ] {
            assert_eq!(code(answer(unknown).await), expected, "{}", fixture.name);
        }
        assert_eq!(event_names(&fixture.db).await, events, "nothing was stored");
        let stored = answer(second.id).await.unwrap().into_inner();
        assert_eq!(stored.seq, 3);
        let Kind::MessageSent(sent) = outbox(&fixture.db, topic::DIALOG).await.pop().unwrap().kind else {
            panic!("the last event is the answer's")
        };
        assert_eq!((sent.seq, sent.read_up_to), (3, 2));
        let request = ChangesSinceRequest { dialog_id: dialog.id.clone(), since: 0, limit: 10 };
        let changes = fixture.service_client().changes_since(request).await.unwrap().into_inner().changes;
        let Some(Row::Message(repaired)) = changes.last().unwrap().row.clone() else { panic!("{changes:?}") };
        assert_eq!((repaired.seq, repaired.read_up_to), (3, 2), "a repair finds it too");
    }
}
