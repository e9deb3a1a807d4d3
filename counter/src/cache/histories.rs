//! Random histories of one cache entry, run on the rules of [`super::entry`] and on the script in a real
//! Redis. After every step both must have the same entry, and its rows must be those that the database
//! had at its version.

use std::{collections::BTreeMap, time::Duration};

use proto::{DialogId, UserId};
use rand::{Rng, SeedableRng, rngs::SmallRng, seq::IndexedRandom};
use redis::{AsyncConnectionConfig, Client, aio::MultiplexedConnection};
use uuid::Uuid;

use super::{
    entry::{Delta, Entry},
    hash::{self, Commands, Fields},
};
use crate::unread::{ROWS_MAX, Row, Unread, Version};

/// Number of steps in a history.
const STEPS: usize = 60;

/// Operation on the entry.
pub(crate) enum Step {
    Miss(u64),
    /// Rows that a miss read from the database, possibly several versions ago.
    Fill(u64, Unread),
    /// An event of the log.
    Apply(Delta),
    /// Eviction, expiry or flush.
    Remove,
}

/// Random sequence of misses, late fills, evictions, and events that are late, repeated, reordered or
/// lost, while the database changes and its epoch is raised after restores.
pub(crate) struct History {
    pub(crate) steps: Vec<Step>,
    database: Database,
}

/// Simulated database of one user: the rows at every version, and the deltas between versions.
struct Database {
    states: BTreeMap<Version, BTreeMap<DialogId, Row>>,
    now: Version,
    deltas: Vec<Delta>,
}

/// Rules of an entry, or a faulty replacement.
pub(crate) type Apply = fn(&Entry, &Delta) -> Option<Entry>;
pub(crate) type Fill = fn(&Entry, u64, &Unread) -> Option<Entry>;

impl Database {
    fn new() -> Self {
        let now = Version { epoch: 1, number: 0 };
        Self { states: BTreeMap::from([(now, BTreeMap::new())]), now, deltas: Vec::new() }
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
                stale: false,
            };
            state.insert(dialog_id, row);
            rows.push((row, was));
        }
        let previous = self.now;
        let version = Version { number: previous.number + 1, ..previous };
        self.states.insert(version, state);
        self.deltas.push(Delta { version, previous, rows });
        self.now = version;
    }

    /// Restores a random older version and raises the epoch.
    fn restore(&mut self, rng: &mut SmallRng) {
        let known: Vec<Version> = self.states.keys().copied().collect();
        let backup = known.choose(rng).expect("the initial version is known");
        self.now = Version { epoch: self.now.epoch + 1, number: backup.number };
        self.states.insert(self.now, self.states[backup].clone());
    }

    fn read(&self, version: Version) -> Option<Unread> {
        let rows: Vec<Row> =
            self.states.get(&version)?.values().filter(|row| row.unread > 0).copied().collect();
        Some(Unread {
            version,
            total: rows.iter().map(|row| row.unread).sum(),
            rows,
            truncated: false,
            stale: false,
        })
    }
}

impl History {
    pub(crate) fn random(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut steps = Vec::new();
        let mut database = Database::new();
        let mut tickets = 0;
        let mut next = 0;
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
                        steps.push(Step::Fill(ticket, unread.expect("only completed reads are chosen")));
                    }
                }
                14..=17 => {
                    // The log is read in order. After a crash some events are read again, and some may
                    // have been removed.
                    next = match rng.random_range(0..20) {
                        0 | 1 => next - next.min(3),
                        2 => next + 1,
                        _ => next,
                    };
                    if let Some(delta) = database.deltas.get(next) {
                        steps.push(Step::Apply(delta.clone()));
                        next += 1;
                    }
                }
                18 => steps.push(Step::Remove),
                _ if rng.random_range(0..4) == 0 => database.restore(&mut rng),
                _ => {}
            }
        }
        Self { steps, database }
    }

    /// Runs the history on the given rules. Returns the entry after every step.
    pub(crate) fn run(&self, apply: Apply, fill: Fill) -> Vec<Option<Entry>> {
        let mut entry: Option<Entry> = None;
        let step = |step: &Step| {
            entry = match (step, entry.take()) {
                (Step::Miss(ticket), entry) => Some(Entry::miss(entry.as_ref(), *ticket)),
                (Step::Fill(ticket, unread), Some(entry)) => fill(&entry, *ticket, unread).or(Some(entry)),
                (Step::Apply(delta), Some(entry)) => apply(&entry, delta).or(Some(entry)),
                (Step::Remove | Step::Fill(..) | Step::Apply(_), _) => None,
            };
            entry.clone()
        };
        self.steps.iter().map(step).collect()
    }

    /// Counts the entries with rows. Returns `None` if the rows of one are not those of its version.
    pub(crate) fn count_hits(&self, entries: &[Option<Entry>]) -> Option<usize> {
        let cached: Vec<Unread> = entries.iter().flatten().filter_map(Entry::unread).collect();
        cached.iter().all(|unread| self.is_correct(unread)).then_some(cached.len())
    }

    fn is_correct(&self, unread: &Unread) -> bool {
        let mut sorted = unread.clone();
        sorted.rows.sort_by_key(|row| row.dialog_id);
        self.database.read(unread.version) == Some(sorted)
    }

    /// Runs the history on Redis. Returns the entry after every step.
    async fn run_on_redis(
        &self,
        redis: &mut MultiplexedConnection,
        commands: &Commands,
    ) -> Vec<Option<Entry>> {
        let user_id = UserId::now();
        let mut all = redis::pipe();
        all.add_command(commands.load()).ignore();
        for step in &self.steps {
            let command = match step {
                Step::Miss(ticket) => commands.miss(user_id, *ticket),
                Step::Fill(ticket, unread) => commands.fill(user_id, *ticket, unread),
                Step::Apply(delta) => commands.apply(user_id, delta),
                Step::Remove => redis::Cmd::del(hash::key(user_id)),
            };
            all.add_command(command).ignore().add_command(commands.read(user_id));
        }
        all.add_command(redis::Cmd::del(hash::key(user_id))).ignore();
        let fields: Vec<Fields> = all.query_async(redis).await.expect("Redis answers");
        fields.iter().map(|fields| hash::decode(fields)).collect()
    }
}

/// Connects to the Redis of the tests, if there is one.
async fn redis() -> Option<MultiplexedConnection> {
    let client = Client::open(testkit::redis_url()?).expect("TEST_REDIS_URL is a URL");
    // By default a busy machine fails the test: a response may take half a second.
    let config = AsyncConnectionConfig::new().set_response_timeout(None);
    let connection = client.get_multiplexed_async_connection_with_config(&config).await;
    Some(connection.expect("TEST_REDIS_URL answers"))
}

#[tokio::test]
async fn the_script_agrees_with_the_rules_after_every_step() {
    const HISTORIES: u64 = 3_000;
    let Some(mut redis) = redis().await else { return };
    let commands = Commands::new();
    let mut hits = 0;
    for seed in 0..HISTORIES {
        let history = History::random(seed);
        let expected = history.run(Entry::apply, Entry::fill);
        let found = history.run_on_redis(&mut redis, &commands).await;
        for (index, (expected, found)) in expected.iter().zip(&found).enumerate() {
            assert_eq!(found, expected, "seed {seed}, after step {index}");
        }
        assert_eq!(expected.len(), found.len());
        hits += history.count_hits(&found).unwrap_or_else(|| panic!("wrong rows with seed {seed}"));
    }
    println!("{HISTORIES} histories of {STEPS} steps on Redis, {hits} hits compared");
    assert!(hits > 10_000, "too few hits to test anything: {hits}");
}

#[tokio::test]
async fn a_faulty_script_is_found() {
    let Some(mut redis) = redis().await else { return };
    // The last three faults keep old rows at their right version, so only the comparison with the rules
    // finds them.
    for (fault, is_wrong, rule, replacement) in [
        ("newer wins", true, "if held ~= previous then return stub(version) end", ""),
        ("a repeated event is applied", false, "held and below(held, version)", "held"),
        ("any fill wins", false, "known[2] ~= ticket or below(version, known[1])", "false"),
        ("a fill below the minimum version wins", false, " or below(version, known[1])", ""),
    ] {
        let script = include_str!("entry.lua");
        assert_eq!(script.matches(rule).count(), 1, "{fault}: the script has the rule");
        let script = script.replace(rule, replacement);
        let commands = Commands::with_script(&script, Duration::from_secs(60));
        let mut differs = 0;
        let mut wrong = 0;
        for seed in 0..300 {
            let history = History::random(seed);
            let found = history.run_on_redis(&mut redis, &commands).await;
            differs += u32::from(found != history.run(Entry::apply, Entry::fill));
            wrong += u32::from(history.count_hits(&found).is_none());
        }
        println!("{fault}: found in {differs} of 300 histories, wrong rows in {wrong}");
        assert!(differs > 0, "{fault}: the script agrees with the rules");
        assert_eq!(wrong > 0, is_wrong, "{fault}: wrong rows at a version in {wrong} histories");
    }
}

#[tokio::test]
async fn an_entry_expires_and_more_than_a_thousand_rows_are_not_cached() {
    let Some(mut redis) = redis().await else { return };
    let user_id = UserId::now();
    let row = |n: u128| Row {
        dialog_id: DialogId::new(Uuid::from_u128(n)),
        unread: 1,
        read_seq: 0,
        last_seq: 0,
        stale: false,
    };
    let version = |number| Version { epoch: 1, number };
    let rows: Vec<Row> = (0..ROWS_MAX as u128).map(row).collect();
    let full = Unread { version: version(1), total: 1_000, rows, truncated: false, stale: false };
    let more = Delta { version: version(2), previous: version(1), rows: vec![(row(5_000), 0)] };
    let commands = Commands::with_script(include_str!("entry.lua"), Duration::from_millis(300));
    let mut steps = redis::pipe();
    steps.add_command(commands.load()).ignore().add_command(commands.miss(user_id, 1)).ignore();
    steps.add_command(commands.fill(user_id, 1, &full)).ignore().add_command(commands.read(user_id));
    steps.add_command(commands.apply(user_id, &more)).ignore().add_command(commands.read(user_id));
    let read: Vec<Fields> = steps.query_async(&mut redis).await.unwrap();
    assert_eq!(hash::decode(&read[0]), Some(Entry::Filled(full.into())), "in order");
    assert_eq!(hash::decode(&read[1]), Some(Entry::Stub { ticket: None, min_version: version(2) }));
    testkit::eventually("the stub has expired", || async {
        commands.read(user_id).query_async::<Fields>(&mut redis.clone()).await.unwrap().is_empty()
    })
    .await;
}
