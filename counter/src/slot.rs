//! What the cache knows of one user, and how a miss, a fill and an event change it: pure, so that every interleaving can be
//! tried.

use std::sync::Arc;

use proto::{DialogId, InvalidId, events::UnreadChanged};

use crate::unread::{ROWS, Row, Unread, Version};

/// One user's place in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Slot {
    /// Nothing is held. Only the fill with this ticket may replace it, and only with a state that is not below the floor.
    Stub { ticket: Option<u64>, floor: Version },
    /// Everything unread of the user, at its version.
    Held(Arc<Unread>),
}

/// A step of a user's version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Delta {
    pub(crate) version: Version,
    pub(crate) previous: Version,
    /// The rows that moved, newest activity first, each with what it was.
    pub(crate) rows: Vec<(Row, i64)>,
}

impl TryFrom<&UnreadChanged> for Delta {
    type Error = InvalidId;

    fn try_from(event: &UnreadChanged) -> Result<Self, InvalidId> {
        let version = |number| Version { epoch: event.epoch, number };
        let row = |row: &proto::events::UnreadRow| {
            let dialog_id = DialogId::parse(&row.dialog_id)?;
            let now = Row { dialog_id, unread: row.unread, read_seq: row.read_seq, last_seq: row.last_seq };
            Ok((now, row.was))
        };
        let rows = event.rows.iter().map(row).collect::<Result<_, InvalidId>>()?;
        Ok(Self { version: version(event.version), previous: version(event.previous), rows })
    }
}

impl Slot {
    /// What is held.
    pub(crate) fn unread(&self) -> Option<Unread> {
        match self {
            Self::Stub { .. } => None,
            Self::Held(unread) => Some(Unread::clone(unread)),
        }
    }

    /// In rows.
    pub(crate) fn weight(&self) -> u32 {
        match self {
            Self::Stub { .. } => 1,
            Self::Held(unread) => 1 + u32::try_from(unread.rows.len()).unwrap_or(u32::MAX - 1),
        }
    }

    /// A stub for the fill with this ticket, in place of whatever was there.
    pub(crate) fn miss(slot: Option<&Self>, ticket: u64) -> Self {
        let floor = match slot {
            None => Version::default(),
            Some(Self::Stub { floor, .. }) => *floor,
            Some(Self::Held(unread)) => unread.version,
        };
        Self::Stub { ticket: Some(ticket), floor }
    }

    /// What the database had, where the stub is that fill's own and no newer version was told since. `None`: no change.
    pub(crate) fn fill(&self, ticket: u64, unread: &Unread) -> Option<Self> {
        match self {
            Self::Stub { ticket: Some(own), floor } if *own == ticket && *floor <= unread.version => {
                Some(Self::Held(Arc::new(unread.clone())))
            }
            _ => None,
        }
    }

    /// After a step of the version. `None`: no change.
    pub(crate) fn apply(&self, delta: &Delta) -> Option<Self> {
        match self {
            Self::Stub { ticket, floor } if delta.version > *floor => {
                Some(Self::Stub { ticket: *ticket, floor: delta.version })
            }
            Self::Held(unread) if delta.version > unread.version => {
                let next = if delta.previous == unread.version { advance(unread, delta) } else { None };
                Some(next.unwrap_or(Self::Stub { ticket: None, floor: delta.version }))
            }
            _ => None,
        }
    }
}

/// Lays the rows that moved over what is held; those that grew come first. `None` where that is too much to hold.
fn advance(unread: &Unread, delta: &Delta) -> Option<Slot> {
    let moved = |row: &Row| delta.rows.iter().find(|(now, _)| now.dialog_id == row.dialog_id);
    let grown = delta.rows.iter().filter(|(now, was)| now.unread > *was).map(|(now, _)| *now);
    let mut rows: Vec<Row> = grown.collect();
    for row in &unread.rows {
        match moved(row) {
            None => rows.push(*row),
            Some((now, was)) if now.unread <= *was && now.unread > 0 => rows.push(*now),
            Some(_) => {}
        }
    }
    let total = rows.iter().map(|row| row.unread).sum();
    let next = Unread { version: delta.version, total, rows, truncated: false };
    (next.rows.len() <= ROWS).then(|| Slot::Held(Arc::new(next)))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::cache::histories::{Apply, Fill, History};

    fn answers(seed: u64, apply: Apply, fill: Fill) -> Option<usize> {
        let history = History::random(seed);
        history.answers(&history.play(apply, fill))
    }

    #[test]
    fn whatever_comes_when_a_version_has_its_own_rows() {
        let answers: usize = (0..20_000)
            .map(|seed| {
                answers(seed, Slot::apply, Slot::fill)
                    .unwrap_or_else(|| panic!("wrong rows with seed {seed}"))
            })
            .sum();
        assert!(answers > 50_000, "the cache held something often enough: {answers}");
    }

    #[test]
    fn newer_wins_gives_wrong_rows_and_is_caught() {
        let newer_wins: Apply = |slot, delta| match slot {
            Slot::Held(unread) if delta.version > unread.version => advance(unread, delta),
            _ => slot.apply(delta),
        };
        assert!((0..1_000).any(|seed| answers(seed, newer_wins, Slot::fill).is_none()));
        let any_fill: Fill = |_, _, unread| Some(Slot::Held(Arc::new(unread.clone())));
        assert!((0..1_000).any(|seed| answers(seed, newer_wins, any_fill).is_none()));
        let repeated: Apply = |slot, delta| match slot {
            Slot::Held(unread) => advance(unread, delta),
            Slot::Stub { .. } => slot.apply(delta),
        };
        assert!((0..1_000).any(|seed| answers(seed, repeated, Slot::fill).is_none()));
    }

    #[test]
    fn a_row_that_grew_comes_first_and_one_that_is_read_goes() {
        let [a, b, c] = [1, 2, 3].map(|n| DialogId::new(Uuid::from_u128(n)));
        let row = |dialog_id, unread| Row { dialog_id, unread, read_seq: 0, last_seq: 0 };
        let version = |number| Version { epoch: 1, number };
        let rows = vec![row(a, 1), row(b, 2)];
        let held = Slot::Held(Arc::new(Unread { version: version(1), total: 3, rows, truncated: false }));
        let rows = vec![(row(c, 1), 0), (row(b, 3), 2), (row(a, 0), 1)];
        let delta = Delta { version: version(2), previous: version(1), rows };
        let next = held.apply(&delta).and_then(|slot| slot.unread()).unwrap();
        assert_eq!((next.rows, next.total), (vec![row(c, 1), row(b, 3)], 4));
    }

    #[test]
    fn more_than_a_thousand_rows_are_not_held() {
        let row = |n: u128| Row {
            dialog_id: DialogId::new(Uuid::from_u128(n)),
            unread: 1,
            read_seq: 0,
            last_seq: 0,
        };
        let version = |number| Version { epoch: 1, number };
        let rows: Vec<Row> = (0..ROWS as u128).map(row).collect();
        let held = Slot::Held(Arc::new(Unread { version: version(1), total: 1_000, rows, truncated: false }));
        let delta = Delta { version: version(2), previous: version(1), rows: vec![(row(5_000), 0)] };
        assert_eq!(held.apply(&delta), Some(Slot::Stub { ticket: None, floor: version(2) }));
    }
}
