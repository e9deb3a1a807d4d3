//! Random histories: a small world of people, dialogs and messages, and a bad road from it to the counter, on which events
//! are lost, doubled, swapped and bundled. The same seed gives the same history.

use proto::{DialogId, MessageId, UserId};
use rand::{Rng, SeedableRng, rngs::SmallRng, seq::IndexedRandom};
use uuid::Uuid;

use super::{Change, Input, ledger::Message};
use crate::store::REFUSED;

/// Whose messages the counter refuses, in every history: a rule that a database can check too.
pub(crate) const OUTCAST: UserId = UserId::new(Uuid::max());

/// What reaches the counter.
pub(crate) struct History {
    /// Events as they come, bundled into transactions.
    pub(crate) transactions: Vec<Vec<Input>>,
    /// The same events in another order, one by one.
    pub(crate) reordered: Vec<Input>,
    /// Two messages claim one place: the first to come has it, so that order matters.
    pub(crate) diverges: bool,
    /// A repair clears ranges that are missing at its time, so that order matters to them.
    pub(crate) repairs: bool,
}

/// One dialog, as the dialog service would keep it.
struct World {
    dialog_id: DialogId,
    users: Vec<UserId>,
    log: Vec<Input>,
    /// Who takes part, and the version and seq of the last change.
    memberships: Vec<(UserId, bool, i64, i64)>,
    messages: Vec<Sent>,
}

#[derive(Clone, Copy)]
struct Sent {
    message: Message,
    at_us: i64,
    deleted: bool,
    failed: bool,
}

/// The history of this seed. Scopes share no people and no dialogs, so that many fit in one database.
pub(crate) fn random(seed: u64, scope: u64) -> History {
    let mut rng = SmallRng::seed_from_u64(seed);
    let id = |kind: u64, n: usize| Uuid::from_u64_pair(scope << 8 | kind, n as u64 + 1);
    let users: Vec<_> = (0..rng.random_range(2..=4)).map(|n| UserId::new(id(1, n))).collect();
    let mut events: Vec<Input> = users.iter().copied().map(Input::Registered).collect();
    let (mut diverges, mut repairs) = (false, false);
    for n in 0..rng.random_range(1..=2) {
        let mut world = World::new(DialogId::new(id(2, n)), users.clone(), &mut rng);
        for _ in 0..rng.random_range(3..=9) {
            world.step(&mut rng);
        }
        events.extend(world.asides(&mut rng));
        if rng.random_bool(0.05) {
            diverges |= world.contradict(&mut events, &mut rng);
        }
        let (lost, doubled) = (*[0.0, 0.0, 0.15].choose(&mut rng).unwrap(), rng.random_range(0.0..0.4));
        for event in &world.log {
            let copies = if rng.random_bool(lost) { 0 } else { 1 + usize::from(rng.random_bool(doubled)) };
            events.extend(std::iter::repeat_n(event, copies).cloned());
        }
        if rng.random_bool(0.2) {
            repairs = true;
            events.extend(world.repair());
        }
    }
    let transactions = bundle(disorder(&events, &mut rng), &mut rng);
    let mut reordered = events;
    shuffle(&mut reordered, 1_000.0, &mut rng);
    History { transactions, reordered, diverges, repairs }
}

fn disorder(events: &[Input], rng: &mut SmallRng) -> Vec<Input> {
    let mut events = events.to_vec();
    let reach = *[0.0, 3.0, 8.0, 1_000.0].choose(rng).unwrap();
    shuffle(&mut events, reach, rng);
    events
}

/// Moves every event by up to `reach` places, more or less.
fn shuffle(events: &mut Vec<Input>, reach: f64, rng: &mut SmallRng) {
    let mut keyed: Vec<(f64, Input)> = events
        .drain(..)
        .enumerate()
        .map(|(at, event)| (at as f64 + rng.random::<f64>() * reach, event))
        .collect();
    keyed.sort_by(|a, b| a.0.total_cmp(&b.0));
    events.extend(keyed.into_iter().map(|(_, event)| event));
}

fn bundle(events: Vec<Input>, rng: &mut SmallRng) -> Vec<Vec<Input>> {
    let mut transactions: Vec<Vec<Input>> = Vec::new();
    let mut room = 0;
    for event in events {
        if room == 0 {
            transactions.push(Vec::new());
            room = if rng.random_bool(0.7) { 1 } else { rng.random_range(2..=6) };
        }
        transactions.last_mut().expect("pushed above").push(event);
        room -= 1;
    }
    transactions
}

impl World {
    fn new(dialog_id: DialogId, users: Vec<UserId>, rng: &mut SmallRng) -> Self {
        let mut world =
            Self { dialog_id, log: Vec::new(), memberships: Vec::new(), messages: Vec::new(), users };
        world.emit(Change::Nothing);
        for user_id in world.users.clone() {
            if rng.random_bool(0.8) {
                world.join(user_id);
            }
        }
        world
    }

    fn version(&self) -> i64 {
        self.log.len() as i64
    }

    fn emit(&mut self, change: Change) {
        let version = Some(self.version() + 1);
        self.log.push(Input::Dialog { dialog_id: self.dialog_id, version, change });
    }

    fn step(&mut self, rng: &mut SmallRng) {
        match rng.random_range(0..20) {
            0..=11 => self.send(rng),
            12..=14 => self.delete(rng),
            15..=17 => {
                let user_id = *self.users.choose(rng).expect("there are people");
                match self.memberships.iter().find(|membership| membership.0 == user_id) {
                    Some((_, true, ..)) => self.leave(user_id),
                    _ => self.join(user_id),
                }
            }
            _ => self.emit(Change::Nothing),
        }
    }

    fn send(&mut self, rng: &mut SmallRng) {
        let author_id =
            if rng.random_bool(0.12) { OUTCAST } else { *self.users.choose(rng).expect("there are people") };
        let seq = self.messages.len() as i64 + 1;
        let id = MessageId::new(Uuid::from_u64_pair(self.dialog_id.uuid().as_u64_pair().0, rng.random()));
        let message = Message { seq, id, author_id };
        let at_us = 1_000 * seq + rng.random_range(0..1_500);
        let failed = author_id == OUTCAST && rng.random_bool(0.7);
        self.messages.push(Sent { message, at_us, deleted: false, failed });
        self.emit(sent(message, at_us));
        if failed {
            self.emit(Change::Failed(message));
        }
    }

    fn delete(&mut self, rng: &mut SmallRng) {
        let alive: Vec<usize> = (0..self.messages.len()).filter(|n| !self.messages[*n].deleted).collect();
        if let Some(n) = alive.choose(rng) {
            self.messages[*n].deleted = true;
            self.emit(Change::Deleted(self.messages[*n].message));
        }
    }

    fn join(&mut self, user_id: UserId) {
        let joined_seq = self.messages.len() as i64;
        let version = self.version() + 1;
        self.set_membership((user_id, true, version, joined_seq));
        self.emit(Change::Joined { user_id, version, joined_seq });
    }

    fn leave(&mut self, user_id: UserId) {
        let version = self.version() + 1;
        self.set_membership((user_id, false, version, 0));
        self.emit(Change::Left { user_id, version });
    }

    fn set_membership(&mut self, membership: (UserId, bool, i64, i64)) {
        self.memberships.retain(|(user_id, ..)| *user_id != membership.0);
        self.memberships.push(membership);
    }

    /// What reaches the counter beside the log: reads, partial, stale and ahead of everything, and settled messages.
    fn asides(&self, rng: &mut SmallRng) -> Vec<Input> {
        let dialog_id = self.dialog_id;
        let aside = |change| Input::Dialog { dialog_id, version: None, change };
        let last = self.messages.len() as i64;
        let mut asides = Vec::new();
        for _ in 0..rng.random_range(0..=5) {
            let user_id = *self.users.choose(rng).expect("there are people");
            asides.push(aside(Change::Read { user_id, up_to: rng.random_range(0..=last + 1) }));
        }
        asides.extend(
            self.messages
                .iter()
                .filter(|_| rng.random_bool(0.05))
                .map(|each| aside(sent(each.message, each.at_us))),
        );
        asides
    }

    /// Another message claims a place; false where there is none.
    fn contradict(&self, events: &mut Vec<Input>, rng: &mut SmallRng) -> bool {
        let Some(each) = self.messages.choose(rng) else { return false };
        let message = Message { id: MessageId::new(Uuid::from_u64_pair(7, rng.random())), ..each.message };
        let change = if rng.random_bool(0.5) { sent(message, each.at_us) } else { Change::Deleted(message) };
        events.push(Input::Dialog { dialog_id: self.dialog_id, version: None, change });
        true
    }

    /// What dialog would answer when asked for everything.
    fn repair(&self) -> Vec<Input> {
        let mut changes = Vec::new();
        for &(user_id, joined, version, joined_seq) in &self.memberships {
            changes.push(match joined {
                true => Change::Joined { user_id, version, joined_seq },
                false => Change::Left { user_id, version },
            });
        }
        for each in &self.messages {
            if each.failed {
                changes.push(Change::Failed(each.message));
            }
            if each.deleted {
                changes.push(Change::Deleted(each.message));
            }
            if !each.failed && !each.deleted {
                changes.push(sent(each.message, each.at_us));
            }
        }
        changes.push(Change::Repaired(self.version()));
        let dialog_id = self.dialog_id;
        changes.into_iter().map(|change| Input::Dialog { dialog_id, version: None, change }).collect()
    }
}

fn sent(message: Message, at_us: i64) -> Change {
    if message.author_id == OUTCAST {
        Change::Refused(message, REFUSED.to_owned())
    } else {
        Change::Sent(message, at_us)
    }
}
