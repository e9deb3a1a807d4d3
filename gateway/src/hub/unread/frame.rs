//! Values of the hub of unread counts: changes from the log, snapshots from the counter service, and the
//! frames built from them. Protobuf messages are parsed here and nowhere else.

#![warn(clippy::indexing_slicing, clippy::panic)]

use std::sync::Arc;

use proto::{DialogId, InvalidId, UserId, counter, events};

use crate::version::Version;

/// The newest known state of a user.
#[derive(Debug, Clone, Copy)]
pub struct Head {
    /// The version of the state.
    pub version: Version,
    /// The sum of all unread counts.
    pub total: i64,
    /// True if the sum may be wrong, because events of one of the user's dialogs are missing.
    pub stale: bool,
}

/// The caller's counter of one dialog. All numbers are absolute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// The dialog.
    pub dialog: DialogId,
    /// The number of unread messages.
    pub unread: i64,
    /// The `seq` of the newest message that the user has read.
    pub read_seq: i64,
    /// The `seq` of the newest message that the counter service has seen.
    pub last_seq: i64,
    /// True if the numbers may be wrong, because events of the dialog are missing.
    pub stale: bool,
}

/// A row that changed, with its unread count before the change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChangedRow {
    /// The row after the change.
    pub row: Row,
    /// The unread count before the change.
    pub was: i64,
}

/// An event of the log: the rows of a user that changed between two versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The version after the change.
    pub version: Version,
    /// The number of the version before the change. Its epoch is that of `version`.
    pub previous: i64,
    /// The rows that changed.
    pub rows: Vec<ChangedRow>,
    /// True if the total may be wrong at `version`.
    pub stale: bool,
}

impl Change {
    /// Parses an event. Returns its user and the change.
    ///
    /// # Errors
    /// [`InvalidId`] if an id is malformed.
    pub fn from_event(event: &events::UnreadChanged) -> Result<(UserId, Self), InvalidId> {
        let row = |row: &events::UnreadRow| {
            let dialog = DialogId::parse(&row.dialog_id)?;
            let &events::UnreadRow { unread, was, read_seq, last_seq, stale, .. } = row;
            Ok(ChangedRow { row: Row { dialog, unread, read_seq, last_seq, stale }, was })
        };
        let rows = event.rows.iter().map(row).collect::<Result<_, _>>()?;
        let version = Version::new(event.epoch, event.version);
        Ok((
            UserId::parse(&event.user_id)?,
            Self { version, previous: event.previous, rows, stale: event.stale },
        ))
    }
}

/// A user's whole state at a version, as the counter service returned it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The version of the state.
    pub version: Version,
    /// The sum of all unread counts, exact.
    pub total: i64,
    /// The rows that have unread messages. `None` if `version` is the one that the request named.
    pub rows: Option<Arc<[Row]>>,
    /// True if there are more rows.
    pub truncated: bool,
    /// True if the total may be wrong.
    pub stale: bool,
}

impl Snapshot {
    /// Parses a reply of the counter service. Returns `None` if an id is malformed or the version is
    /// missing.
    pub fn from_reply(snapshot: &counter::Snapshot) -> Option<Self> {
        let row = |row: &counter::Row| {
            let dialog = DialogId::parse(&row.dialog_id).ok()?;
            let &counter::Row { unread, read_seq, last_seq, stale, .. } = row;
            Some(Row { dialog, unread, read_seq, last_seq, stale })
        };
        let rows: Arc<[Row]> = snapshot.rows.iter().map(row).collect::<Option<_>>()?;
        Some(Self {
            version: snapshot.version?.into(),
            total: snapshot.total,
            rows: (!snapshot.current).then_some(rows),
            truncated: snapshot.truncated,
            stale: snapshot.stale,
        })
    }
}

/// The kind of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The whole state, which replaces the reader's state.
    Snapshot,
    /// The rows that changed since the previous frame.
    Change,
    /// The reader's state is the newest.
    Current,
}

/// A frame of a subscription to a user's counters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The kind of the frame.
    pub kind: Kind,
    /// The version of the reader's state after the frame.
    pub version: Version,
    /// The version of the previous frame of this subscription.
    pub previous: Option<Version>,
    /// The sum of all unread counts.
    pub total: i64,
    /// All rows of a snapshot, the changed rows of a change, none if current.
    pub rows: Arc<[Row]>,
    /// True if a snapshot omits rows.
    pub truncated: bool,
    /// True if the total may be wrong.
    pub stale: bool,
    /// The number of changes that were merged into this frame, without the first.
    pub merged: u64,
}
