//! How far a dialog's events were applied: the newest version seen, and the versions below it that were not. A hole does
//! not stop a dialog, since applying events commutes; it is kept here until the events come late or are asked for.

use serde::{Deserialize, Serialize};

/// Ranges kept apart; beyond that the oldest two become one, which asks for more than is missing and loses nothing.
const RANGES: usize = 64;

/// What was applied of a dialog.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// The newest version seen.
    pub version: i64,
    /// The newest message seen, counted or void.
    pub last_seq: i64,
    /// The newest time of a message that was answered as counted.
    pub last_at_us: i64,
    /// The versions below `version` that were not seen.
    pub missing: Missing,
}

/// Ranges of versions, both ends included, ascending, with room between them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing(pub(super) Vec<(i64, i64)>);

impl Applied {
    /// An event of this version came.
    pub fn see(&mut self, version: i64) {
        if version <= self.version {
            self.missing.remove(version);
        } else {
            if version > self.version + 1 {
                self.missing.0.push((self.version + 1, version - 1));
                self.missing.bound();
            }
            self.version = version;
        }
    }

    /// A message of this seq came.
    pub fn see_message(&mut self, seq: i64) {
        self.last_seq = self.last_seq.max(seq);
    }

    /// Everything up to `head` was asked for and applied.
    pub fn repair(&mut self, head: i64) {
        self.missing.0.retain_mut(|(from, to)| {
            *from = (*from).max(head + 1);
            *from <= *to
        });
    }
}

impl Missing {
    /// The first version that is missing.
    pub fn first(&self) -> Option<i64> {
        self.0.first().map(|(from, _)| *from)
    }

    /// Whether nothing is missing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn remove(&mut self, version: i64) {
        let Some(at) = self.0.iter().position(|(from, to)| (*from..=*to).contains(&version)) else { return };
        let (from, to) = self.0.remove(at);
        let rest = [(from, version - 1), (version + 1, to)];
        self.0.splice(at..at, rest.into_iter().filter(|(from, to)| from <= to));
        self.bound();
    }

    fn bound(&mut self) {
        if self.0.len() > RANGES {
            let (from, _) = self.0.remove(0);
            self.0[0].0 = from;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(versions: &[i64]) -> Applied {
        let mut applied = Applied::default();
        versions.iter().for_each(|version| applied.see(*version));
        applied
    }

    #[test]
    fn holes_open_and_close() {
        assert!(after(&[1, 2, 3]).missing.is_empty());
        assert_eq!(after(&[1, 5]).missing, Missing(vec![(2, 4)]));
        assert_eq!(after(&[1, 5, 3]).missing, Missing(vec![(2, 2), (4, 4)]));
        assert_eq!(after(&[3]).missing.first(), Some(1));
        assert_eq!(after(&[3, 1, 2, 2]), after(&[1, 2, 3]));
    }

    #[test]
    fn a_repair_clears_up_to_its_head() {
        let mut applied = after(&[2, 6, 9]);
        applied.repair(7);
        assert_eq!((applied.version, &applied.missing), (9, &Missing(vec![(8, 8)])));
        applied.repair(100);
        assert_eq!((applied.version, applied.missing.is_empty()), (9, true), "the version is what was seen");
    }

    #[test]
    fn ten_thousand_holes_are_kept_in_a_bounded_space() {
        let every_other: Vec<i64> = (1..=10_000).map(|n| n * 2).collect();
        let applied = after(&every_other);
        assert_eq!(applied.missing.0.len(), RANGES);
        assert_eq!(applied.missing.first(), Some(1), "nothing that is missing is forgotten");
    }
}
