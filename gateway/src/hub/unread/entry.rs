//! One user in the hub, as a pure state machine: (epoch, version) and the total, kept exact by each event's `was` without
//! holding the rows; events that do not fit yet; and the user's subscribers. Whatever is lost, doubled, reordered or
//! merged on the way, each subscriber's frames add up to what the counter has (I9): what cannot be computed is asked for.

use std::{collections::BTreeMap, sync::Arc};

use wake::Wake;

use super::{
    frame::{Change, Frame, Row, Snapshot},
    subscriber::Subscriber,
};
use crate::version::Version;

/// Whether the counter is asked for a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ask {
    /// Nobody needs one.
    Idle,
    /// One is needed.
    Wanted,
    /// One is on its way, under this ticket.
    Sent(u64),
}

/// A user with at least one live stream.
#[derive(Debug)]
pub struct Entry {
    head: Option<(Version, i64)>,
    newest: Option<Version>,
    held: BTreeMap<(Version, i64), Vec<(Row, i64)>>,
    held_rows: usize,
    ask: Ask,
    /// By their ids, which grow. Mostly there is one.
    subscribers: Vec<(u64, Subscriber)>,
    bound: usize,
}

impl Entry {
    /// A user without streams. `bound`: how many rows are kept for one stream, and how many of events that do not fit yet.
    pub fn new(bound: usize) -> Self {
        Self {
            head: None,
            newest: None,
            held: BTreeMap::new(),
            held_rows: 0,
            ask: Ask::Idle,
            subscribers: Vec::new(),
            bound,
        }
    }

    /// The version that the hub knows of this user.
    pub fn version(&self) -> Option<Version> {
        self.head.map(|(version, _)| version)
    }

    /// Adds a stream whose reader knows `since`; `id` is above those before. From now on nothing is missed for it.
    pub fn register(&mut self, id: u64, since: Option<Version>, wake: Wake) {
        let floor = self.newest.max(self.version());
        self.subscribers.reserve_exact(1);
        self.subscribers.push((id, Subscriber::new(since, floor, self.bound, wake)));
        self.want_if_needed();
    }

    /// Removes a stream. `true`: it was the last, and this entry can go.
    pub fn remove(&mut self, id: u64) -> bool {
        self.subscribers.retain(|(other, _)| *other != id);
        self.subscribers.is_empty()
    }

    /// How many streams there are.
    pub fn streams(&self) -> usize {
        self.subscribers.len()
    }

    /// The next frame of a stream, where there is one.
    pub fn take(&mut self, id: u64) -> Option<Frame> {
        let at = self.place(id).ok()?;
        let frame = self.subscribers.get_mut(at)?.1.take(self.head);
        if frame.is_none() {
            self.want_if_needed();
        }
        frame
    }

    /// Whether the counter is to be asked.
    pub fn wants(&self) -> bool {
        self.ask == Ask::Wanted
    }

    /// The counter is asked now, under a ticket that nobody had before. Gives the version to name in the question: where
    /// all wait for news of the same version, the rows can be left out of the answer.
    pub fn asked(&mut self, ticket: u64) -> Option<Version> {
        self.ask = Ask::Sent(ticket);
        if self.head.is_some() {
            return None;
        }
        let mut waiting = self.subscribers.iter().filter_map(|(_, subscriber)| subscriber.waiting());
        let since = waiting.next()??;
        waiting.all(|other| other == Some(since)).then_some(since)
    }

    /// The question of this ticket got no answer.
    pub fn unanswered(&mut self, ticket: u64) {
        if self.is_sent(ticket) {
            self.ask = Ask::Idle;
            self.want_if_needed();
        }
    }

    /// The answer to the question of this ticket. One to a question that is not open is not heard: it may be older than
    /// this entry.
    pub fn answered(&mut self, ticket: u64, snapshot: Snapshot) {
        if !self.is_sent(ticket) {
            return;
        }
        self.ask = Ask::Idle;
        let above = self.version().is_none_or(|version| version < snapshot.version);
        // An answer without rows was asked for when there was no head, and nothing but an answer makes one.
        let helps = !above || self.head.is_none() || snapshot.rows.is_some();
        if helps {
            if above {
                self.head = Some((snapshot.version, snapshot.total));
            }
            let snapshot = Arc::new(snapshot);
            for (_, subscriber) in &mut self.subscribers {
                subscriber.snapshot(&snapshot, above);
            }
            self.lay();
        }
        self.want_if_needed();
    }

    /// An event of the log.
    pub fn change(&mut self, change: Change) {
        let version = change.version;
        let epoch = self.newest.max(self.version()).map(|newest| newest.epoch);
        if self.version() >= Some(version) || epoch > Some(version.epoch) {
            return;
        }
        self.newest = self.newest.max(Some(version));
        self.hold(change);
        self.lay();
        self.want_if_needed();
    }

    /// Events are missing: nobody knows how many. Every stream is owed a snapshot of now.
    pub fn refresh(&mut self) {
        if let Some(version) = self.version() {
            self.subscribers.iter_mut().for_each(|(_, subscriber)| subscriber.refresh(version));
        }
        if let Ask::Sent(_) = self.ask {
            // Its answer may be of before.
            self.ask = Ask::Idle;
        }
        self.want_if_needed();
    }

    /// What this stream was given could not be shown: it is owed a snapshot.
    pub fn refresh_one(&mut self, id: u64) {
        if let (Some(version), Ok(at)) = (self.version(), self.place(id)) {
            self.subscribers.get_mut(at).into_iter().for_each(|(_, subscriber)| subscriber.refresh(version));
        }
    }

    fn hold(&mut self, change: Change) {
        let size = change.rows.len().max(1);
        if self.held_rows + size > self.bound {
            // What is dropped here is found missing in `lay`: the newest version is known.
            self.held.clear();
            self.held_rows = 0;
        }
        let fits = size <= self.bound || self.fits(change.version, change.previous);
        if fits && self.held.insert((change.version, change.previous), change.rows).is_none() {
            self.held_rows += size;
        }
    }

    fn fits(&self, version: Version, previous: i64) -> bool {
        self.version() == Some(Version::new(version.epoch, previous))
    }

    /// Applies what fits, one after the other.
    fn lay(&mut self) {
        while let Some((head, total)) = self.head {
            while let Some(entry) = self.held.first_entry().filter(|entry| entry.key().0 <= head) {
                self.held_rows -= entry.remove().len().max(1);
            }
            let next = self.held.keys().find(|(version, previous)| self.fits(*version, *previous)).copied();
            let Some(next) = next else { return };
            let rows = self.held.remove(&next).expect("its key was just found");
            self.held_rows -= rows.len().max(1);
            // Numbers that no counter of ours writes must not end the process either.
            let moved =
                |total: i64, (row, was): &(Row, i64)| total.saturating_add(row.unread.saturating_sub(*was));
            self.head = Some((next.0, rows.iter().fold(total, moved)));
            for (_, subscriber) in &mut self.subscribers {
                subscriber.change(next.0, &rows);
            }
        }
    }

    /// Asks where somebody waits for a snapshot or where events are missing.
    fn want_if_needed(&mut self) {
        let behind = self.newest > self.version();
        let needed = behind || self.subscribers.iter().any(|(_, subscriber)| subscriber.waiting().is_some());
        if needed && self.ask == Ask::Idle {
            self.ask = Ask::Wanted;
        }
    }

    fn place(&self, id: u64) -> Result<usize, usize> {
        self.subscribers.binary_search_by_key(&id, |(id, _)| *id)
    }

    fn is_sent(&self, ticket: u64) -> bool {
        self.ask == Ask::Sent(ticket)
    }
}
