//! Model test of the hub's state machine: random histories of a user's counters, compared with the
//! counter's own state. The log loses, repeats, reorders and merges events, replies are late or missing,
//! the counter's database is restored, and subscribers come, read slowly and go.

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
    fault_tests::Fault,
    frame::{Change, ChangedRow, Frame, Kind, Row, Snapshot},
};
use crate::version::Version;

type Rows = BTreeMap<DialogId, Row>;

/// The counter service, with its state at every version.
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

    /// Runs one transaction that changes this user. Returns its event.
    fn step(&mut self, rng: &mut SmallRng) -> Change {
        let previous = self.version.number;
        self.version.number += 1;
        let mut rows = Vec::new();
        for number in 0..8_u128 {
            if rng.random_bool(0.25) {
                let dialog = DialogId::new(Uuid::from_u128(number));
                let was = self.rows.get(&dialog).map_or(0, |row| row.unread);
                let unread = if rng.random_bool(0.3) { 0 } else { rng.random_range(0..5) };
                let stale = rng.random_bool(0.1);
                let row = Row { dialog, unread, read_seq: self.version.number, last_seq: 0, stale };
                self.rows.insert(dialog, row);
                rows.push(ChangedRow { row, was });
            }
        }
        self.history.insert(self.version, self.rows.clone());
        Change { version: self.version, previous, rows, stale: is_stale(&self.rows) }
    }

    /// Restores an older state, which raises the epoch.
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
            stale: is_stale(&self.rows),
        }
    }
}

fn total(rows: &Rows) -> i64 {
    rows.values().map(|row| row.unread).sum()
}

fn is_stale(rows: &Rows) -> bool {
    rows.values().any(|row| row.stale)
}

fn unread(rows: &Rows) -> Vec<Row> {
    rows.values().filter(|row| row.unread > 0).copied().collect()
}

/// Merges consecutive events into one: `previous` and `was` of the first, version and values of the
/// last.
fn merge(changes: &[Change]) -> Change {
    let mut rows: BTreeMap<DialogId, ChangedRow> = BTreeMap::new();
    for changed in changes.iter().flat_map(|change| &change.rows) {
        rows.entry(changed.row.dialog).and_modify(|merged| merged.row = changed.row).or_insert(*changed);
    }
    let last = changes.last().expect("at least one change");
    let rows = rows.into_values().collect();
    Change { version: last.version, previous: changes[0].previous, rows, stale: last.stale }
}

/// A client, which applies frames by version.
struct Client {
    wake: Wake,
    since: Option<Version>,
    version: Option<Version>,
    rows: Rows,
    total: i64,
    is_slow: bool,
}

impl Client {
    fn apply(&mut self, frame: &Frame, server: &Server) {
        assert_eq!(frame.previous, self.version, "each frame names the previous one");
        assert!(self.version < Some(frame.version), "versions increase: {:?} to {frame:?}", self.version);
        match frame.kind {
            Kind::Snapshot => self.rows = frame.rows.iter().map(|row| (row.dialog, *row)).collect(),
            Kind::Change => self.rows.extend(frame.rows.iter().map(|row| (row.dialog, *row))),
            Kind::Current => {
                assert_eq!(
                    (self.version, self.since),
                    (None, Some(frame.version)),
                    "CURRENT is the first frame"
                );
                self.rows = server.history[&frame.version].clone();
            }
        }
        assert!(frame.kind != Kind::Change || self.version.is_some(), "a change is never the first frame");
        self.version = Some(frame.version);
        self.total = frame.total;
        let expected = &server.history[&frame.version];
        assert_eq!(unread(&self.rows), unread(expected), "client and server agree at {}", frame.version);
        assert_eq!(self.total, total(expected), "the total is the sum");
        assert_eq!(frame.stale, is_stale(expected), "a total that may be wrong says so");
    }
}

struct Simulation {
    rng: SmallRng,
    server: Server,
    log: Vec<Change>,
    entry: Option<Entry>,
    clients: BTreeMap<u64, Client>,
    /// Replies in flight, by the ticket of their request.
    replies: Vec<(u64, Snapshot)>,
    last_id: u64,
    rows_max: usize,
    fault: Option<Fault>,
}

impl Simulation {
    fn new(seed: u64, fault: Option<Fault>) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let server = Server::new(&mut rng);
        let rows_max = *[3, 8, 1000].get(rng.random_range(0..3)).expect("the index is in range");
        Self {
            rng,
            server,
            log: Vec::new(),
            entry: None,
            clients: BTreeMap::new(),
            replies: Vec::new(),
            last_id: 0,
            rows_max,
            fault,
        }
    }

    fn register(&mut self) {
        let version = self.server.version;
        let since = match self.rng.random_range(0..6) {
            0 | 1 => None,
            2 | 3 => Some(version),
            4 => Some(Version::new(version.epoch, (version.number - 2).max(0))),
            _ => Some(Version::new(9, 9)),
        };
        self.last_id += 1;
        let wake = Wake::new();
        let is_slow = self.rng.random_bool(0.3);
        let entry = self.entry.get_or_insert_with(|| Entry::new(self.rows_max));
        let trusted = since.filter(|_| self.fault == Some(Fault::ResumeTrusted)).map(|_| version);
        entry.register(self.last_id, trusted.or(since), wake.clone());
        let client = Client { wake, since, version: None, rows: Rows::new(), total: 0, is_slow };
        self.clients.insert(self.last_id, client);
    }

    fn leave(&mut self) {
        let Some(id) = self.any_client() else { return };
        self.clients.remove(&id);
        if self.entry.as_mut().expect("an entry with a client exists").remove(id) {
            self.entry = None;
        }
    }

    fn any_client(&mut self) -> Option<u64> {
        let index = self.rng.random_range(0..self.clients.len().max(1));
        self.clients.keys().nth(index).copied()
    }

    /// Delivers events from the front of the log: unchanged, repeated, reordered, merged, or with one
    /// missing.
    fn deliver(&mut self) {
        let count = self.rng.random_range(1..=3).min(self.log.len());
        if count == 0 {
            return;
        }
        let mut taken: Vec<Change> = self.log.drain(..count).collect();
        let are_consecutive = taken.iter().all(|change| change.version.epoch == taken[0].version.epoch)
            && taken.windows(2).all(|pair| pair[0].version.number == pair[1].previous);
        match self.rng.random_range(0..10) {
            0 => taken.reverse(),
            1 => taken = taken.iter().flat_map(|change| [change.clone(), change.clone()]).collect(),
            2 if are_consecutive => taken = vec![merge(&taken)],
            3 if are_consecutive => taken.push(merge(&taken)),
            4 => {
                taken.pop();
            }
            5 => taken.extend(taken.clone()),
            _ => {}
        }
        for change in taken {
            self.apply(change);
        }
    }

    fn apply(&mut self, change: Change) {
        let Some(entry) = &mut self.entry else { return };
        match self.fault {
            Some(fault) => entry.apply(fault.change(change, entry.version())),
            None => entry.apply(change),
        }
    }

    fn request(&mut self) {
        let Some(entry) = self.entry.as_mut().filter(|entry| entry.needs_request()) else { return };
        self.last_id += 1;
        let since = entry.start_request(self.last_id);
        if self.rng.random_bool(0.2) {
            if self.fault != Some(Fault::FailureForgotten) {
                entry.fail_request(self.last_id);
            }
        } else {
            self.replies.push((self.last_id, self.server.snapshot(since)));
        }
    }

    fn reply(&mut self) {
        if self.replies.is_empty() {
            return;
        }
        let index = self.rng.random_range(0..self.replies.len());
        let (ticket, snapshot) = self.replies.swap_remove(index);
        if let Some(entry) = &mut self.entry {
            entry.finish_request(ticket, snapshot);
        }
    }

    /// Lets a client take all frames if it was woken.
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
            55..65 => self.request(),
            65..75 => self.reply(),
            75..81 => self.register(),
            81..84 => self.leave(),
            _ => {
                if let Some(id) = self.any_client() {
                    let is_slow = self.clients[&id].is_slow;
                    if !is_slow || self.rng.random_bool(0.1) {
                        self.read(id);
                    }
                }
            }
        }
    }

    /// Delivers the rest of the log and one last change, and lets every client read until nothing
    /// happens any more.
    fn settle(&mut self) {
        while !self.log.is_empty() {
            self.deliver();
        }
        let last = self.server.step(&mut self.rng);
        self.apply(last);
        for _ in 0..200 {
            self.request();
            self.reply();
            for id in self.clients.keys().copied().collect::<Vec<_>>() {
                self.read(id);
            }
        }
    }
}

pub(super) fn run(seed: u64, fault: Option<Fault>) {
    let mut simulation = Simulation::new(seed, fault);
    for _ in 0..simulation.rng.random_range(5..120) {
        simulation.step();
    }
    simulation.settle();
    let version = Some(simulation.server.version);
    for client in simulation.clients.values() {
        assert_eq!(client.version, version, "every client has the newest version");
        assert_eq!(unread(&client.rows), unread(&simulation.server.rows));
        assert_eq!(client.total, total(&simulation.server.rows));
    }
    if let Some(entry) = simulation.entry {
        assert_eq!(entry.version(), version);
        assert!(!entry.needs_request(), "no request is needed at rest");
    }
}

#[test]
fn every_subscriber_ends_equal_to_the_server_in_any_history() {
    for seed in 0..10_000 {
        if std::panic::catch_unwind(|| run(seed, None)).is_err() {
            panic!("seed {seed}");
        }
    }
}

fn change(previous: i64, version: i64, unread: i64, was: i64) -> Change {
    let row = Row { dialog: DialogId::new(Uuid::nil()), unread, read_seq: 0, last_seq: unread, stale: false };
    Change { version: Version::new(1, version), previous, rows: vec![ChangedRow { row, was }], stale: false }
}

fn snapshot(version: Version, total: i64) -> Snapshot {
    Snapshot { version, total, rows: Some(Arc::new([])), truncated: false, stale: false }
}

fn start_request(entry: &mut Entry, ticket: u64) -> Option<Version> {
    assert!(entry.needs_request());
    entry.start_request(ticket)
}

/// Creates an entry whose only subscriber, 1, has taken a snapshot of version 1-5 with a total of 7.
fn entry_at_version_5() -> Entry {
    let mut entry = Entry::new(1000);
    entry.register(1, None, Wake::new());
    assert_eq!(start_request(&mut entry, 100), None);
    entry.finish_request(100, snapshot(Version::new(1, 5), 7));
    assert_eq!(entry.take(1).expect("a snapshot").kind, Kind::Snapshot);
    entry
}

#[test]
fn a_repeated_change_moves_the_total_once() {
    let mut entry = entry_at_version_5();
    entry.apply(change(5, 6, 3, 1));
    entry.apply(change(5, 6, 3, 1));
    let frame = entry.take(1).expect("a change");
    assert_eq!((frame.kind, frame.total, frame.previous), (Kind::Change, 9, Some(Version::new(1, 5))));
    assert_eq!(entry.take(1), None);
}

#[test]
fn changes_during_a_request_are_applied_on_top_of_its_reply() {
    let mut entry = Entry::new(1000);
    entry.register(1, None, Wake::new());
    start_request(&mut entry, 1);
    entry.apply(change(4, 5, 2, 1));
    entry.apply(change(5, 6, 3, 2));
    entry.finish_request(1, snapshot(Version::new(1, 5), 2));
    let first = entry.take(1).expect("a snapshot");
    let second = entry.take(1).expect("a change");
    assert_eq!((first.version.number, first.total), (5, 2));
    assert_eq!((second.version.number, second.total, second.rows.len()), (6, 3, 1));
    assert!(!entry.needs_request());
}

#[test]
fn a_gap_requests_a_snapshot_for_every_subscriber() {
    let mut entry = entry_at_version_5();
    entry.register(2, Some(Version::new(1, 5)), Wake::new());
    start_request(&mut entry, 1);
    entry.finish_request(1, snapshot(Version::new(1, 5), 7));
    assert_eq!(entry.take(2).expect("current").kind, Kind::Current);
    entry.apply(change(7, 8, 1, 0));
    assert_eq!((entry.take(1), entry.take(2)), (None, None), "no frame is built from incomplete state");
    start_request(&mut entry, 2);
    entry.finish_request(2, snapshot(Version::new(1, 8), 9));
    for id in [1, 2] {
        let frame = entry.take(id).expect("a snapshot");
        assert_eq!((frame.kind, frame.previous), (Kind::Snapshot, Some(Version::new(1, 5))));
    }
}

#[test]
fn the_newest_since_is_current_and_any_other_is_a_snapshot() {
    for (since, kind) in [
        (Version::new(1, 5), Kind::Current),
        (Version::new(1, 4), Kind::Snapshot),
        (Version::new(1, 6), Kind::Snapshot),
        (Version::new(0, 5), Kind::Snapshot),
        (Version::new(2, 5), Kind::Snapshot),
    ] {
        let mut entry = Entry::new(1000);
        entry.register(1, Some(since), Wake::new());
        assert_eq!(start_request(&mut entry, 1), Some(since), "the counter may omit the rows");
        entry.finish_request(1, snapshot(Version::new(1, 5), 7));
        let frame = entry.take(1).expect("a first frame");
        assert_eq!((frame.kind, frame.previous, frame.version.number), (kind, None, 5));
    }
}

#[test]
fn a_higher_epoch_requests_a_snapshot_and_a_lower_one_is_ignored() {
    let mut entry = entry_at_version_5();
    let mut other_epoch = change(5, 6, 1, 0);
    other_epoch.version.epoch = 0;
    entry.apply(other_epoch.clone());
    assert_eq!((entry.take(1), entry.needs_request()), (None, false));
    other_epoch.version = Version::new(2, 3);
    entry.apply(other_epoch);
    assert_eq!(entry.take(1), None);
    start_request(&mut entry, 1);
    entry.finish_request(1, snapshot(Version::new(2, 3), 1));
    assert_eq!(entry.take(1).expect("a snapshot").kind, Kind::Snapshot);
}

#[test]
fn a_raised_epoch_replaces_the_state_without_an_event_of_the_user() {
    let mut entry = entry_at_version_5();
    entry.raise_epoch(1);
    assert!(!entry.needs_request(), "the epoch is known");
    entry.raise_epoch(7);
    start_request(&mut entry, 1);
    entry.apply(change(5, 6, 3, 1));
    assert_eq!(entry.take(1), None, "a change of the old epoch");
    entry.finish_request(1, snapshot(Version::new(7, 2), 4));
    let frame = entry.take(1).expect("a snapshot");
    assert_eq!((frame.kind, frame.version, frame.total), (Kind::Snapshot, Version::new(7, 2), 4));
    assert!(!entry.needs_request());
}

#[test]
fn a_stalled_subscriber_skips_to_a_snapshot() {
    let mut entry = entry_at_version_5();
    for number in 5..5000 {
        let mut event = change(number, number + 1, 1, 0);
        event.rows[0].row.dialog = DialogId::new(Uuid::from_u128(number as u128));
        entry.apply(event);
    }
    assert!(!entry.needs_request(), "the snapshot is requested when the client reads again");
    assert_eq!(entry.take(1), None);
    start_request(&mut entry, 1);
    entry.finish_request(1, snapshot(Version::new(1, 5000), 5002));
    let frame = entry.take(1).expect("a snapshot");
    assert_eq!((frame.kind, frame.version.number, frame.total), (Kind::Snapshot, 5000, 5002));
    entry.apply(change(5000, 5001, 1, 0));
    assert_eq!(entry.take(1).expect("a change").total, 5003);
}

#[test]
fn a_reply_to_an_unknown_request_is_ignored() {
    let mut entry = Entry::new(1000);
    entry.register(1, None, Wake::new());
    entry.finish_request(77, snapshot(Version::new(1, 4), 1));
    assert_eq!(entry.take(1), None);
    assert!(entry.needs_request());
}
