//! Random histories of one user's place in the cache, played on the rules of [`crate::slot`] and on the script in a real
//! Redis: after every step both must hold the same, and what is held at a version must be what the database had.

use std::collections::BTreeMap;

use proto::{DialogId, UserId};
use rand::{Rng, SeedableRng, rngs::SmallRng, seq::IndexedRandom};
use redis::{Client, aio::MultiplexedConnection};
use uuid::Uuid;

use super::hash::{self, Fields, Hash};
use crate::{
    slot::{Delta, Slot},
    unread::{ROWS, Row, Unread, Version},
};

const STEPS: usize = 60;

/// What happens to the place.
pub(crate) enum Step {
    Miss(u64),
    /// What a miss has read from the database, possibly long ago.
    Fill(u64, Unread),
    /// An event.
    Tell(Delta),
    /// Evicted, expired or flushed.
    Gone,
}

/// Writes, misses, fills that come late, events that come late, again, out of order or never, epochs that are raised over
/// an older state, and evictions, in any order.
pub(crate) struct History {
    pub(crate) steps: Vec<Step>,
    database: Database,
}

/// The database of one user: the rows at every version, and the steps between them.
struct Database {
    states: BTreeMap<Version, BTreeMap<DialogId, Row>>,
    now: Version,
    told: Vec<Delta>,
}

/// The rules of the slot, or others that are to be caught.
pub(crate) type Apply = fn(&Slot, &Delta) -> Option<Slot>;
pub(crate) type Fill = fn(&Slot, u64, &Unread) -> Option<Slot>;

impl Database {
    fn new() -> Self {
        let now = Version { epoch: 1, number: 0 };
        Self { states: BTreeMap::from([(now, BTreeMap::new())]), now, told: Vec::new() }
    }

    fn write(&mut self, rng: &mut SmallRng) {
        let mut state = self.states[&self.now].clone();
        let mut rows = Vec::new();
        for n in 0..rng.random_range(1..=2) {
            let dialog_id = DialogId::new(Uuid::from_u128(rng.random_range(0..3) * 2 + n));
            let was = state.get(&dialog_id).map_or(0, |row| row.unread);
            let row = Row {
                dialog_id,
                unread: rng.random_range(0..4),
                read_seq: rng.random_range(0..9),
                last_seq: 9,
            };
            state.insert(dialog_id, row);
            rows.push((row, was));
        }
        let (version, previous) = (Version { number: self.now.number + 1, ..self.now }, self.now);
        self.states.insert(version, state);
        self.told.push(Delta { version, previous, rows });
        self.now = version;
    }

    /// A backup is restored.
    fn raise_epoch(&mut self, rng: &mut SmallRng) {
        let known: Vec<Version> = self.states.keys().copied().collect();
        let backup = known.choose(rng).expect("there is one from the beginning");
        self.now = Version { epoch: self.now.epoch + 1, number: backup.number };
        self.states.insert(self.now, self.states[backup].clone());
    }

    fn read(&self, version: Version) -> Option<Unread> {
        let rows: Vec<Row> =
            self.states.get(&version)?.values().filter(|row| row.unread > 0).copied().collect();
        Some(Unread { version, total: rows.iter().map(|row| row.unread).sum(), rows, truncated: false })
    }
}

impl History {
    pub(crate) fn random(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let (mut steps, mut database) = (Vec::new(), Database::new());
        let (mut tickets, mut next) = (0, 0);
        let mut read: Vec<(u64, Option<Unread>)> = Vec::new();
        while steps.len() < STEPS {
            match rng.random_range(0..20) {
                0..=4 => database.write(&mut rng),
                5..=7 => {
                    steps.push(Step::Miss(tickets));
                    read.push((tickets, None));
                    tickets += 1;
                }
                8..=10 => {
                    if let Some((_, unread)) = read.iter_mut().filter(|(_, unread)| unread.is_none()).last() {
                        *unread = database.read(database.now);
                    }
                }
                11..=13 => {
                    let done: Vec<usize> = (0..read.len()).filter(|n| read[*n].1.is_some()).collect();
                    if let Some(n) = done.choose(&mut rng) {
                        let (ticket, unread) = read.remove(*n);
                        steps.push(Step::Fill(ticket, unread.expect("it is done")));
                    }
                }
                14..=17 => {
                    // The log is read in order; after a crash some of it again, and some of it may be gone.
                    next = match rng.random_range(0..20) {
                        0 | 1 => next - next.min(3),
                        2 => next + 1,
                        _ => next,
                    };
                    if let Some(delta) = database.told.get(next) {
                        steps.push(Step::Tell(delta.clone()));
                        next += 1;
                    }
                }
                18 => steps.push(Step::Gone),
                _ if rng.random_range(0..4) == 0 => database.raise_epoch(&mut rng),
                _ => {}
            }
        }
        Self { steps, database }
    }

    /// What is there after every step.
    pub(crate) fn play(&self, apply: Apply, fill: Fill) -> Vec<Option<Slot>> {
        let mut slot: Option<Slot> = None;
        let step = |step: &Step| {
            slot = match (step, slot.take()) {
                (Step::Miss(ticket), slot) => Some(Slot::miss(slot.as_ref(), *ticket)),
                (Step::Fill(ticket, unread), Some(slot)) => fill(&slot, *ticket, unread).or(Some(slot)),
                (Step::Tell(delta), Some(slot)) => apply(&slot, delta).or(Some(slot)),
                (Step::Gone | Step::Fill(..) | Step::Tell(_), _) => None,
            };
            slot.clone()
        };
        self.steps.iter().map(step).collect()
    }

    /// How often something was held; `None` where that is not what the database had at that version.
    pub(crate) fn answers(&self, slots: &[Option<Slot>]) -> Option<usize> {
        let held: Vec<Unread> = slots.iter().flatten().filter_map(Slot::unread).collect();
        held.iter().all(|unread| self.had(unread)).then_some(held.len())
    }

    fn had(&self, unread: &Unread) -> bool {
        let mut sorted = unread.clone();
        sorted.rows.sort_by_key(|row| row.dialog_id);
        self.database.read(unread.version) == Some(sorted)
    }

    /// What is in Redis after every step.
    async fn play_there(&self, redis: &mut MultiplexedConnection, hash: &Hash) -> Vec<Option<Slot>> {
        let user_id = UserId::now();
        let mut all = redis::pipe();
        all.add_command(hash.load()).ignore();
        for step in &self.steps {
            let command = match step {
                Step::Miss(ticket) => hash.miss(user_id, *ticket),
                Step::Fill(ticket, unread) => hash.fill(user_id, *ticket, unread),
                Step::Tell(delta) => hash.apply(user_id, delta),
                Step::Gone => redis::Cmd::del(hash::key(user_id)),
            };
            all.add_command(command).ignore().add_command(hash.read(user_id));
        }
        all.add_command(redis::Cmd::del(hash::key(user_id))).ignore();
        let fields: Vec<Fields> = all.query_async(redis).await.expect("Redis answers");
        fields.iter().map(|fields| hash::decode(fields)).collect()
    }
}

/// A connection to the Redis of the tests.
async fn redis() -> Option<MultiplexedConnection> {
    let client = Client::open(testkit::redis_url()?).expect("TEST_REDIS_URL is a URL");
    Some(client.get_multiplexed_async_connection().await.expect("TEST_REDIS_URL answers"))
}

#[tokio::test]
async fn the_script_does_what_the_rules_say_after_every_step() {
    const HISTORIES: u64 = 3_000;
    let Some(mut redis) = redis().await else { return };
    let hash = Hash::new();
    let mut answers = 0;
    for seed in 0..HISTORIES {
        let history = History::random(seed);
        let (here, there) =
            (history.play(Slot::apply, Slot::fill), history.play_there(&mut redis, &hash).await);
        for (at, (here, there)) in here.iter().zip(&there).enumerate() {
            assert_eq!(there, here, "seed {seed}, after step {at}");
        }
        assert_eq!(here.len(), there.len());
        answers += history.answers(&there).unwrap_or_else(|| panic!("wrong rows with seed {seed}"));
    }
    println!("{HISTORIES} histories of {STEPS} steps on Redis, {answers} answers compared");
    assert!(answers > 10_000, "the cache held something often enough: {answers}");
}

#[tokio::test]
async fn a_script_with_other_rules_is_caught() {
    let Some(mut redis) = redis().await else { return };
    // Without the last three an old state may stay, which is right at its version still: only the comparison shows them.
    for (what, is_wrong, rule, planted) in [
        ("newer wins", true, "if held ~= previous then return stub(version) end", ""),
        ("a repeated event counts", false, "held and below(held, version)", "held"),
        ("any fill wins", false, "known[2] ~= ticket or below(version, known[1])", "false"),
        ("a fill below the floor wins", false, " or below(version, known[1])", ""),
    ] {
        let rules = include_str!("slot.lua");
        assert_eq!(rules.matches(rule).count(), 1, "{what}: the rule is there");
        let hash = Hash::running(&rules.replace(rule, planted), std::time::Duration::from_secs(60));
        let (mut differs, mut wrong) = (0, 0);
        for seed in 0..300 {
            let history = History::random(seed);
            let there = history.play_there(&mut redis, &hash).await;
            differs += u32::from(there != history.play(Slot::apply, Slot::fill));
            wrong += u32::from(history.answers(&there).is_none());
        }
        println!("{what}: caught in {differs} of 300 histories, wrong at a version in {wrong}");
        assert!(differs > 0, "{what}: it does not do what the rules say");
        assert_eq!(wrong > 0, is_wrong, "{what}: wrong rows at a version in {wrong}");
    }
}

#[tokio::test]
async fn a_slot_goes_in_time_and_more_than_a_thousand_rows_are_not_held() {
    let Some(mut redis) = redis().await else { return };
    let user_id = UserId::now();
    let row =
        |n: u128| Row { dialog_id: DialogId::new(Uuid::from_u128(n)), unread: 1, read_seq: 0, last_seq: 0 };
    let version = |number| Version { epoch: 1, number };
    let rows: Vec<Row> = (0..ROWS as u128).map(row).collect();
    let full = Unread { version: version(1), total: 1_000, rows, truncated: false };
    let more = Delta { version: version(2), previous: version(1), rows: vec![(row(5_000), 0)] };
    let hash = Hash::running(include_str!("slot.lua"), std::time::Duration::from_millis(300));
    let mut steps = redis::pipe();
    steps.add_command(hash.load()).ignore().add_command(hash.miss(user_id, 1)).ignore();
    steps.add_command(hash.fill(user_id, 1, &full)).ignore().add_command(hash.read(user_id));
    steps.add_command(hash.apply(user_id, &more)).ignore().add_command(hash.read(user_id));
    let read: Vec<Fields> = steps.query_async(&mut redis).await.unwrap();
    assert_eq!(hash::decode(&read[0]), Some(Slot::Held(full.into())), "in order");
    assert_eq!(hash::decode(&read[1]), Some(Slot::Stub { ticket: None, floor: version(2) }));
    testkit::eventually("the stub is gone", || async {
        hash.read(user_id).query_async::<Fields>(&mut redis.clone()).await.unwrap().is_empty()
    })
    .await;
}
