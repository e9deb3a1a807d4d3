//! The hub's machine against an oracle: random histories of a user's counters, with a log that loses, doubles, reorders
//! and merges events, answers that come late or not at all, restores, and streams that come, dawdle and go.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use futures_util::FutureExt;
use proto::DialogId;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use uuid::Uuid;
use wake::Wake;

use super::{
    entry::Entry,
    frame::{Change, Frame, Kind, Row, Snapshot},
};
use crate::version::Version;

type Rows = BTreeMap<DialogId, Row>;

/// The counter: the truth at every version.
struct Server {
    version: Version,
    rows: Rows,
    history: HashMap<Version, Rows>,
}

impl Server {
    fn new(rng: &mut SmallRng) -> Self {
        let version = Version::new(1, rng.random_range(0..3));
        let mut server = Self { version, rows: Rows::new(), history: HashMap::new() };
        server.history.insert(version, Rows::new());
        for _ in 0..rng.random_range(0..4) {
            server.step(rng);
        }
        server
    }

    /// One transaction that changes this user, and its event.
    fn step(&mut self, rng: &mut SmallRng) -> Change {
        let previous = self.version.number;
        self.version.number += 1;
        let mut rows = Vec::new();
        for number in 0..8_u128 {
            if rng.random_bool(0.25) {
                let dialog = DialogId::new(Uuid::from_u128(number));
                let was = self.rows.get(&dialog).map_or(0, |row| row.unread);
                let unread = if rng.random_bool(0.3) { 0 } else { rng.random_range(0..5) };
                let row = Row { dialog, unread, read_seq: self.version.number, last_seq: 0 };
                self.rows.insert(dialog, row);
                rows.push((row, was));
            }
        }
        self.history.insert(self.version, self.rows.clone());
        Change { version: self.version, previous, rows }
    }

    /// An operator restores an older state: the epoch is raised.
    fn restore(&mut self, rng: &mut SmallRng) {
        let mut versions: Vec<_> = self.history.keys().copied().collect();
        versions.sort();
        let to = versions[rng.random_range(0..versions.len())];
        self.rows = self.history[&to].clone();
        self.version = Version::new(self.version.epoch + 1, to.number);
        self.history.insert(self.version, self.rows.clone());
    }

    fn snapshot(&self, since: Option<Version>) -> Snapshot {
        let rows = self.rows.values().filter(|row| row.unread > 0).copied().collect();
        Snapshot {
            version: self.version,
            total: total(&self.rows),
            rows: (since != Some(self.version)).then_some(rows),
            truncated: false,
        }
    }
}

fn total(rows: &Rows) -> i64 {
    rows.values().map(|row| row.unread).sum()
}

fn unread(rows: &Rows) -> Vec<Row> {
    rows.values().filter(|row| row.unread > 0).copied().collect()
}

/// One event of several, as a log may hold it: the first's `previous` and `was`, the last's version and values.
fn merge(changes: &[Change]) -> Change {
    let mut rows: BTreeMap<DialogId, (Row, i64)> = BTreeMap::new();
    for (row, was) in changes.iter().flat_map(|change| &change.rows) {
        rows.entry(row.dialog).and_modify(|(newest, _)| *newest = *row).or_insert((*row, *was));
    }
    let last = changes.last().expect("some");
    Change { version: last.version, previous: changes[0].previous, rows: rows.into_values().collect() }
}

/// A client: it applies frames by version and nothing else.
struct Client {
    wake: Wake,
    since: Option<Version>,
    version: Option<Version>,
    rows: Rows,
    total: i64,
    lazy: bool,
}

impl Client {
    fn apply(&mut self, frame: &Frame, server: &Server) {
        assert_eq!(frame.previous, self.version, "each frame names the one before");
        assert!(self.version < Some(frame.version), "versions rise: {:?} to {frame:?}", self.version);
        match frame.kind {
            Kind::Snapshot => self.rows = frame.rows.iter().map(|row| (row.dialog, *row)).collect(),
            Kind::Change => self.rows.extend(frame.rows.iter().map(|row| (row.dialog, *row))),
            Kind::Current => {
                assert_eq!(
                    (self.version, self.since),
                    (None, Some(frame.version)),
                    "only as the first frame"
                );
                self.rows = server.history[&frame.version].clone();
            }
        }
        assert!(frame.kind != Kind::Change || self.version.is_some(), "a change is never the first");
        self.version = Some(frame.version);
        self.total = frame.total;
        let truth = &server.history[&frame.version];
        assert_eq!(
            unread(&self.rows),
            unread(truth),
            "the client has what the server had at {}",
            frame.version
        );
        assert_eq!(self.total, total(truth), "the total is the sum");
    }
}

struct World {
    rng: SmallRng,
    server: Server,
    log: Vec<Change>,
    entry: Option<Entry>,
    clients: BTreeMap<u64, Client>,
    answers: Vec<(u64, Snapshot)>,
    next: u64,
    bound: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let server = Server::new(&mut rng);
        let bound = *[3, 8, 1000].get(rng.random_range(0..3)).expect("in bounds");
        let (log, clients, answers) = (Vec::new(), BTreeMap::new(), Vec::new());
        Self { rng, server, log, entry: None, clients, answers, next: 0, bound }
    }

    fn register(&mut self) {
        let version = self.server.version;
        let since = match self.rng.random_range(0..6) {
            0 | 1 => None,
            2 | 3 => Some(version),
            4 => Some(Version::new(version.epoch, (version.number - 2).max(0))),
            _ => Some(Version::new(9, 9)),
        };
        self.next += 1;
        let wake = Wake::new();
        let lazy = self.rng.random_bool(0.3);
        let entry = self.entry.get_or_insert_with(|| Entry::new(self.bound));
        entry.register(self.next, since, wake.clone());
        let client = Client { wake, since, version: None, rows: Rows::new(), total: 0, lazy };
        self.clients.insert(self.next, client);
    }

    fn leave(&mut self) {
        let Some(id) = self.any_client() else { return };
        self.clients.remove(&id);
        if self.entry.as_mut().expect("it had a client").remove(id) {
            self.entry = None;
        }
    }

    fn any_client(&mut self) -> Option<u64> {
        let at = self.rng.random_range(0..self.clients.len().max(1));
        self.clients.keys().nth(at).copied()
    }

    /// Takes events from the log's front: as they are, doubled, swapped, merged, or not at all.
    fn deliver(&mut self) {
        let count = self.rng.random_range(1..=3).min(self.log.len());
        if count == 0 {
            return;
        }
        let mut taken: Vec<Change> = self.log.drain(..count).collect();
        let same_epoch = taken.iter().all(|change| change.version.epoch == taken[0].version.epoch)
            && taken.windows(2).all(|pair| pair[0].version.number == pair[1].previous);
        match self.rng.random_range(0..10) {
            0 => taken.reverse(),
            1 => taken = taken.iter().flat_map(|change| [change.clone(), change.clone()]).collect(),
            2 if same_epoch => taken = vec![merge(&taken)],
            3 if same_epoch => taken.push(merge(&taken)),
            4 => {
                taken.pop();
            }
            5 => taken.extend(taken.clone()),
            _ => {}
        }
        for change in taken {
            if let Some(entry) = &mut self.entry {
                entry.change(change);
            }
        }
    }

    fn ask(&mut self) {
        let Some(entry) = self.entry.as_mut().filter(|entry| entry.wants()) else { return };
        self.next += 1;
        let since = entry.asked(self.next);
        if self.rng.random_bool(0.2) {
            entry.unanswered(self.next);
        } else {
            self.answers.push((self.next, self.server.snapshot(since)));
        }
    }

    fn answer(&mut self) {
        if self.answers.is_empty() {
            return;
        }
        let at = self.rng.random_range(0..self.answers.len());
        let (ticket, snapshot) = self.answers.swap_remove(at);
        if let Some(entry) = &mut self.entry {
            entry.answered(ticket, snapshot);
        }
    }

    /// A client reads, if it was woken, all that there is or one frame.
    fn read(&mut self, id: u64) {
        let (Some(client), Some(entry)) = (self.clients.get_mut(&id), &mut self.entry) else { return };
        if client.wake.raised().now_or_never().is_none() {
            return;
        }
        while let Some(frame) = entry.take(id) {
            client.apply(&frame, &self.server);
        }
    }

    fn step(&mut self) {
        match self.rng.random_range(0..100) {
            0..30 => {
                let change = self.server.step(&mut self.rng);
                self.log.push(change);
            }
            30..32 => self.server.restore(&mut self.rng),
            32..55 => self.deliver(),
            55..65 => self.ask(),
            65..75 => self.answer(),
            75..81 => self.register(),
            81..84 => self.leave(),
            _ => {
                if let Some(id) = self.any_client() {
                    let lazy = self.clients[&id].lazy;
                    if !lazy || self.rng.random_bool(0.1) {
                        self.read(id);
                    }
                }
            }
        }
    }

    /// The log is read to its end, a last change arrives for certain, and everyone reads what they are woken for.
    fn settle(&mut self) {
        while !self.log.is_empty() {
            self.deliver();
        }
        let last = self.server.step(&mut self.rng);
        if let Some(entry) = &mut self.entry {
            entry.change(last);
        }
        for _ in 0..200 {
            self.ask();
            self.answer();
            for id in self.clients.keys().copied().collect::<Vec<_>>() {
                self.read(id);
            }
        }
    }
}

fn run(seed: u64) {
    let mut world = World::new(seed);
    for _ in 0..world.rng.random_range(5..120) {
        world.step();
    }
    world.settle();
    let version = Some(world.server.version);
    for client in world.clients.values() {
        assert_eq!(client.version, version, "everyone has the newest version");
        assert_eq!(unread(&client.rows), unread(&world.server.rows));
        assert_eq!(client.total, total(&world.server.rows));
    }
    if let Some(entry) = world.entry {
        assert_eq!(entry.version(), version);
        assert!(!entry.wants(), "at rest nothing is asked");
    }
}

#[test]
fn whatever_happens_every_subscriber_ends_equal_to_the_server() {
    for seed in 0..10_000 {
        if std::panic::catch_unwind(|| run(seed)).is_err() {
            panic!("seed {seed}");
        }
    }
}

fn change(previous: i64, version: i64, unread: i64, was: i64) -> Change {
    let row = Row { dialog: DialogId::new(Uuid::nil()), unread, read_seq: 0, last_seq: unread };
    Change { version: Version::new(1, version), previous, rows: vec![(row, was)] }
}

fn snapshot(version: Version, total: i64) -> Snapshot {
    Snapshot { version, total, rows: Some(Arc::new([])), truncated: false }
}

fn asked(entry: &mut Entry, ticket: u64) -> Option<Version> {
    assert!(entry.wants());
    entry.asked(ticket)
}

/// An entry whose first stream, 1, has been given a snapshot of 1-5 with a total of 7.
fn at_five() -> Entry {
    let mut entry = Entry::new(1000);
    entry.register(1, None, Wake::new());
    assert_eq!(asked(&mut entry, 100), None);
    entry.answered(100, snapshot(Version::new(1, 5), 7));
    assert_eq!(entry.take(1).expect("a snapshot").kind, Kind::Snapshot);
    entry
}

#[test]
fn a_change_moves_the_total_by_what_was() {
    let mut entry = at_five();
    entry.change(change(5, 6, 3, 1));
    entry.change(change(5, 6, 3, 1));
    let frame = entry.take(1).expect("a change");
    assert_eq!((frame.kind, frame.total, frame.previous), (Kind::Change, 9, Some(Version::new(1, 5))));
    assert_eq!(entry.take(1), None);
}

#[test]
fn changes_that_came_during_the_question_are_laid_over_the_answer() {
    let mut entry = Entry::new(1000);
    entry.register(1, None, Wake::new());
    asked(&mut entry, 1);
    entry.change(change(4, 5, 2, 1));
    entry.change(change(5, 6, 3, 2));
    entry.answered(1, snapshot(Version::new(1, 5), 2));
    let first = entry.take(1).expect("a snapshot");
    let second = entry.take(1).expect("a change");
    assert_eq!((first.version.number, first.total), (5, 2));
    assert_eq!((second.version.number, second.total, second.rows.len()), (6, 3, 1));
    assert!(!entry.wants());
}

#[test]
fn a_gap_asks_again_and_the_answer_goes_to_every_stream() {
    let mut entry = at_five();
    entry.register(2, Some(Version::new(1, 5)), Wake::new());
    asked(&mut entry, 1);
    entry.answered(1, snapshot(Version::new(1, 5), 7));
    assert_eq!(entry.take(2).expect("current").kind, Kind::Current);
    entry.change(change(7, 8, 1, 0));
    assert_eq!((entry.take(1), entry.take(2)), (None, None), "nothing is told that may be wrong");
    asked(&mut entry, 2);
    entry.answered(2, snapshot(Version::new(1, 8), 9));
    for id in [1, 2] {
        let frame = entry.take(id).expect("a snapshot");
        assert_eq!((frame.kind, frame.previous), (Kind::Snapshot, Some(Version::new(1, 5))));
    }
}

#[test]
fn the_version_one_has_is_current_and_any_other_is_a_snapshot() {
    for (since, kind) in [
        (Version::new(1, 5), Kind::Current),
        (Version::new(1, 4), Kind::Snapshot),
        (Version::new(1, 6), Kind::Snapshot),
        (Version::new(0, 5), Kind::Snapshot),
        (Version::new(2, 5), Kind::Snapshot),
    ] {
        let mut entry = Entry::new(1000);
        entry.register(1, Some(since), Wake::new());
        assert_eq!(asked(&mut entry, 1), Some(since), "the counter may leave the rows out");
        entry.answered(1, snapshot(Version::new(1, 5), 7));
        let frame = entry.take(1).expect("a first frame");
        assert_eq!((frame.kind, frame.previous, frame.version.number), (kind, None, 5));
    }
}

#[test]
fn a_higher_epoch_is_a_new_snapshot_and_a_lower_one_is_ignored() {
    let mut entry = at_five();
    let mut foreign = change(5, 6, 1, 0);
    foreign.version.epoch = 0;
    entry.change(foreign.clone());
    assert_eq!((entry.take(1), entry.wants()), (None, false));
    foreign.version = Version::new(2, 3);
    entry.change(foreign);
    assert_eq!(entry.take(1), None);
    asked(&mut entry, 1);
    entry.answered(1, snapshot(Version::new(2, 3), 1));
    assert_eq!(entry.take(1).expect("a snapshot").kind, Kind::Snapshot);
}

#[test]
fn a_stalled_stream_costs_a_bounded_amount_and_skips_to_a_snapshot() {
    let mut entry = at_five();
    for number in 5..5000 {
        let mut event = change(number, number + 1, 1, 0);
        event.rows[0].0.dialog = DialogId::new(Uuid::from_u128(number as u128));
        entry.change(event);
    }
    assert!(!entry.wants(), "it is asked for when the client reads again");
    assert_eq!(entry.take(1), None);
    asked(&mut entry, 1);
    entry.answered(1, snapshot(Version::new(1, 5000), 5002));
    let frame = entry.take(1).expect("a snapshot");
    assert_eq!((frame.kind, frame.version.number, frame.total), (Kind::Snapshot, 5000, 5002));
    entry.change(change(5000, 5001, 1, 0));
    assert_eq!(entry.take(1).expect("a change").total, 5003);
}

#[test]
fn the_answer_to_an_older_question_is_not_heard() {
    let mut entry = Entry::new(1000);
    entry.register(1, None, Wake::new());
    entry.answered(77, snapshot(Version::new(1, 4), 1));
    assert_eq!(entry.take(1), None);
    assert!(entry.wants());
}
