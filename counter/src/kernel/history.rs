//! Generator of random histories: simulated dialogs, whose events reach the counter lost, repeated,
//! reordered and grouped into transactions. The same seed gives the same history.

use proto::{DialogId, MessageId, UserId};
use rand::{Rng, SeedableRng, rngs::SmallRng, seq::IndexedRandom};
use uuid::Uuid;

use super::{Change, Input, Membership, ledger::Message};
use crate::{
    derived::source::{Settlement, Source, SourceMember, SourceMessage},
    store::REFUSAL_REASON,
};

/// Author whose messages the counter refuses in every history. A database constraint can express this
/// rule too.
pub(crate) const REFUSED_AUTHOR: UserId = UserId::new(Uuid::max());

/// Inputs as they reach the counter.
pub(crate) struct History {
    /// Inputs in their order of arrival, grouped into transactions.
    pub(crate) transactions: Vec<Vec<Input>>,
    /// The same inputs in another order, to be applied one by one.
    pub(crate) reordered: Vec<Input>,
    /// Two messages claim one `seq`. The first to arrive keeps it, so the order matters.
    pub(crate) diverges: bool,
    /// State of each dialog at the dialog service.
    pub(crate) sources: Vec<(DialogId, Source)>,
    /// The history has repairs. A repair closes the gaps of its time, so the order matters to `missing`.
    pub(crate) repairs: bool,
}

/// One dialog, as the dialog service stores it.
struct SimulatedDialog {
    dialog_id: DialogId,
    users: Vec<UserId>,
    log: Vec<Input>,
    memberships: Vec<SimulatedMember>,
    messages: Vec<SimulatedMessage>,
}

/// Newest membership of one user.
#[derive(Clone, Copy)]
struct SimulatedMember {
    user_id: UserId,
    joined: bool,
    version: i64,
    joined_seq: i64,
}

#[derive(Clone, Copy)]
struct SimulatedMessage {
    message: Message,
    at_us: i64,
    deleted: bool,
    failed: bool,
}

/// Returns the history of this seed. Histories of different scopes share no users and no dialogs, so one
/// database can hold many of them.
pub(crate) fn random(seed: u64, scope: u64) -> History {
    let mut rng = SmallRng::seed_from_u64(seed);
    let id = |kind: u64, n: usize| Uuid::from_u64_pair(scope << 8 | kind, n as u64 + 1);
    let users: Vec<_> = (0..rng.random_range(2..=4)).map(|n| UserId::new(id(1, n))).collect();
    let mut events: Vec<Input> = users.iter().copied().map(Input::Registered).collect();
    let mut diverges = false;
    let mut repairs = false;
    let mut sources = Vec::new();
    for n in 0..rng.random_range(1..=2) {
        let mut dialog = SimulatedDialog::new(DialogId::new(id(2, n)), users.clone(), &mut rng);
        for _ in 0..rng.random_range(3..=9) {
            dialog.step(&mut rng);
        }
        events.extend(dialog.calls(&mut rng));
        if rng.random_bool(0.05) {
            diverges |= dialog.diverge(&mut events, &mut rng);
        }
        sources.push((dialog.dialog_id, dialog.source()));
        let lost = *[0.0, 0.0, 0.15].choose(&mut rng).unwrap();
        let repeated = rng.random_range(0.0..0.4);
        for event in &dialog.log {
            let copies = if rng.random_bool(lost) { 0 } else { 1 + usize::from(rng.random_bool(repeated)) };
            events.extend(std::iter::repeat_n(event, copies).cloned());
        }
        if rng.random_bool(0.2) {
            repairs = true;
            events.extend(dialog.repair());
        }
    }
    let transactions = group(reorder(&events, &mut rng), &mut rng);
    let mut reordered = events;
    shuffle(&mut reordered, 1_000.0, &mut rng);
    History { transactions, reordered, diverges, sources, repairs }
}

fn reorder(events: &[Input], rng: &mut SmallRng) -> Vec<Input> {
    let mut events = events.to_vec();
    let reach = *[0.0, 3.0, 8.0, 1_000.0].choose(rng).unwrap();
    shuffle(&mut events, reach, rng);
    events
}

/// Moves every event by up to about `reach` positions.
fn shuffle(events: &mut Vec<Input>, reach: f64, rng: &mut SmallRng) {
    let mut keyed: Vec<(f64, Input)> = events
        .drain(..)
        .enumerate()
        .map(|(index, event)| (index as f64 + rng.random::<f64>() * reach, event))
        .collect();
    keyed.sort_by(|a, b| a.0.total_cmp(&b.0));
    events.extend(keyed.into_iter().map(|(_, event)| event));
}

fn group(events: Vec<Input>, rng: &mut SmallRng) -> Vec<Vec<Input>> {
    let mut transactions: Vec<Vec<Input>> = Vec::new();
    let mut room = 0;
    for event in events {
        if room == 0 {
            transactions.push(Vec::new());
            room = if rng.random_bool(0.7) { 1 } else { rng.random_range(2..=6) };
        }
        transactions.last_mut().expect("a transaction was pushed above").push(event);
        room -= 1;
    }
    transactions
}

impl SimulatedDialog {
    fn new(dialog_id: DialogId, users: Vec<UserId>, rng: &mut SmallRng) -> Self {
        let mut dialog =
            Self { dialog_id, log: Vec::new(), memberships: Vec::new(), messages: Vec::new(), users };
        dialog.emit(Change::VersionOnly);
        for user_id in dialog.users.clone() {
            if rng.random_bool(0.8) {
                dialog.join(user_id);
            }
        }
        dialog
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
                let user_id = *self.users.choose(rng).expect("a dialog has users");
                match self.memberships.iter().find(|member| member.user_id == user_id) {
                    Some(member) if member.joined => self.leave(user_id),
                    _ => self.join(user_id),
                }
            }
            _ => self.emit(Change::VersionOnly),
        }
    }

    fn send(&mut self, rng: &mut SmallRng) {
        let author_id = if rng.random_bool(0.12) {
            REFUSED_AUTHOR
        } else {
            *self.users.choose(rng).expect("a dialog has users")
        };
        let seq = self.messages.len() as i64 + 1;
        let id = MessageId::new(Uuid::from_u64_pair(self.dialog_id.uuid().as_u64_pair().0, rng.random()));
        let message = Message { seq, id, author_id };
        let at_us = 1_000 * seq + rng.random_range(0..1_500);
        let failed = author_id == REFUSED_AUTHOR && rng.random_bool(0.7);
        self.messages.push(SimulatedMessage { message, at_us, deleted: false, failed });
        self.emit(sent(message, at_us));
        if failed {
            self.emit(Change::Failed(message));
        }
    }

    fn delete(&mut self, rng: &mut SmallRng) {
        let remaining: Vec<usize> = (0..self.messages.len()).filter(|n| !self.messages[*n].deleted).collect();
        if let Some(n) = remaining.choose(rng) {
            self.messages[*n].deleted = true;
            self.emit(Change::Deleted(self.messages[*n].message));
        }
    }

    fn join(&mut self, user_id: UserId) {
        let joined_seq = self.messages.len() as i64;
        let version = self.version() + 1;
        self.set_membership(SimulatedMember { user_id, joined: true, version, joined_seq });
        self.emit(Change::Joined { user_id, version, joined_seq });
    }

    fn leave(&mut self, user_id: UserId) {
        let version = self.version() + 1;
        self.set_membership(SimulatedMember { user_id, joined: false, version, joined_seq: 0 });
        self.emit(Change::Left { user_id, version });
    }

    fn set_membership(&mut self, member: SimulatedMember) {
        self.memberships.retain(|other| other.user_id != member.user_id);
        self.memberships.push(member);
    }

    /// Inputs that arrive in calls: reads (partial, stale, and ahead of the ledger) and settled
    /// messages.
    fn calls(&self, rng: &mut SmallRng) -> Vec<Input> {
        let dialog_id = self.dialog_id;
        let call = |change| Input::Dialog { dialog_id, version: None, change };
        let last = self.messages.len() as i64;
        let mut calls = Vec::new();
        for _ in 0..rng.random_range(0..=5) {
            let user_id = *self.users.choose(rng).expect("a dialog has users");
            calls.push(call(Change::Read { user_id, up_to: rng.random_range(0..=last + 1) }));
        }
        calls.extend(
            self.messages
                .iter()
                .filter(|_| rng.random_bool(0.05))
                .map(|each| call(sent(each.message, each.at_us))),
        );
        calls
    }

    /// Adds a second message with a used `seq`. Returns false if the dialog has no messages.
    fn diverge(&self, events: &mut Vec<Input>, rng: &mut SmallRng) -> bool {
        let Some(each) = self.messages.choose(rng) else { return false };
        let message = Message { id: MessageId::new(Uuid::from_u64_pair(7, rng.random())), ..each.message };
        let change = if rng.random_bool(0.5) { sent(message, each.at_us) } else { Change::Deleted(message) };
        events.push(Input::Dialog { dialog_id: self.dialog_id, version: None, change });
        true
    }

    /// State of the dialog at its last version.
    fn source(&self) -> Source {
        let mut source = Source { head: self.version(), ..Source::default() };
        for each in &self.messages {
            let deleted = each.deleted;
            let settlement = match each.failed {
                true => Settlement::Failed,
                false if each.message.author_id == REFUSED_AUTHOR => Settlement::Pending { deleted },
                false => Settlement::Committed { deleted },
            };
            let names = |input: &Input| match input {
                Input::Dialog { change, .. } => change.message() == Some(&each.message),
                Input::Registered(_) => false,
            };
            let version = self.log.iter().rposition(names).map_or(0, |index| index as i64 + 1);
            let message = each.message;
            let row = SourceMessage { version, message, settlement, at_us: each.at_us, read_up_to: 0 };
            source.messages.insert(message.seq, row);
        }
        for each in &self.memberships {
            let membership = if each.joined { Membership::Joined(each.joined_seq) } else { Membership::Left };
            source.members.insert(each.user_id, SourceMember { version: each.version, membership });
        }
        source
    }

    /// Changes that the dialog service returns for a repair from the first version.
    fn repair(&self) -> Vec<Input> {
        let mut changes = Vec::new();
        for &SimulatedMember { user_id, joined, version, joined_seq } in &self.memberships {
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
    if message.author_id == REFUSED_AUTHOR {
        Change::Refused(message, REFUSAL_REASON.to_owned())
    } else {
        Change::Sent(message, at_us)
    }
}
