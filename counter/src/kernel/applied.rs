//! Applied versions of a dialog: the newest version seen, and the ranges below it that are missing.
//!
//! A gap does not stop a dialog, since applying events commutes (invariant I12, see [`kernel`](super)).
//! Missing ranges are kept until their events arrive late, or until `repair.rs` fetches the changes from
//! the dialog service.

use serde::{Deserialize, Serialize};

/// Maximum number of ranges kept. Beyond it the two oldest are merged, and the range between them counts
/// as missing too: a repair then fetches more than needed, but no missing version is forgotten.
const RANGES_MAX: usize = 64;

/// Versions of a dialog that were applied.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Applied {
    /// Newest version seen.
    pub version: i64,
    /// Newest message in the ledger, counted or void.
    pub last_seq: i64,
    /// Newest time of a message whose saga reply was "counted", in microseconds since the Unix epoch.
    /// Lists are sorted by it.
    pub last_at_us: i64,
    /// Versions below `version` that were not seen.
    pub missing: Missing,
}

/// Missing versions as inclusive ranges, ascending and not adjacent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Missing(pub(super) Vec<(i64, i64)>);

impl Applied {
    /// Records the version of an applied event: fills a gap, or opens one if versions were skipped.
    pub fn record_version(&mut self, version: i64) {
        if version <= self.version {
            self.missing.remove(version);
        } else {
            if version > self.version + 1 {
                self.missing.0.push((self.version + 1, version - 1));
                self.missing.limit();
            }
            self.version = version;
        }
    }

    /// Records that the dialog service is at version `head`: versions up to it that were not seen are
    /// missing, whether their events are lost or only late.
    pub fn expect_up_to(&mut self, head: i64) {
        if head > self.version {
            self.missing.0.push((self.version + 1, head));
            self.missing.join();
            self.missing.limit();
            self.version = head;
        }
    }

    /// Returns true if the event of this version was applied.
    pub fn has_applied(&self, version: i64) -> bool {
        version <= self.version && !self.missing.contains(version)
    }

    /// Records the `seq` of an applied message.
    pub fn record_message(&mut self, seq: i64) {
        self.last_seq = self.last_seq.max(seq);
    }

    /// Removes all gaps up to and including `head`: the dialog service was asked for these changes and
    /// all were applied. `version` stays: only events of the log move it.
    pub fn mark_repaired(&mut self, head: i64) {
        self.missing.0.retain_mut(|(from, to)| {
            *from = (*from).max(head + 1);
            *from <= *to
        });
    }
}

impl Missing {
    /// Returns the lowest missing version.
    pub fn first(&self) -> Option<i64> {
        self.0.first().map(|(from, _)| *from)
    }

    /// Returns true if no version is missing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns true if this version is missing.
    pub fn contains(&self, version: i64) -> bool {
        self.position(version).is_some()
    }

    fn position(&self, version: i64) -> Option<usize> {
        self.0.iter().position(|(from, to)| (*from..=*to).contains(&version))
    }

    fn remove(&mut self, version: i64) {
        let Some(index) = self.position(version) else { return };
        let (from, to) = self.0.remove(index);
        let rest = [(from, version - 1), (version + 1, to)];
        self.0.splice(index..index, rest.into_iter().filter(|(from, to)| from <= to));
        self.limit();
    }

    /// Joins the last two ranges if they are adjacent.
    fn join(&mut self) {
        if let [.., (_, to), (from, last)] = self.0.as_mut_slice()
            && *to + 1 == *from
        {
            *to = *last;
            self.0.pop();
        }
    }

    fn limit(&mut self) {
        if self.0.len() > RANGES_MAX {
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
        versions.iter().for_each(|version| applied.record_version(*version));
        applied
    }

    #[test]
    fn gaps_open_and_close() {
        assert!(after(&[1, 2, 3]).missing.is_empty());
        assert_eq!(after(&[1, 5]).missing, Missing(vec![(2, 4)]));
        assert_eq!(after(&[1, 5, 3]).missing, Missing(vec![(2, 2), (4, 4)]));
        assert_eq!(after(&[3]).missing.first(), Some(1));
        assert_eq!(after(&[3, 1, 2, 2]), after(&[1, 2, 3]));
    }

    #[test]
    fn a_repair_closes_gaps_up_to_its_head() {
        let mut applied = after(&[2, 6, 9]);
        applied.mark_repaired(7);
        assert_eq!((applied.version, &applied.missing), (9, &Missing(vec![(8, 8)])));
        applied.mark_repaired(100);
        assert_eq!(
            (applied.version, applied.missing.is_empty()),
            (9, true),
            "a repair does not move the version"
        );
    }

    #[test]
    fn versions_up_to_the_head_of_the_dialog_are_missing() {
        let mut applied = after(&[1, 2]);
        applied.expect_up_to(2);
        assert_eq!(applied, after(&[1, 2]));
        applied.expect_up_to(5);
        applied.expect_up_to(7);
        assert_eq!((applied.version, &applied.missing), (7, &Missing(vec![(3, 7)])));
        applied.record_version(8);
        assert_eq!(applied.missing, Missing(vec![(3, 7)]), "the next event opens no gap");
        (3..=7).for_each(|version| applied.record_version(version));
        assert!(applied.missing.is_empty(), "late events close it");
    }

    #[test]
    fn ten_thousand_gaps_take_bounded_space() {
        let every_other: Vec<i64> = (1..=10_000).map(|n| n * 2).collect();
        let applied = after(&every_other);
        assert_eq!(applied.missing.0.len(), RANGES_MAX);
        assert_eq!(applied.missing.first(), Some(1), "no missing version is forgotten");
    }
}
