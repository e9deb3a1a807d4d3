//! One user in the hub of unread counts, as a state machine without I/O. It knows the user's version and
//! exact total. An event contains the previous value (`was`) of each changed row, so the total stays
//! exact without keeping the rows.
//!
//! Events may be lost, repeated, reordered or merged: an event that does not continue the current
//! version is buffered, and a missing one is replaced by a snapshot. The frames of every subscriber
//! therefore add up to the counter's state (invariant I9, ARCHITECTURE.md).

use std::{collections::BTreeMap, sync::Arc};

use wake::Wake;

use super::{
    frame::{Change, ChangedRow, Frame, Head, Snapshot},
    subscriber::Subscriber,
};
use crate::version::Version;

/// The state of the request for a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Request {
    None,
    Needed,
    /// In flight, identified by this ticket.
    InFlight(u64),
}

/// An event that does not continue the head yet.
#[derive(Debug)]
struct PendingChange {
    rows: Vec<ChangedRow>,
    stale: bool,
}

impl PendingChange {
    /// Returns its share of the limit: an event without rows takes space, too.
    fn size(&self) -> usize {
        self.rows.len().max(1)
    }
}

/// A user with at least one subscriber.
#[derive(Debug)]
pub struct Entry {
    head: Option<Head>,
    /// The newest version of an event, applied or not. Events are missing while it is above `head`.
    newest: Option<Version>,
    /// Events that do not continue `head` yet, by their version and the number of the version before.
    pending: BTreeMap<(Version, i64), PendingChange>,
    pending_rows: usize,
    request: Request,
    /// Sorted by id. Usually there is one, so a vector is smaller and faster than a map.
    subscribers: Vec<(u64, Subscriber)>,
    rows_max: usize,
}

impl Entry {
    /// Creates a user without subscribers. `rows_max` limits the rows that are kept for one subscriber,
    /// and those of pending events.
    pub fn new(rows_max: usize) -> Self {
        Self {
            head: None,
            newest: None,
            pending: BTreeMap::new(),
            pending_rows: 0,
            request: Request::None,
            subscribers: Vec::new(),
            rows_max,
        }
    }

    /// Returns the version of the hub's state.
    pub fn version(&self) -> Option<Version> {
        self.head.map(|head| head.version)
    }

    /// Returns the newest version that was received, from the log or in a snapshot.
    pub fn known(&self) -> Option<Version> {
        self.newest.max(self.version())
    }

    /// Adds a subscriber whose reader has the state at `since`. From now on it receives every change.
    /// `id` must be greater than all earlier ids.
    pub fn register(&mut self, id: u64, since: Option<Version>, wake: Wake) {
        let min_version = self.known();
        self.subscribers.reserve_exact(1);
        self.subscribers.push((id, Subscriber::new(since, min_version, self.rows_max, wake)));
        self.request_if_needed();
    }

    /// Removes a subscriber. Returns true if it was the last one, so that the entry can be removed.
    pub fn remove(&mut self, id: u64) -> bool {
        self.subscribers.retain(|(other, _)| *other != id);
        self.subscribers.is_empty()
    }

    /// Returns the number of subscribers.
    pub fn subscribers(&self) -> usize {
        self.subscribers.len()
    }

    /// Takes the next frame of a subscriber, if there is one.
    pub fn take(&mut self, id: u64) -> Option<Frame> {
        let index = self.index_of(id).ok()?;
        let frame = self.subscribers.get_mut(index)?.1.take(self.head);
        if frame.is_none() {
            self.request_if_needed();
        }
        frame
    }

    /// Returns true if a snapshot is to be requested.
    pub fn needs_request(&self) -> bool {
        self.request == Request::Needed
    }

    /// Records that a request was sent, under a ticket that was never used before. Returns the version
    /// that the request may name: if all subscribers wait for changes after the same version, the reply
    /// can omit the rows at that version.
    pub fn start_request(&mut self, ticket: u64) -> Option<Version> {
        self.request = Request::InFlight(ticket);
        if self.head.is_some() {
            return None;
        }
        let mut waiting = self.subscribers.iter().filter_map(|(_, subscriber)| subscriber.waiting());
        let since = waiting.next()??;
        waiting.all(|other| other == Some(since)).then_some(since)
    }

    /// Records that the request of this ticket failed.
    pub fn fail_request(&mut self, ticket: u64) {
        if self.is_in_flight(ticket) {
            self.request = Request::None;
            self.request_if_needed();
        }
    }

    /// Applies the reply to the request of this ticket. The reply to any other request is ignored: it
    /// may be older than this entry.
    pub fn finish_request(&mut self, ticket: u64, snapshot: Snapshot) {
        if !self.is_in_flight(ticket) {
            return;
        }
        self.request = Request::None;
        let is_newest = self.version().is_none_or(|version| version < snapshot.version);
        // A reply omits the rows only if the request was sent without a head, and only a reply creates a
        // head.
        let is_usable = !is_newest || self.head.is_none() || snapshot.rows.is_some();
        if is_usable {
            if is_newest {
                let Snapshot { version, total, stale, .. } = snapshot;
                self.head = Some(Head { version, total, stale });
            }
            let snapshot = Arc::new(snapshot);
            for (_, subscriber) in &mut self.subscribers {
                subscriber.apply_snapshot(&snapshot, is_newest);
            }
            self.apply_pending();
        }
        self.request_if_needed();
    }

    /// Applies an event of the log, or buffers it until the missing events arrive.
    pub fn apply(&mut self, change: Change) {
        let version = change.version;
        let epoch = self.known().map(|known| known.epoch);
        if self.version() >= Some(version) || epoch > Some(version.epoch) {
            return;
        }
        self.newest = self.newest.max(Some(version));
        self.buffer(change);
        self.apply_pending();
        self.request_if_needed();
    }

    /// Requests a snapshot of this epoch or a later one. The state of earlier epochs was replaced without
    /// events, so what is known of it is only sent if the snapshot is delayed.
    pub fn raise_epoch(&mut self, epoch: i64) {
        self.newest = self.newest.max(Some(Version::new(epoch, 0)));
        self.request_if_needed();
    }

    /// Sends every subscriber a new snapshot, because an unknown number of events was skipped.
    pub fn resync(&mut self) {
        if let Some(version) = self.version() {
            self.subscribers.iter_mut().for_each(|(_, subscriber)| subscriber.resync(version));
        }
        if let Request::InFlight(_) = self.request {
            // Its reply may be from before the skipped events. A new request has another ticket.
            self.request = Request::None;
        }
        self.request_if_needed();
    }

    /// Sends one subscriber a new snapshot, because its last frame could not be delivered.
    pub fn resync_one(&mut self, id: u64) {
        if let (Some(version), Ok(index)) = (self.version(), self.index_of(id)) {
            self.subscribers
                .get_mut(index)
                .into_iter()
                .for_each(|(_, subscriber)| subscriber.resync(version));
        }
    }

    fn buffer(&mut self, change: Change) {
        let Change { version, previous, rows, stale } = change;
        let pending = PendingChange { rows, stale };
        let size = pending.size();
        if self.pending_rows + size > self.rows_max {
            // No change is lost: `newest` stays above `head`, so `request_if_needed` requests a
            // snapshot.
            self.pending.clear();
            self.pending_rows = 0;
        }
        let is_kept = size <= self.rows_max || self.continues_head(version, previous);
        if is_kept && self.pending.insert((version, previous), pending).is_none() {
            self.pending_rows += size;
        }
    }

    fn continues_head(&self, version: Version, previous: i64) -> bool {
        self.version() == Some(Version::new(version.epoch, previous))
    }

    /// Applies the pending events that continue `head`, in order, and removes those at or below it.
    fn apply_pending(&mut self) {
        while let Some(head) = self.head {
            while let Some(event) = self.pending.first_entry().filter(|event| event.key().0 <= head.version) {
                self.pending_rows -= event.remove().size();
            }
            let mut keys = self.pending.keys().copied();
            let Some(next) = keys.find(|(version, previous)| self.continues_head(*version, *previous)) else {
                return;
            };
            let change = self.pending.remove(&next).expect("the key was just found");
            self.pending_rows -= change.size();
            let PendingChange { rows, stale } = change;
            // Saturating: the counter never writes such numbers, but a corrupt event must not panic the
            // gateway.
            let total = rows.iter().fold(head.total, |total, changed| {
                total.saturating_add(changed.row.unread.saturating_sub(changed.was))
            });
            let version = next.0;
            self.head = Some(Head { version, total, stale });
            for (_, subscriber) in &mut self.subscribers {
                subscriber.apply(version, &rows);
            }
        }
    }

    /// Requests a snapshot if a subscriber waits for one or events are missing.
    fn request_if_needed(&mut self) {
        let is_behind = self.newest > self.version();
        let needed =
            is_behind || self.subscribers.iter().any(|(_, subscriber)| subscriber.waiting().is_some());
        if needed && self.request == Request::None {
            self.request = Request::Needed;
        }
    }

    fn index_of(&self, id: u64) -> Result<usize, usize> {
        self.subscribers.binary_search_by_key(&id, |(id, _)| *id)
    }

    fn is_in_flight(&self, ticket: u64) -> bool {
        self.request == Request::InFlight(ticket)
    }
}
