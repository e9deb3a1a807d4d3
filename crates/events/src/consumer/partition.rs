//! A partition that this consumer has been given: where it is, what was read of it and not applied yet, and when the next
//! attempt may be made after one that failed.

use std::collections::VecDeque;

use tokio::time::Instant;
use uuid::Uuid;

use super::{BACKOFF_MAX, BACKOFF_MIN, Duration};
use crate::{Mismatch, Record, offset::Offset};

/// Records held in memory before the partition is paused, and the bytes of their payloads; and when it goes on.
const FULL: (usize, usize) = (1_000, 8 * 1024 * 1024);
const HALF_EMPTY: (usize, usize) = (250, 2 * 1024 * 1024);

#[derive(Debug)]
pub(super) struct Partition {
    /// Which assignment this is: what belongs to an earlier one of the same partition is not ours.
    pub(super) assignment: u64,
    /// What the database holds.
    pub(super) offset: Offset,
    /// The identity of the record below the offset, until it has been seen.
    expected: Option<Uuid>,
    /// The next offset to come.
    next: i64,
    waiting: VecDeque<Record>,
    /// The bytes of their payloads.
    waiting_bytes: usize,
    trouble: Option<Trouble>,
    pub(super) paused: bool,
}

/// An attempt has failed.
#[derive(Debug, Clone, Copy)]
struct Trouble {
    backoff: Duration,
    /// How many records it had: the repetition has just these, so that the database can tell whether they were applied.
    records: usize,
    again_at: Instant,
}

impl Partition {
    pub(super) fn new(assignment: u64, offset: Offset, expected: Option<Uuid>) -> Self {
        let (waiting, trouble) = (VecDeque::new(), None);
        Self {
            assignment,
            offset,
            expected,
            next: offset.next,
            waiting,
            waiting_bytes: 0,
            trouble,
            paused: false,
        }
    }

    /// Takes a record. The one below the offset is not to be applied: it shows whether this is the log that we know.
    pub(super) fn push(&mut self, record: Record) -> Result<(), Mismatch> {
        match self.expected.take() {
            Some(expected) if record.offset == self.offset.next - 1 && record.event_id != expected => {
                return Err(Mismatch::Foreign);
            }
            _ => {}
        }
        if record.offset >= self.next {
            self.next = record.offset + 1;
            self.waiting_bytes += record.payload.len();
            self.waiting.push_back(record);
        }
        Ok(())
    }

    /// Takes records of an attempt back that failed, to be tried again alone after a pause.
    pub(super) fn put_back(&mut self, records: Vec<Record>) -> Duration {
        let count = records.len();
        for record in records.into_iter().rev() {
            self.waiting_bytes += record.payload.len();
            self.waiting.push_front(record);
        }
        let backoff = self.trouble.map_or(BACKOFF_MIN, |trouble| (trouble.backoff * 2).min(BACKOFF_MAX));
        self.trouble = Some(Trouble { backoff, records: count, again_at: Instant::now() + backoff });
        backoff
    }

    /// At most this many records from the front; after a failure just those of the attempt.
    pub(super) fn take(&mut self, limit: usize) -> Vec<Record> {
        let limit = self.trouble.map_or(limit, |trouble| trouble.records);
        let taken: Vec<Record> = self.waiting.drain(..limit.min(self.waiting.len())).collect();
        self.waiting_bytes -= taken.iter().map(|record| record.payload.len()).sum::<usize>();
        taken
    }

    /// What was taken has been applied.
    pub(super) fn advanced(&mut self, to: Offset) {
        self.offset = to;
        self.trouble = None;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether the last attempt failed: whether its commit took place is known to the database alone.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.trouble.is_some()
    }

    /// When it may be tried again, where an attempt has failed.
    pub(super) fn again_at(&self) -> Option<Instant> {
        self.trouble.map(|trouble| trouble.again_at)
    }

    /// Whether it should be paused from now on. A half-empty one that is paused stays as it is.
    pub(super) fn wants_pause(&self) -> bool {
        let (records, bytes) = if self.paused { HALF_EMPTY } else { FULL };
        self.trouble.is_some() || self.waiting.len() >= records || self.waiting_bytes >= bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Headers;

    fn record(offset: i64, event_id: Uuid) -> Record {
        Record {
            topic: "t",
            partition: 0,
            offset,
            event_id,
            key: String::new(),
            version: 0,
            kind: "Tested".to_owned(),
            payload: bytes::Bytes::new(),
            headers: Headers::default(),
            created_at_us: 0,
        }
    }

    #[test]
    fn the_record_below_the_offset_is_compared_and_not_applied() {
        let known = Uuid::now_v7();
        let at = Offset { next: 5, last_event_id: Some(known) };
        let mut partition = Partition::new(1, at, Some(known));
        partition.push(record(4, known)).unwrap();
        partition.push(record(5, Uuid::now_v7())).unwrap();
        assert_eq!(partition.take(10).iter().map(|record| record.offset).collect::<Vec<_>>(), [5]);
        let mut partition = Partition::new(1, at, Some(known));
        assert_eq!(partition.push(record(4, Uuid::now_v7())), Err(Mismatch::Foreign));
        let mut partition = Partition::new(1, at, Some(known));
        partition.push(record(7, Uuid::now_v7())).expect("the record below is gone: nothing to compare");
        assert_eq!(partition.take(10).len(), 1);
    }

    #[test]
    fn what_was_read_twice_waits_once_and_what_failed_comes_first() {
        let mut partition = Partition::new(1, Offset { next: 0, last_event_id: None }, None);
        for offset in [0, 1, 1, 2, 0] {
            partition.push(record(offset, Uuid::now_v7())).unwrap();
        }
        let taken = partition.take(2);
        assert_eq!(partition.put_back(taken), BACKOFF_MIN);
        assert!(partition.is_in_doubt() && partition.wants_pause());
        let taken = partition.take(10);
        let offsets = |taken: &[Record]| taken.iter().map(|record| record.offset).collect::<Vec<_>>();
        assert_eq!(offsets(&taken), [0, 1], "the batch that may have been applied, and no other");
        assert_eq!(partition.put_back(taken), BACKOFF_MIN * 2);
        let taken = partition.take(10);
        assert_eq!(offsets(&taken), [0, 1]);
        partition.advanced(Offset::after(&taken[1]));
        assert_eq!(offsets(&partition.take(10)), [2]);
    }

    #[test]
    fn a_partition_is_full_by_records_and_by_bytes() {
        let large = |offset| Record { payload: vec![0; 512 * 1024].into(), ..record(offset, Uuid::now_v7()) };
        let mut partition = Partition::new(1, Offset { next: 0, last_event_id: None }, None);
        (0..15).for_each(|offset| partition.push(large(offset)).unwrap());
        assert!(!partition.wants_pause());
        partition.push(large(15)).unwrap();
        assert!(partition.wants_pause(), "8 MiB");
        partition.paused = true;
        let mut taken = partition.take(12);
        assert!(partition.wants_pause(), "2 MiB");
        taken.extend(partition.take(1));
        assert!(!partition.wants_pause());
        partition.put_back(taken);
        partition.take(13);
        partition.advanced(Offset { next: 13, last_event_id: None });
        assert!(!partition.wants_pause(), "what came back and went again is counted once");
        (16..1_012).for_each(|offset| partition.push(record(offset, Uuid::now_v7())).unwrap());
        partition.paused = false;
        assert!(!partition.wants_pause());
        partition.push(record(1_012, Uuid::now_v7())).unwrap();
        assert!(partition.wants_pause(), "1,000 records");
    }
}
