//! What travels through the unread hub: changes of the log, snapshots of the counter, and the frames made of them. Read
//! from the wire once, here.

#![warn(clippy::indexing_slicing, clippy::panic)]

use std::sync::Arc;

use proto::{DialogId, InvalidId, UserId, counter, events};

use crate::version::Version;

/// A user's state in one dialog. All numbers are absolute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// The dialog.
    pub dialog: DialogId,
    /// How many messages are unread.
    pub unread: i64,
    /// Up to where the user has read.
    pub read_seq: i64,
    /// The newest message that the counters have seen.
    pub last_seq: i64,
}

/// One event of the log: the rows of a user that changed between two versions, each with its unread count before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The version after it.
    pub version: Version,
    /// The version before it, of the same epoch.
    pub previous: i64,
    /// The rows after it, each with what `unread` was at `previous`.
    pub rows: Vec<(Row, i64)>,
}

impl Change {
    /// Reads an event, with whose it is.
    ///
    /// # Errors
    /// Where an id is none.
    pub fn read(event: &events::UnreadChanged) -> Result<(UserId, Self), InvalidId> {
        let row = |row: &events::UnreadRow| {
            let dialog = DialogId::parse(&row.dialog_id)?;
            Ok((Row { dialog, unread: row.unread, read_seq: row.read_seq, last_seq: row.last_seq }, row.was))
        };
        let rows = event.rows.iter().map(row).collect::<Result<_, _>>()?;
        let version = Version::new(event.epoch, event.version);
        Ok((UserId::parse(&event.user_id)?, Self { version, previous: event.previous, rows }))
    }
}

/// The counter's answer: a user's whole state at a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The version it is of.
    pub version: Version,
    /// The sum of all unread counts, exact.
    pub total: i64,
    /// The rows with something unread; left out where the version is the one that the question named.
    pub rows: Option<Arc<[Row]>>,
    /// There are more rows.
    pub truncated: bool,
}

impl Snapshot {
    /// Reads an answer. `None` where it is not one: an id is none, or the version is missing.
    pub fn read(snapshot: &counter::Snapshot) -> Option<Self> {
        let row = |row: &counter::Row| {
            let dialog = DialogId::parse(&row.dialog_id).ok()?;
            Some(Row { dialog, unread: row.unread, read_seq: row.read_seq, last_seq: row.last_seq })
        };
        let rows: Arc<[Row]> = snapshot.rows.iter().map(row).collect::<Option<_>>()?;
        Some(Self {
            version: snapshot.version?.into(),
            total: snapshot.total,
            rows: (!snapshot.current).then_some(rows),
            truncated: snapshot.truncated,
        })
    }
}

/// What a frame is to its reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The whole state; it replaces what was there.
    Snapshot,
    /// The rows that changed since the frame before.
    Change,
    /// What the subscriber has is the newest.
    Current,
}

/// A frame of a user's live stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub kind: Kind,
    /// The version that its reader has afterwards.
    pub version: Version,
    /// The version of the frame before on this stream.
    pub previous: Option<Version>,
    /// The sum of all unread counts.
    pub total: i64,
    /// The rows, as the kind says.
    pub rows: Arc<[Row]>,
    /// A snapshot with more rows than it shows.
    pub truncated: bool,
    /// How many changes are in this frame beyond the first.
    pub merged: u64,
}
