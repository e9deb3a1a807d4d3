//! One subscriber of a user's counters: the state that its reader has, and what is to be sent to it.
//! There is no queue: a changed row is kept once, with its newest values, and a snapshot replaces more
//! than `rows_max` of them. A slow reader therefore costs a bounded amount of memory.

use std::{collections::BTreeMap, sync::Arc};

use proto::DialogId;
use wake::Wake;

use super::frame::{ChangedRow, Frame, Head, Kind, Row, Snapshot};
use crate::version::Version;

#[derive(Debug, Clone, Copy)]
enum State {
    /// Waits for a snapshot at `min_version` or later. Changes up to `min_version` were not kept for
    /// this subscriber.
    Waiting { since: Option<Version>, min_version: Option<Version> },
    /// Receives changes.
    Live,
    /// Too many rows changed. The snapshot is requested only when the reader takes the next frame, so
    /// that a reader that has stalled causes no requests.
    Stale,
}

/// The state of one subscriber.
#[derive(Debug)]
pub struct Subscriber {
    state: State,
    /// The version of the last frame that was taken.
    sent: Option<Version>,
    /// The next frame, if it is a snapshot or CURRENT.
    snapshot: Option<(Kind, Arc<Snapshot>)>,
    /// The rows that changed after `snapshot`, each with the version of its last change.
    dirty: BTreeMap<DialogId, (Version, Row)>,
    /// The number of changes that are merged into `dirty`.
    changes: u64,
    rows_max: usize,
    wake: Wake,
}

impl Subscriber {
    /// Creates a subscriber whose reader has the state at `since`. It has not received the changes up to
    /// `min_version`.
    pub fn new(since: Option<Version>, min_version: Option<Version>, rows_max: usize, wake: Wake) -> Self {
        Self {
            state: State::Waiting { since, min_version },
            sent: None,
            snapshot: None,
            dirty: BTreeMap::new(),
            changes: 0,
            rows_max,
            wake,
        }
    }

    /// Returns `Some` if the subscriber waits for a snapshot, with the version that its reader has.
    pub fn waiting(&self) -> Option<Option<Version>> {
        match self.state {
            State::Waiting { since, .. } => Some(since),
            State::Live | State::Stale => None,
        }
    }

    /// Adds the changed rows of `version`.
    pub fn apply(&mut self, version: Version, rows: &[ChangedRow]) {
        if matches!(self.state, State::Stale) {
            return;
        }
        self.changes += 1;
        self.dirty.extend(rows.iter().map(|changed| (changed.row.dialog, (version, changed.row))));
        if self.dirty.len() > self.rows_max {
            self.discard(version);
        }
        self.wake.raise();
    }

    /// Replaces everything to be sent by a snapshot at `version` or later, because changes may be
    /// missing.
    pub fn resync(&mut self, version: Version) {
        self.discard(version);
        self.wake.raise();
    }

    fn discard(&mut self, version: Version) {
        self.dirty.clear();
        self.changes = 0;
        self.state = match self.state {
            State::Waiting { since, .. } => State::Waiting { since, min_version: Some(version) },
            State::Live | State::Stale => {
                self.snapshot = None;
                State::Stale
            }
        };
    }

    /// Adds a snapshot. `is_newest`: it is newer than the hub's state, so even a live subscriber may
    /// have missed changes.
    pub fn apply_snapshot(&mut self, snapshot: &Arc<Snapshot>, is_newest: bool) {
        let version = snapshot.version;
        let since = match self.state {
            State::Waiting { min_version, .. } if min_version > Some(version) => return,
            State::Waiting { since, .. } => since,
            State::Live | State::Stale if is_newest => None,
            State::Live | State::Stale => return,
        };
        let is_current = since == Some(version) && self.sent.is_none();
        let kind = match &snapshot.rows {
            _ if is_current => Kind::Current,
            Some(_) => Kind::Snapshot,
            None => return,
        };
        self.state = State::Live;
        self.snapshot = Some((kind, snapshot.clone()));
        self.dirty.retain(|_, (changed, _)| *changed > version);
        self.changes = u64::from(!self.dirty.is_empty());
        self.wake.raise();
    }

    /// Takes the next frame, which merges all changes since the previous one. A reader that is woken
    /// must call this until it returns `None`. `head` is the hub's state of the user.
    pub fn take(&mut self, head: Option<Head>) -> Option<Frame> {
        match self.state {
            State::Waiting { .. } => None,
            State::Stale => {
                let min_version = head.map(|head| head.version);
                self.state = State::Waiting { since: None, min_version };
                None
            }
            State::Live => match self.snapshot.take() {
                Some((kind, snapshot)) => Some(self.snapshot_frame(kind, &snapshot)),
                None => self.change_frame(head?),
            },
        }
    }

    fn snapshot_frame(&mut self, kind: Kind, snapshot: &Snapshot) -> Frame {
        let rows = snapshot.rows.clone().filter(|_| kind == Kind::Snapshot);
        Frame {
            kind,
            version: snapshot.version,
            previous: self.sent.replace(snapshot.version),
            total: snapshot.total,
            rows: rows.unwrap_or_default(),
            truncated: snapshot.truncated && kind == Kind::Snapshot,
            stale: snapshot.stale,
            merged: 0,
        }
    }

    fn change_frame(&mut self, head: Head) -> Option<Frame> {
        let Head { version, total, stale } = head;
        if self.sent >= Some(version) {
            return None;
        }
        let rows = std::mem::take(&mut self.dirty).into_values().map(|(_, row)| row).collect();
        let merged = std::mem::take(&mut self.changes).saturating_sub(1);
        let previous = self.sent.replace(version);
        Some(Frame { kind: Kind::Change, version, previous, total, rows, truncated: false, stale, merged })
    }
}
