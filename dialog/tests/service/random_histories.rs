//! Random histories: each event increments its dialog's version by one, and the result of `ChangesSince`
//! applied to the state at any version yields the current state.

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
    fixture::{Fixture, TestUser, fixtures},
    store::outbox,
};

/// State of one dialog, built from the event log or from `ChangesSince`.
#[derive(Debug, Clone, Default, PartialEq)]
struct State {
    messages: BTreeMap<Vec<u8>, MessageState>,
    memberships: BTreeMap<Vec<u8>, MembershipState>,
}

#[derive(Debug, Clone, PartialEq)]
struct MessageState {
    seq: i64,
    status: Status,
    deleted: bool,
}

#[derive(Debug, Clone, PartialEq)]
struct MembershipState {
    joined_seq: i64,
    left: bool,
}

impl State {
    /// Applies an event of the log.
    fn apply_event(&mut self, kind: Kind) {
        match kind {
            Kind::DialogCreated(_) | Kind::DialogRenamed(_) => {}
            Kind::ParticipantJoined(joined) => {
                let state = MembershipState { joined_seq: joined.joined_seq, left: false };
                self.memberships.insert(joined.user_id, state);
            }
            Kind::ParticipantLeft(left) => self.memberships.get_mut(&left.user_id).unwrap().left = true,
            Kind::MessageSent(sent) => {
                let state = MessageState { seq: sent.seq, status: Status::Pending, deleted: false };
                let previous = self.messages.insert(sent.message_id, state);
                assert!(previous.is_none());
            }
            Kind::MessageCommitted(event) => self.message(&event.message_id).status = Status::Committed,
            Kind::MessageFailed(event) => self.message(&event.message_id).status = Status::Failed,
            Kind::MessageDeleted(event) => self.message(&event.message_id).deleted = true,
            other => panic!("{other:?} is not an event of dialog"),
        }
    }

    fn message(&mut self, id: &[u8]) -> &mut MessageState {
        self.messages.get_mut(id).unwrap()
    }

    /// Replaces a row by its changed state.
    fn apply_change(&mut self, change: Change) {
        match change.row.unwrap() {
            Row::Message(row) => {
                let state = MessageState { seq: row.seq, status: row.status(), deleted: row.deleted };
                self.messages.insert(row.message_id, state);
            }
            Row::Membership(row) => {
                let state = MembershipState { joined_seq: row.joined_seq, left: row.left };
                self.memberships.insert(row.user_id, state);
            }
        }
    }
}

/// Performs a random operation, which the service may refuse.
async fn step(
    fixture: &Fixture,
    users: &[TestUser],
    group: &[u8],
    sent: &mut Vec<Message>,
    random: &mut StdRng,
) {
    let user = users.choose(random).unwrap();
    match random.random_range(0..10) {
        0..=3 => sent.extend(user.try_send(group, "text", None).await),
        4 => {
            let user_ids =
                vec![users.choose(random).unwrap().id.bytes(), users.choose(random).unwrap().id.bytes()];
            let request = AddParticipantsRequest { dialog_id: group.to_vec(), user_ids };
            drop(user.client().add_participants(request).await);
        }
        // The first user never leaves, so that the others can be added again.
        5 if user.id == users[0].id => {}
        5 => drop(user.client().leave(LeaveRequest { dialog_id: group.to_vec() }).await),
        6 => {
            let Some(message) = sent.choose(random) else { return };
            drop(user.client().delete(DeleteRequest { message_id: message.id.clone() }).await);
        }
        _ => {
            let Some(message) = sent.choose(random) else { return };
            let dialog_id = message.dialog_id.clone();
            let seq = message.seq;
            let message_id = message.id.clone();
            // The outcome depends on the seq only, so that a repeated reply does not contradict an
            // earlier one.
            fixture
                .publish_reply(if seq % 3 == 0 {
                    Kind::CountRefused(CountRefused { dialog_id, seq, message_id, reason: "no".to_owned() })
                } else {
                    Kind::Counted(Counted { dialog_id, seq, message_id })
                })
                .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_since_any_version_yield_the_current_state() {
    for fixture in fixtures().await {
        for seed in 0..6 {
            let mut random = StdRng::seed_from_u64(seed);
            let users: Vec<_> = (0..4).map(|_| fixture.user()).collect();
            let group = users[0].group(&[&users[1]]).await.id;
            let mut sent = Vec::new();
            let background = fixture.start_background();
            for _ in 0..60 {
                step(&fixture, &users, &group, &mut sent, &mut random).await;
            }
            let last = users[0].direct(&users[1]).await.id;
            let last = users[0].send(&last, "last").await;
            let end =
                Counted { dialog_id: last.dialog_id.clone(), seq: last.seq, message_id: last.id.clone() };
            fixture.publish_reply(Kind::Counted(end)).await;
            eventually("all replies are applied", || async {
                users[0].message(&last.id).await.unwrap().status() == Status::Committed
            })
            .await;
            background.stop().await;
            assert_changes_since(&fixture, &group, seed).await;
        }
        assert!(outbox(&fixture.db, topic::DEAD).await.is_empty(), "{}", fixture.name);
    }
}

/// Builds the state at each version from the log, and asserts that the changes since then yield the last
/// state.
async fn assert_changes_since(fixture: &Fixture, group: &[u8], seed: u64) {
    let key = proto::DialogId::parse(group).unwrap().to_string();
    let mut events = outbox(&fixture.db, topic::DIALOG).await;
    events.retain(|event| event.key == key);
    let mut states = vec![State::default()];
    for (event, version) in events.into_iter().zip(1..) {
        assert_eq!(event.version, version, "{}, seed {seed}", fixture.name);
        let mut state = states.last().unwrap().clone();
        state.apply_event(event.kind);
        states.push(state);
    }
    let current = states.last().unwrap();
    let statuses: BTreeSet<_> =
        current.messages.values().map(|message| message.status.as_str_name()).collect();
    assert!(current.messages.len() > 5 && statuses.len() > 1, "the history is not trivial");
    for (version, state) in states.iter().enumerate() {
        let mut state = state.clone();
        let mut since = version as i64;
        loop {
            let request = ChangesSinceRequest { dialog_id: group.to_vec(), since, limit: 7 };
            let page = fixture.service_client().changes_since(request).await.unwrap().into_inner();
            assert_eq!(page.head, states.len() as i64 - 1);
            let received = page.changes.len();
            for change in page.changes {
                assert!(change.version > since, "ordered by version");
                since = change.version;
                state.apply_change(change);
            }
            if received < 7 {
                break;
            }
        }
        assert_eq!(state, *current, "{}, seed {seed}, since {version}", fixture.name);
    }
}
