//! One live stream of a user's counters: what its reader has, and what it is owed. Never a queue: rows that changed are
//! kept once each, with their newest values, and beyond a bound a snapshot takes their place.

use std::{collections::BTreeMap, sync::Arc};

use proto::DialogId;
use wake::Wake;

use super::frame::{Frame, Kind, Row, Snapshot};
use crate::version::Version;

#[derive(Debug, Clone, Copy)]
enum State {
    /// A snapshot is asked for. It must be of `floor` at least: what happened before it was not kept here.
    Waiting { since: Option<Version>, floor: Option<Version> },
    /// Owed what changed.
    Live,
    /// Too much changed to be kept: owed a snapshot, which is asked for when the reader comes back.
    Stale,
}

/// The state of one stream.
#[derive(Debug)]
pub struct Subscriber {
    state: State,
    given: Option<Version>,
    owed: Option<(Kind, Arc<Snapshot>)>,
    dirty: BTreeMap<DialogId, (Version, Row)>,
    changes: u64,
    bound: usize,
    wake: Wake,
}

impl Subscriber {
    /// A new one that knows `since`. What happened up to `floor` it has not heard.
    pub fn new(since: Option<Version>, floor: Option<Version>, bound: usize, wake: Wake) -> Self {
        let state = State::Waiting { since, floor };
        Self { state, given: None, owed: None, dirty: BTreeMap::new(), changes: 0, bound, wake }
    }

    /// Whether it waits for a snapshot, and since when it knows.
    pub fn waiting(&self) -> Option<Option<Version>> {
        match self.state {
            State::Waiting { since, .. } => Some(since),
            State::Live | State::Stale => None,
        }
    }

    /// Rows changed; the hub is at `version` now.
    pub fn change(&mut self, version: Version, rows: &[(Row, i64)]) {
        if matches!(self.state, State::Stale) {
            return;
        }
        self.changes += 1;
        self.dirty.extend(rows.iter().map(|(row, _)| (row.dialog, (version, *row))));
        if self.dirty.len() > self.bound {
            self.forget(version);
        }
        self.wake.raise();
    }

    /// What it was told may not be all: only a snapshot of this version or a later one helps now.
    pub fn refresh(&mut self, version: Version) {
        self.forget(version);
        self.wake.raise();
    }

    /// Too much: only a snapshot of this version or a later one helps now.
    fn forget(&mut self, version: Version) {
        self.dirty.clear();
        self.changes = 0;
        self.state = match self.state {
            State::Waiting { since, .. } => State::Waiting { since, floor: Some(version) },
            State::Live | State::Stale => {
                self.owed = None;
                State::Stale
            }
        };
    }

    /// A snapshot came; `above`: it is newer than everything the hub knew.
    pub fn snapshot(&mut self, snapshot: &Arc<Snapshot>, above: bool) {
        let version = snapshot.version;
        let since = match self.state {
            State::Waiting { floor, .. } if floor > Some(version) => return,
            State::Waiting { since, .. } => since,
            State::Live | State::Stale if above => None,
            State::Live | State::Stale => return,
        };
        let kind = match (since == Some(version) && self.given.is_none(), &snapshot.rows) {
            (true, _) => Kind::Current,
            (false, Some(_)) => Kind::Snapshot,
            (false, None) => return,
        };
        self.state = State::Live;
        self.owed = Some((kind, snapshot.clone()));
        self.dirty.retain(|_, (changed, _)| *changed > version);
        self.changes = u64::from(!self.dirty.is_empty());
        self.wake.raise();
    }

    /// The next frame, where one is owed; the hub is at `head`. A reader asks on until there is none. Merges whatever has changed since the frame before.
    pub fn take(&mut self, head: Option<(Version, i64)>) -> Option<Frame> {
        match self.state {
            State::Waiting { .. } => None,
            State::Stale => {
                self.state = State::Waiting { since: None, floor: head.map(|(version, _)| version) };
                None
            }
            State::Live => match self.owed.take() {
                Some((kind, snapshot)) => Some(self.give_snapshot(kind, &snapshot)),
                None => self.give_change(head?),
            },
        }
    }

    fn give_snapshot(&mut self, kind: Kind, snapshot: &Snapshot) -> Frame {
        let rows = snapshot.rows.clone().filter(|_| kind == Kind::Snapshot);
        Frame {
            kind,
            version: snapshot.version,
            previous: self.given.replace(snapshot.version),
            total: snapshot.total,
            rows: rows.unwrap_or_default(),
            truncated: snapshot.truncated && kind == Kind::Snapshot,
            merged: 0,
        }
    }

    fn give_change(&mut self, (version, total): (Version, i64)) -> Option<Frame> {
        if self.given >= Some(version) {
            return None;
        }
        let rows = std::mem::take(&mut self.dirty).into_values().map(|(_, row)| row).collect();
        let merged = std::mem::take(&mut self.changes).saturating_sub(1);
        let previous = self.given.replace(version);
        Some(Frame { kind: Kind::Change, version, previous, total, rows, truncated: false, merged })
    }
}
