//! Positions of a primary and of a replica, and the rule by which a read may use the replica. Pure.
//!
//! A snapshot of the replica is answered if it has everything that the primary showed when the read arrived
//! ([`admit`]), and if the primary shows everything that the snapshot has before the answer leaves
//! ([`Running::doubts`]). docs/decisions/0031-reads-of-a-replica.md says why both are necessary.

use std::{collections::BTreeSet, num::ParseIntError, str::FromStr};

use super::ReplicaFault;

/// Position in the write-ahead log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Lsn(u64);

impl FromStr for Lsn {
    type Err = ParseIntError;

    /// Parses two hexadecimal numbers of 32 bits, such as `16/B374D848`.
    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        let (high, low) = text.split_once('/').unwrap_or_default();
        let high = u64::from(u32::from_str_radix(high, 16)?);
        Ok(Self(high << 32 | u64::from(u32::from_str_radix(low, 16)?)))
    }
}

/// History that a server's data belongs to. Positions and transaction ids are comparable within one only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct History {
    /// Identifier of the cluster.
    pub cluster: String,
    /// Name of the database in the cluster.
    pub database: String,
    /// Incremented when a replica is promoted.
    pub timeline: u32,
}

/// State of the primary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Primary {
    pub history: History,
    /// End of the log. The commits of all transactions that are visible are before it.
    pub end: Lsn,
    pub running: Running,
}

/// State of a replica, before a snapshot is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Standby {
    pub history: History,
    /// End of the log that it has replayed; `None` if it does not replay one.
    pub replayed: Option<Lsn>,
}

/// Returns an error unless the replica has replayed all that the primary showed.
pub(crate) fn admit(primary: &Primary, standby: &Standby) -> Result<(), ReplicaFault> {
    let same = |of: fn(&History) -> &str| of(&standby.history) == of(&primary.history);
    if !same(|history| &history.cluster) || !same(|history| &history.database) {
        return Err(ReplicaFault::Foreign);
    }
    let Some(replayed) = standby.replayed else { return Err(ReplicaFault::Promoted) };
    if standby.history.timeline != primary.history.timeline {
        return Err(ReplicaFault::Timeline {
            own: standby.history.timeline,
            primary: primary.history.timeline,
        });
    }
    if replayed < primary.end { Err(ReplicaFault::Late) } else { Ok(()) }
}

/// Transactions that a snapshot of the primary does not show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Running {
    /// Transactions from this id on.
    pub next: u64,
    /// Transactions before it.
    pub ids: Vec<u64>,
}

impl FromStr for Running {
    type Err = ParseIntError;

    /// Parses a `pg_snapshot`: the oldest running id, the next id, and the running ids, as `10:20:10,14`.
    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        let mut parts = text.split(':').skip(1);
        let next = parts.next().unwrap_or_default().parse()?;
        let ids = parts.next().unwrap_or_default().split(',').filter(|id| !id.is_empty());
        Ok(Self { next, ids: ids.map(str::parse).collect::<Result<_, _>>()? })
    }
}

impl Running {
    /// Returns the transactions that a snapshot of the replica may show and the primary does not, where
    /// `next` is the next id of the replica's snapshot. `None` if there may be others, with ids that the
    /// primary's snapshot does not name.
    pub(crate) fn doubts(&self, next: u64) -> Option<BTreeSet<u64>> {
        if self.next < next {
            return None;
        }
        Some(self.ids.iter().copied().filter(|id| *id < next).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lsn(text: &str) -> Lsn {
        text.parse().unwrap()
    }

    fn history(cluster: &str, database: &str, timeline: u32) -> History {
        History { cluster: cluster.to_owned(), database: database.to_owned(), timeline }
    }

    fn primary(end: &str) -> Primary {
        let running = Running { next: 20, ids: vec![10, 14] };
        Primary { history: history("1", "a", 2), end: lsn(end), running }
    }

    fn standby(replayed: Option<&str>) -> Standby {
        Standby { history: history("1", "a", 2), replayed: replayed.map(lsn) }
    }

    #[test]
    fn positions_are_ordered_as_numbers() {
        assert!(lsn("0/FFFFFFFF") < lsn("1/0"));
        assert!(lsn("9/0") < lsn("10/0"));
        assert_eq!(lsn("16/B374D848"), Lsn(0x16_B374_D848));
        for wrong in ["", "1", "1/", "/1", "x/1", "1/100000000"] {
            assert!(wrong.parse::<Lsn>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_replica_that_has_replayed_the_end_of_the_log_is_admitted() {
        for (replayed, is_admitted) in [("1/F", false), ("1/10", true), ("1/11", true), ("0/FFFFFFFF", false)]
        {
            let admitted = admit(&primary("1/10"), &standby(Some(replayed)));
            assert_eq!(admitted.is_ok(), is_admitted, "{replayed}: {admitted:?}");
            assert!(is_admitted || matches!(admitted, Err(ReplicaFault::Late)));
        }
    }

    #[test]
    fn a_server_of_another_history_is_refused_wherever_it_is() {
        let ahead = standby(Some("F/0"));
        for foreign in [history("2", "a", 2), history("1", "b", 2)] {
            let foreign = Standby { history: foreign, ..ahead.clone() };
            assert!(matches!(admit(&primary("1/0"), &foreign), Err(ReplicaFault::Foreign)));
        }
        for timeline in [1, 3] {
            let other = Standby { history: history("1", "a", timeline), ..ahead.clone() };
            let refused = admit(&primary("1/0"), &other);
            assert!(matches!(refused, Err(ReplicaFault::Timeline { primary: 2, .. })), "{refused:?}");
        }
        assert!(matches!(admit(&primary("1/0"), &standby(None)), Err(ReplicaFault::Promoted)));
    }

    #[test]
    fn a_snapshot_is_parsed() {
        let parse = |text: &str| text.parse::<Running>().unwrap();
        assert_eq!(parse("10:20:10,14"), Running { next: 20, ids: vec![10, 14] });
        assert_eq!(parse("20:20:"), Running { next: 20, ids: Vec::new() });
        for wrong in ["", "1", "1:x:", "1:2:x"] {
            assert!(wrong.parse::<Running>().is_err(), "{wrong}");
        }
    }

    /// The replica's snapshot shows no id from `next` on.
    #[test]
    fn only_running_transactions_that_the_replica_may_show_are_doubtful() {
        let running = Running { next: 20, ids: vec![10, 14] };
        let doubts = |next| running.doubts(next).map(Vec::from_iter);
        assert_eq!(doubts(10), Some(vec![]));
        assert_eq!(doubts(11), Some(vec![10]));
        assert_eq!(doubts(20), Some(vec![10, 14]));
        assert_eq!(doubts(21), None, "20 may be committed on the replica and is not on the primary");
        assert_eq!(Running { next: 20, ids: Vec::new() }.doubts(20), Some(BTreeSet::new()));
    }
}
