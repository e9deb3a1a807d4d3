//! Cache entry of one user, and the pure rules of a miss, a fill and an event. The map in memory runs
//! them; the script in Redis (`entry.lua`) is tested against them with random histories.
//!
//! "Newer version wins" is not enough: a fill that read the database before an event and arrives after
//! it would store old rows, and a later event would then give wrong rows at a right version. Hence the
//! stub, its ticket and its minimum version (docs/decisions/0007-redis-cache.md has the measurement).

use std::sync::Arc;

use proto::{
    DialogId, InvalidId,
    events::{UnreadChanged, UnreadRow},
};

use crate::unread::{ROWS_MAX, Row, Unread, Version};

/// Cache entry of one user.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Entry {
    /// No rows. Only the fill with this ticket may replace the stub, and only with rows of `min_version`
    /// or later.
    Stub {
        /// Fill that may replace the stub.
        ticket: Option<u64>,
        /// Newest version known of the user.
        min_version: Version,
    },
    /// All unread rows of the user at their version.
    Filled(Arc<Unread>),
}

/// Change of a user's rows between two consecutive versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delta {
    /// Version after the change.
    pub version: Version,
    /// Version before the change.
    pub previous: Version,
    /// Changed rows, newest activity first, each with its unread count before the change.
    pub rows: Vec<(Row, i64)>,
}

impl TryFrom<&UnreadChanged> for Delta {
    type Error = InvalidId;

    fn try_from(event: &UnreadChanged) -> Result<Self, InvalidId> {
        let version = |number| Version { epoch: event.epoch, number };
        let row = |row: &UnreadRow| {
            let dialog_id = DialogId::parse(&row.dialog_id)?;
            let &UnreadRow { unread, was, read_seq, last_seq, stale, .. } = row;
            Ok((Row { dialog_id, unread, read_seq, last_seq, stale }, was))
        };
        let rows = event.rows.iter().map(row).collect::<Result<_, InvalidId>>()?;
        Ok(Self { version: version(event.version), previous: version(event.previous), rows })
    }
}

impl Entry {
    /// Returns the cached rows, if any.
    pub fn unread(&self) -> Option<Unread> {
        match self {
            Self::Stub { .. } => None,
            Self::Filled(unread) => Some(Unread::clone(unread)),
        }
    }

    /// Returns the size in rows. A stub counts as one row, so that stubs are bounded too.
    pub(crate) fn weight(&self) -> u32 {
        match self {
            Self::Stub { .. } => 1,
            Self::Filled(unread) => 1 + u32::try_from(unread.rows.len()).unwrap_or(u32::MAX - 1),
        }
    }

    /// Replaces any entry with a stub for the fill with this ticket. The stub keeps the newest version
    /// known.
    pub fn miss(entry: Option<&Self>, ticket: u64) -> Self {
        let min_version = match entry {
            None => Version::default(),
            Some(Self::Stub { min_version, .. }) => *min_version,
            Some(Self::Filled(unread)) => unread.version,
        };
        Self::Stub { ticket: Some(ticket), min_version }
    }

    /// Returns the entry with rows from the database, if this is the stub of that fill and no newer
    /// version has been seen since. Returns `None` for no change.
    pub fn fill(&self, ticket: u64, unread: &Unread) -> Option<Self> {
        match self {
            Self::Stub { ticket: Some(expected), min_version }
                if *expected == ticket && *min_version <= unread.version =>
            {
                Some(Self::Filled(Arc::new(unread.clone())))
            }
            _ => None,
        }
    }

    /// Returns the entry after a delta, or `None` for no change. A delta at or below the entry's version
    /// is a repetition; one that does not follow the entry's version directly makes it a stub, because a
    /// delta in between is missing.
    pub fn apply(&self, delta: &Delta) -> Option<Self> {
        match self {
            Self::Stub { ticket, min_version } if delta.version > *min_version => {
                Some(Self::Stub { ticket: *ticket, min_version: delta.version })
            }
            Self::Filled(unread) if delta.version > unread.version => {
                let next = if delta.previous == unread.version { advance(unread, delta) } else { None };
                Some(next.unwrap_or(Self::Stub { ticket: None, min_version: delta.version }))
            }
            _ => None,
        }
    }
}

/// Applies a delta to rows of the version before it. Rows that grew come first. Returns `None` above
/// [`ROWS_MAX`] rows.
fn advance(unread: &Unread, delta: &Delta) -> Option<Entry> {
    let changed = |row: &Row| delta.rows.iter().find(|(now, _)| now.dialog_id == row.dialog_id);
    let grown = delta.rows.iter().filter(|(now, was)| now.unread > *was).map(|(now, _)| *now);
    let mut rows: Vec<Row> = grown.collect();
    for row in &unread.rows {
        match changed(row) {
            None => rows.push(*row),
            Some((now, was)) if now.unread <= *was && now.unread > 0 => rows.push(*now),
            Some(_) => {}
        }
    }
    let total = rows.iter().map(|row| row.unread).sum();
    let next = Unread { version: delta.version, total, rows, truncated: false, stale: false };
    (next.rows.len() <= ROWS_MAX).then(|| Entry::Filled(Arc::new(next)))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::cache::histories::{Apply, Fill, History};

    /// Returns the number of hits in the history of a seed, or `None` if one of them has wrong rows.
    fn hits(seed: u64, apply: Apply, fill: Fill) -> Option<usize> {
        let history = History::random(seed);
        history.count_hits(&history.run(apply, fill))
    }

    #[test]
    fn rows_always_belong_to_their_version() {
        let hits: usize = (0..20_000)
            .map(|seed| {
                hits(seed, Entry::apply, Entry::fill).unwrap_or_else(|| panic!("wrong rows with seed {seed}"))
            })
            .sum();
        assert!(hits > 50_000, "too few hits to test anything: {hits}");
    }

    #[test]
    fn newer_version_wins_gives_wrong_rows_and_is_found() {
        let newer_wins: Apply = |entry, delta| match entry {
            Entry::Filled(unread) if delta.version > unread.version => advance(unread, delta),
            _ => entry.apply(delta),
        };
        assert!((0..1_000).any(|seed| hits(seed, newer_wins, Entry::fill).is_none()));
        let any_fill: Fill = |_, _, unread| Some(Entry::Filled(Arc::new(unread.clone())));
        assert!((0..1_000).any(|seed| hits(seed, newer_wins, any_fill).is_none()));
        let repeated: Apply = |entry, delta| match entry {
            Entry::Filled(unread) => advance(unread, delta),
            Entry::Stub { .. } => entry.apply(delta),
        };
        assert!((0..1_000).any(|seed| hits(seed, repeated, Entry::fill).is_none()));
    }

    #[test]
    fn a_row_that_grew_comes_first_and_a_read_row_is_removed() {
        let [a, b, c] = [1, 2, 3].map(|n| DialogId::new(Uuid::from_u128(n)));
        let row = |dialog_id, unread| Row { dialog_id, unread, read_seq: 0, last_seq: 0, stale: false };
        let version = |number| Version { epoch: 1, number };
        let rows = vec![row(a, 1), row(b, 2)];
        let unread = Unread { version: version(1), total: 3, rows, truncated: false, stale: false };
        let rows = vec![(row(c, 1), 0), (row(b, 3), 2), (row(a, 0), 1)];
        let delta = Delta { version: version(2), previous: version(1), rows };
        let next = Entry::Filled(Arc::new(unread)).apply(&delta).and_then(|entry| entry.unread()).unwrap();
        assert_eq!((next.rows, next.total), (vec![row(c, 1), row(b, 3)], 4));
    }

    #[test]
    fn more_than_a_thousand_rows_are_not_cached() {
        let row = |n: u128| Row {
            dialog_id: DialogId::new(Uuid::from_u128(n)),
            unread: 1,
            read_seq: 0,
            last_seq: 0,
            stale: false,
        };
        let version = |number| Version { epoch: 1, number };
        let rows: Vec<Row> = (0..ROWS_MAX as u128).map(row).collect();
        let unread = Unread { version: version(1), total: 1_000, rows, truncated: false, stale: false };
        let delta = Delta { version: version(2), previous: version(1), rows: vec![(row(5_000), 0)] };
        let stub = Entry::Stub { ticket: None, min_version: version(2) };
        assert_eq!(Entry::Filled(Arc::new(unread)).apply(&delta), Some(stub));
    }
}
