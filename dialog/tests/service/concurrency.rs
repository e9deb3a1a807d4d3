//! Concurrency: uniqueness holds, and seqs and versions have no gaps.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures_util::future::join_all;
use proto::{dialog::DeleteRequest, topic};

use crate::{
    fixture::{TestUser, fixtures},
    store::{event_names, outbox},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_creations_of_a_direct_dialog_return_one_dialog() {
    for fixture in fixtures().await {
        for round in 0..15 {
            let a = fixture.user();
            let b = fixture.user();
            let key = (round % 2 == 0).then_some("key");
            let creations = (0..8).map(|index| {
                let (one, other) =
                    if index % 2 == 0 { (a.clone(), b.clone()) } else { (b.clone(), a.clone()) };
                tokio::spawn(async move { one.try_create(&[&other], None, key).await.unwrap() })
            });
            let dialogs: Vec<_> = join_all(creations).await.into_iter().map(Result::unwrap).collect();
            assert!(dialogs.iter().all(|dialog| *dialog == dialogs[0]), "{}: {dialogs:?}", fixture.name);
        }
        assert_eq!(event_names(&fixture.db).await.len(), 15 * 3);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_calls_with_one_client_key_create_one_object() {
    for fixture in fixtures().await {
        let a = fixture.user();
        let b = fixture.user();
        let dialog = a.direct(&b).await;
        let sends = (0..20).map(|_| {
            let a = a.clone();
            let dialog = dialog.id.clone();
            tokio::spawn(async move { a.try_send(&dialog, "once", Some("key")).await.unwrap() })
        });
        let sent: Vec<_> = join_all(sends).await.into_iter().map(Result::unwrap).collect();
        assert!(sent.iter().all(|message| *message == sent[0]), "{}", fixture.name);
        assert_eq!(event_names(&fixture.db).await.len(), 4);
        assert_eq!(a.send(&dialog.id, "next").await.seq, 2);
        let groups = (0..20).map(|_| {
            let a = a.clone();
            let b = b.clone();
            tokio::spawn(async move { a.try_create(&[&b], Some("once"), Some("key")).await.unwrap().id })
        });
        let ids: BTreeSet<_> = join_all(groups).await.into_iter().map(Result::unwrap).collect();
        assert_eq!(ids.len(), 1);
    }
}

/// Sends ten messages and deletes every fifth one. Returns the dialog and seq of each.
async fn write(user: TestUser, dialogs: Vec<Vec<u8>>, index: usize) -> Vec<(Vec<u8>, i64)> {
    let mut sent = Vec::new();
    for round in 0..10 {
        let message = user.send(&dialogs[(index + round) % dialogs.len()], "text").await;
        if round % 5 == 0 {
            user.client().delete(DeleteRequest { message_id: message.id.clone() }).await.unwrap();
        }
        sent.push((message.dialog_id, message.seq));
    }
    sent
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn seqs_and_versions_of_busy_dialogs_have_no_gap_and_no_inversion() {
    for fixture in fixtures().await {
        let users: Vec<_> = (0..24).map(|_| fixture.user()).collect();
        let others: Vec<_> = users[1..].iter().collect();
        let mut dialogs = Vec::new();
        for _ in 0..3 {
            dialogs.push(users[0].group(&others).await.id);
        }
        let writers = users
            .iter()
            .enumerate()
            .map(|(index, user)| tokio::spawn(write(user.clone(), dialogs.clone(), index)));
        let mut seqs: BTreeMap<Vec<u8>, Vec<i64>> = BTreeMap::new();
        for sent in join_all(writers).await {
            for (dialog, seq) in sent.unwrap() {
                seqs.entry(dialog).or_default().push(seq);
            }
        }
        assert_eq!(seqs.values().map(Vec::len).sum::<usize>(), 240, "{}", fixture.name);
        for seqs in seqs.values_mut() {
            seqs.sort_unstable();
            assert_eq!(*seqs, (1..=seqs.len() as i64).collect::<Vec<_>>());
        }
        let mut versions: BTreeMap<String, Vec<i64>> = BTreeMap::new();
        for event in outbox(&fixture.db, topic::DIALOG).await {
            versions.entry(event.key).or_default().push(event.version);
        }
        assert_eq!(versions.values().map(Vec::len).sum::<usize>(), 3 * 25 + 240 + 48);
        for versions in versions.values() {
            assert_eq!(
                *versions,
                (1..=versions.len() as i64).collect::<Vec<_>>(),
                "versions have a gap or are out of order in the outbox (invariant I13, ARCHITECTURE.md)"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_message_is_stored_after_its_author_left() {
    for fixture in fixtures().await {
        let users: Vec<_> = (0..8).map(|_| fixture.user()).collect();
        let group = users[0].group(&users[1..].iter().collect::<Vec<_>>()).await.id;
        let tasks = users.iter().flat_map(|user| {
            let sender = user.clone();
            let leaver = user.clone();
            let send_group = group.clone();
            let leave_group = group.clone();
            let send = tokio::spawn(async move {
                for _ in 0..10 {
                    // Fails after the user has left.
                    drop(sender.try_send(&send_group, "text", None).await);
                }
            });
            let leave = tokio::spawn(async move {
                leaver.client().leave(proto::dialog::LeaveRequest { dialog_id: leave_group }).await.unwrap();
            });
            [send, leave]
        });
        for task in join_all(tasks).await {
            task.unwrap();
        }
        let mut left_users = BTreeSet::new();
        for event in outbox(&fixture.db, topic::DIALOG).await {
            match event.kind {
                proto::events::event::Kind::ParticipantLeft(left) => assert!(left_users.insert(left.user_id)),
                proto::events::event::Kind::MessageSent(sent) => {
                    assert!(!left_users.contains(&sent.sender_id), "{}", fixture.name);
                }
                _ => {}
            }
        }
        assert_eq!(left_users.len(), 8);
    }
}

/// A handler is dropped when its client disconnects. Its transaction is committed as a whole or not at
/// all.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_cancelled_send_can_be_repeated_with_its_client_key() {
    for fixture in fixtures().await {
        let a = fixture.user();
        let b = fixture.user();
        let dialog = a.direct(&b).await.id;
        let keys: Vec<_> = (0..80).map(|key| key.to_string()).collect();
        for (index, key) in keys.iter().enumerate() {
            let a = a.clone();
            let dialog = dialog.clone();
            let key = key.clone();
            let call = tokio::spawn(async move { a.try_send(&dialog, "text", Some(&key)).await });
            tokio::time::sleep(Duration::from_micros(index as u64 * 25)).await;
            call.abort();
        }
        let mut sent = BTreeMap::new();
        for key in &keys {
            let message = a.try_send(&dialog, "text", Some(key)).await.unwrap();
            assert_eq!(sent.insert(message.seq, message.id), None, "{}", fixture.name);
        }
        assert!(sent.keys().copied().eq(1..=80));
        assert_eq!(event_names(&fixture.db).await.len(), 3 + 80);
    }
}
