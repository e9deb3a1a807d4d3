//! Many at once: what is unique stays so, and numbers have no gaps.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures_util::future::join_all;
use proto::{dialog::DeleteRequest, topic};

use crate::{
    store::{names, outbox},
    world::{Person, worlds},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_people_who_begin_at_once_have_one_dialog() {
    for world in worlds().await {
        for round in 0..15 {
            let (a, b) = (world.person(), world.person());
            let key = (round % 2 == 0).then_some("key");
            let begun = (0..8).map(|turn| {
                let (one, other) =
                    if turn % 2 == 0 { (a.clone(), b.clone()) } else { (b.clone(), a.clone()) };
                tokio::spawn(async move { one.try_create(&[&other], None, key).await.unwrap() })
            });
            let dialogs: Vec<_> = join_all(begun).await.into_iter().map(Result::unwrap).collect();
            assert!(dialogs.iter().all(|dialog| *dialog == dialogs[0]), "{}: {dialogs:?}", world.name);
        }
        assert_eq!(names(&world.db).await.len(), 15 * 3);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_client_key_at_once_is_one_message() {
    for world in worlds().await {
        let (a, b) = (world.person(), world.person());
        let dialog = a.direct(&b).await;
        let sends = (0..20).map(|_| {
            let (a, dialog) = (a.clone(), dialog.id.clone());
            tokio::spawn(async move { a.try_send(&dialog, "once", Some("key")).await.unwrap() })
        });
        let sent: Vec<_> = join_all(sends).await.into_iter().map(Result::unwrap).collect();
        assert!(sent.iter().all(|message| *message == sent[0]), "{}", world.name);
        assert_eq!(names(&world.db).await.len(), 4);
        assert_eq!(a.send(&dialog.id, "next").await.seq, 2);
        let groups = (0..20).map(|_| {
            let (a, b) = (a.clone(), b.clone());
            tokio::spawn(async move { a.try_create(&[&b], Some("once"), Some("key")).await.unwrap().id })
        });
        let ids: BTreeSet<_> = join_all(groups).await.into_iter().map(Result::unwrap).collect();
        assert_eq!(ids.len(), 1);
    }
}

/// One of the writers: sends, and deletes every fifth of its messages.
async fn write(person: Person, dialogs: Vec<Vec<u8>>, turn: usize) -> Vec<(Vec<u8>, i64)> {
    let mut sent = Vec::new();
    for round in 0..10 {
        let message = person.send(&dialogs[(turn + round) % dialogs.len()], "text").await;
        if round % 5 == 0 {
            person.client().delete(DeleteRequest { message_id: message.id.clone() }).await.unwrap();
        }
        sent.push((message.dialog_id, message.seq));
    }
    sent
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn numbers_and_versions_of_busy_dialogs_have_no_gap_and_no_inversion() {
    for world in worlds().await {
        let people: Vec<_> = (0..24).map(|_| world.person()).collect();
        let others: Vec<_> = people[1..].iter().collect();
        let mut dialogs = Vec::new();
        for _ in 0..3 {
            dialogs.push(people[0].group(&others).await.id);
        }
        let writers = people
            .iter()
            .enumerate()
            .map(|(turn, person)| tokio::spawn(write(person.clone(), dialogs.clone(), turn)));
        let mut seqs: BTreeMap<Vec<u8>, Vec<i64>> = BTreeMap::new();
        for sent in join_all(writers).await {
            for (dialog, seq) in sent.unwrap() {
                seqs.entry(dialog).or_default().push(seq);
            }
        }
        assert_eq!(seqs.values().map(Vec::len).sum::<usize>(), 240, "{}", world.name);
        for seqs in seqs.values_mut() {
            seqs.sort_unstable();
            assert_eq!(*seqs, (1..=seqs.len() as i64).collect::<Vec<_>>());
        }
        let mut versions: BTreeMap<String, Vec<i64>> = BTreeMap::new();
        for event in outbox(&world.db, topic::DIALOG).await {
            versions.entry(event.key).or_default().push(event.version);
        }
        assert_eq!(versions.values().map(Vec::len).sum::<usize>(), 3 * 25 + 240 + 48);
        for versions in versions.values() {
            assert_eq!(
                *versions,
                (1..=versions.len() as i64).collect::<Vec<_>>(),
                "in the order of the outbox (I13)"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_those_who_leave_and_speak_at_once_none_speaks_after_leaving() {
    for world in worlds().await {
        let people: Vec<_> = (0..8).map(|_| world.person()).collect();
        let group = people[0].group(&people[1..].iter().collect::<Vec<_>>()).await.id;
        let turns = people.iter().flat_map(|person| {
            let (speaker, leaver) = (person.clone(), person.clone());
            let (there, here) = (group.clone(), group.clone());
            let speak = tokio::spawn(async move {
                for _ in 0..10 {
                    // Refused once the person has left.
                    drop(speaker.try_send(&there, "text", None).await);
                }
            });
            let leave = tokio::spawn(async move {
                leaver.client().leave(proto::dialog::LeaveRequest { dialog_id: here }).await.unwrap();
            });
            [speak, leave]
        });
        for turn in join_all(turns).await {
            turn.unwrap();
        }
        let mut gone = BTreeSet::new();
        for event in outbox(&world.db, topic::DIALOG).await {
            match event.kind {
                proto::events::event::Kind::ParticipantLeft(left) => assert!(gone.insert(left.user_id)),
                proto::events::event::Kind::MessageSent(sent) => {
                    assert!(!gone.contains(&sent.sender_id), "{}", world.name);
                }
                _ => {}
            }
        }
        assert_eq!(gone.len(), 8);
    }
}

/// Handlers are dropped whenever a client leaves; what they write is written to its end, or not at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_leaves_in_the_midst_of_a_call_finds_the_message_by_its_key() {
    for world in worlds().await {
        let (a, b) = (world.person(), world.person());
        let dialog = a.direct(&b).await.id;
        let keys: Vec<_> = (0..80).map(|key| key.to_string()).collect();
        for (turn, key) in keys.iter().enumerate() {
            let (a, dialog, key) = (a.clone(), dialog.clone(), key.clone());
            let call = tokio::spawn(async move { a.try_send(&dialog, "text", Some(&key)).await });
            tokio::time::sleep(Duration::from_micros(turn as u64 * 25)).await;
            call.abort();
        }
        let mut sent = BTreeMap::new();
        for key in &keys {
            let message = a.try_send(&dialog, "text", Some(key)).await.unwrap();
            assert_eq!(sent.insert(message.seq, message.id), None, "{}", world.name);
        }
        assert!(sent.keys().copied().eq(1..=80));
        assert_eq!(names(&world.db).await.len(), 3 + 80);
    }
}
