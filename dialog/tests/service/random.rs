//! Random histories: every event is one step of its dialog's version, and `ChangesSince` any version, laid over the state at
//! that version, is the state now.

use std::collections::{BTreeMap, BTreeSet};

use proto::{
    dialog::{
        AddParticipantsRequest, Change, ChangesSinceRequest, DeleteRequest, LeaveRequest, Message, Status,
        change::Row,
    },
    events::{CountRefused, Counted, event::Kind},
    topic,
};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use testkit::eventually;

use crate::{
    store::outbox,
    world::{Person, World, worlds},
};

/// What an event log, or the service, says about one dialog.
#[derive(Debug, Clone, Default, PartialEq)]
struct State {
    /// By message: its seq, its status, whether it is deleted.
    messages: BTreeMap<Vec<u8>, (i64, Status, bool)>,
    /// By person: the seq at the join, whether the person has left.
    people: BTreeMap<Vec<u8>, (i64, bool)>,
}

impl State {
    /// Applies an event of the log.
    fn apply(&mut self, kind: Kind) {
        match kind {
            Kind::DialogCreated(_) => {}
            Kind::ParticipantJoined(joined) => {
                self.people.insert(joined.user_id, (joined.joined_seq, false));
            }
            Kind::ParticipantLeft(left) => self.people.get_mut(&left.user_id).unwrap().1 = true,
            Kind::MessageSent(sent) => {
                let before = self.messages.insert(sent.message_id, (sent.seq, Status::Pending, false));
                assert!(before.is_none());
            }
            Kind::MessageCommitted(it) => {
                self.messages.get_mut(&it.message_id).unwrap().1 = Status::Committed
            }
            Kind::MessageFailed(it) => self.messages.get_mut(&it.message_id).unwrap().1 = Status::Failed,
            Kind::MessageDeleted(it) => self.messages.get_mut(&it.message_id).unwrap().2 = true,
            other => panic!("{other:?} is none of dialog's"),
        }
    }

    /// Lays a changed row over it.
    fn lay(&mut self, change: Change) {
        match change.row.unwrap() {
            Row::Message(row) => {
                self.messages.insert(row.message_id.clone(), (row.seq, row.status(), row.deleted));
            }
            Row::Membership(row) => {
                self.people.insert(row.user_id, (row.joined_seq, row.left));
            }
        }
    }
}

/// Does something that the service may refuse.
async fn step(world: &World, people: &[Person], group: &[u8], sent: &mut Vec<Message>, random: &mut StdRng) {
    let who = people.choose(random).unwrap();
    match random.random_range(0..10) {
        0..=3 => sent.extend(who.try_send(group, "text", None).await),
        4 => {
            let user_ids =
                vec![people.choose(random).unwrap().id.bytes(), people.choose(random).unwrap().id.bytes()];
            let request = AddParticipantsRequest { dialog_id: group.to_vec(), user_ids };
            drop(who.client().add_participants(request).await);
        }
        // The first person stays, so that somebody can ask the others back.
        5 if who.id == people[0].id => {}
        5 => drop(who.client().leave(LeaveRequest { dialog_id: group.to_vec() }).await),
        6 => {
            let Some(message) = sent.choose(random) else { return };
            drop(who.client().delete(DeleteRequest { message_id: message.id.clone() }).await);
        }
        _ => {
            let Some(message) = sent.choose(random) else { return };
            let (dialog_id, seq, message_id) = (message.dialog_id.clone(), message.seq, message.id.clone());
            // Every message has one outcome, told once or more often.
            world
                .tell(if seq % 3 == 0 {
                    Kind::CountRefused(CountRefused { dialog_id, seq, message_id, reason: "no".to_owned() })
                } else {
                    Kind::Counted(Counted { dialog_id, seq, message_id })
                })
                .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_since_any_version_lead_to_the_state_now() {
    for world in worlds().await {
        for seed in 0..6 {
            let mut random = StdRng::seed_from_u64(seed);
            let people: Vec<_> = (0..4).map(|_| world.person()).collect();
            let group = people[0].group(&[&people[1]]).await.id;
            let mut sent = Vec::new();
            let running = world.start();
            for _ in 0..60 {
                step(&world, &people, &group, &mut sent, &mut random).await;
            }
            let last = people[0].direct(&people[1]).await.id;
            let last = people[0].send(&last, "last").await;
            let end =
                Counted { dialog_id: last.dialog_id.clone(), seq: last.seq, message_id: last.id.clone() };
            world.tell(Kind::Counted(end)).await;
            eventually("everything told is applied", || async {
                people[0].message(&last.id).await.unwrap().status() == Status::Committed
            })
            .await;
            running.stop().await;
            check(&world, &group, seed).await;
        }
        assert!(outbox(&world.db, topic::DEAD).await.is_empty(), "{}", world.name);
    }
}

/// Replays the log, and asks for the changes since every one of its versions.
async fn check(world: &World, group: &[u8], seed: u64) {
    let key = proto::DialogId::parse(group).unwrap().to_string();
    let mut events = outbox(&world.db, topic::DIALOG).await;
    events.retain(|event| event.key == key);
    let mut states = vec![State::default()];
    for (event, version) in events.into_iter().zip(1..) {
        assert_eq!(event.version, version, "{}, seed {seed}", world.name);
        let mut state = states.last().unwrap().clone();
        state.apply(event.kind);
        states.push(state);
    }
    let now = states.last().unwrap();
    let kinds: BTreeSet<_> = now.messages.values().map(|(_, status, _)| status.as_str_name()).collect();
    assert!(now.messages.len() > 5 && kinds.len() > 1, "a history worth the name");
    for (version, state) in states.iter().enumerate() {
        let mut state = state.clone();
        let mut since = version as i64;
        loop {
            let request = ChangesSinceRequest { dialog_id: group.to_vec(), since, limit: 7 };
            let page = world.service().changes_since(request).await.unwrap().into_inner();
            assert_eq!(page.head, states.len() as i64 - 1);
            let read = page.changes.len();
            for change in page.changes {
                assert!(change.version > since, "by version");
                since = change.version;
                state.lay(change);
            }
            if read < 7 {
                break;
            }
        }
        assert_eq!(state, *now, "{}, seed {seed}, since {version}", world.name);
    }
}
