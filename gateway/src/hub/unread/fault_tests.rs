//! Mutation tests of the hub: each fault breaks one rule of an entry, and the random histories must find it.

use super::{frame::Change, histories::run};
use crate::version::Version;

/// Number of histories within which every fault must be found.
const HISTORIES: u64 = 500;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Every event seems to continue the state.
    GapUnnoticed,
    /// Counts before a change are taken for zero.
    PreviousCountIgnored,
    /// A changed row is not kept.
    RowForgotten,
    /// An event of another epoch is applied.
    EpochIgnored,
    /// A change does not say that its total may be wrong.
    StaleForgotten,
    /// A request that failed is waited for.
    FailureForgotten,
    /// A client that resumes is taken for one with the newest state.
    ResumeTrusted,
}

impl Fault {
    const ALL: [Self; 7] = [
        Self::GapUnnoticed,
        Self::PreviousCountIgnored,
        Self::RowForgotten,
        Self::EpochIgnored,
        Self::StaleForgotten,
        Self::FailureForgotten,
        Self::ResumeTrusted,
    ];

    /// Returns the change that an entry with this fault would apply at a version.
    pub(super) fn change(self, mut change: Change, version: Option<Version>) -> Change {
        match (self, version) {
            (Self::GapUnnoticed, Some(version)) if change.version > version => {
                change.previous = version.number;
            }
            (Self::EpochIgnored, Some(version)) => change.version.epoch = version.epoch,
            (Self::PreviousCountIgnored, _) => change.rows.iter_mut().for_each(|changed| changed.was = 0),
            (Self::RowForgotten, _) => drop(change.rows.pop()),
            (Self::StaleForgotten, _) => change.stale = false,
            _ => {}
        }
        change
    }
}

#[test]
fn every_fault_is_found_by_the_histories() {
    for fault in Fault::ALL {
        let found = (0..HISTORIES).any(|seed| std::panic::catch_unwind(|| run(seed, Some(fault))).is_err());
        assert!(found, "not found in {HISTORIES} histories: {fault:?}");
    }
    println!("{} faults in the hub found", Fault::ALL.len());
}
