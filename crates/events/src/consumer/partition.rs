//! Partition that is assigned to this consumer: its offset, the records that were read and are not
//! applied, and the time of the next attempt after a failure.

use std::collections::VecDeque;

use resilience::Backoff;
use tokio::time::Instant;
use uuid::Uuid;

use super::{Duration, new_backoff};
use crate::{Mismatch, Record, offset::Offset};

/// Number of buffered records, or size of their payloads, at which a partition is paused.
const PAUSE_AT: BufferSize = BufferSize { records: 1_000, bytes: 8 * 1024 * 1024 };
/// Buffer size below which a paused partition is resumed. The distance to the upper limit avoids a pause
/// per batch.
const RESUME_BELOW: BufferSize = BufferSize { records: 250, bytes: 2 * 1024 * 1024 };

struct BufferSize {
    records: usize,
    bytes: usize,
}

#[derive(Debug)]
pub(super) struct Partition {
    /// Number of the assignment. Results that belong to an earlier assignment of the same partition are
    /// discarded.
    pub(super) assignment: u64,
    /// Stored offset.
    pub(super) offset: Offset,
    /// Expected identity of the record before the offset, until that record is read.
    expected: Option<Uuid>,
    /// Offset after the last record that was read.
    next: i64,
    buffer: VecDeque<Record>,
    /// Size of the payloads in the buffer.
    buffer_bytes: usize,
    backoff: Backoff,
    failed: Option<FailedAttempt>,
    pub(super) paused: bool,
}

/// Last attempt, which failed.
#[derive(Debug, Clone, Copy)]
struct FailedAttempt {
    /// Number of its records. The retry has exactly these, so that the stored offset shows whether they
    /// were applied.
    records: usize,
    retry_at: Instant,
}

impl Partition {
    pub(super) fn new(assignment: u64, offset: Offset, expected: Option<Uuid>) -> Self {
        Self {
            assignment,
            offset,
            expected,
            next: offset.next,
            buffer: VecDeque::new(),
            buffer_bytes: 0,
            backoff: new_backoff(),
            failed: None,
            paused: false,
        }
    }

    /// Buffers a record. The record before the offset is only compared with the one that was applied
    /// last.
    pub(super) fn push(&mut self, record: Record) -> Result<(), Mismatch> {
        match self.expected.take() {
            Some(expected) if record.offset == self.offset.next - 1 && record.event_id != expected => {
                return Err(Mismatch::DifferentRecord);
            }
            _ => {}
        }
        if record.offset >= self.next {
            self.next = record.offset + 1;
            self.buffer_bytes += record.payload.len();
            self.buffer.push_back(record);
        }
        Ok(())
    }

    /// Returns the records of a failed attempt to the buffer. They are retried as a batch of this
    /// partition only, after the returned delay.
    pub(super) fn put_back(&mut self, records: Vec<Record>) -> Duration {
        let count = records.len();
        for record in records.into_iter().rev() {
            self.buffer_bytes += record.payload.len();
            self.buffer.push_front(record);
        }
        let delay = self.backoff.next_delay();
        self.failed = Some(FailedAttempt { records: count, retry_at: Instant::now() + delay });
        delay
    }

    /// Removes at most `limit` records from the front of the buffer; after a failure exactly those of
    /// the failed attempt.
    pub(super) fn take(&mut self, limit: usize) -> Vec<Record> {
        let limit = self.failed.map_or(limit, |failed| failed.records);
        let taken: Vec<Record> = self.buffer.drain(..limit.min(self.buffer.len())).collect();
        self.buffer_bytes -= taken.iter().map(|record| record.payload.len()).sum::<usize>();
        taken
    }

    /// Moves the offset after the taken records were applied.
    pub(super) fn advance(&mut self, to: Offset) {
        self.offset = to;
        self.failed = None;
        self.backoff.reset();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Returns `true` if the last attempt failed, so that its records may have been applied.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.failed.is_some()
    }

    /// Returns the time of the retry if the last attempt failed.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.failed.map(|failed| failed.retry_at)
    }

    /// Returns `true` if the partition should be paused, because its buffer is full or it waits for a
    /// retry.
    pub(super) fn wants_pause(&self) -> bool {
        let limit = if self.paused { RESUME_BELOW } else { PAUSE_AT };
        self.failed.is_some() || self.buffer.len() >= limit.records || self.buffer_bytes >= limit.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Headers, consumer::BACKOFF_MIN};

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
    fn the_record_before_the_offset_is_compared_and_not_applied() {
        let known = Uuid::now_v7();
        let at = Offset { next: 5, last_event_id: Some(known) };
        let mut partition = Partition::new(1, at, Some(known));
        partition.push(record(4, known)).unwrap();
        partition.push(record(5, Uuid::now_v7())).unwrap();
        assert_eq!(partition.take(10).iter().map(|record| record.offset).collect::<Vec<_>>(), [5]);
        let mut partition = Partition::new(1, at, Some(known));
        assert_eq!(partition.push(record(4, Uuid::now_v7())), Err(Mismatch::DifferentRecord));
        let mut partition = Partition::new(1, at, Some(known));
        partition
            .push(record(7, Uuid::now_v7()))
            .expect("the previous record was deleted, so nothing is compared");
        assert_eq!(partition.take(10).len(), 1);
    }

    #[test]
    fn repeated_records_are_buffered_once_and_a_failed_batch_is_retried_first() {
        let mut partition = Partition::new(1, Offset { next: 0, last_event_id: None }, None);
        for offset in [0, 1, 1, 2, 0] {
            partition.push(record(offset, Uuid::now_v7())).unwrap();
        }
        let taken = partition.take(2);
        assert_eq!(partition.put_back(taken), BACKOFF_MIN);
        assert!(partition.is_in_doubt() && partition.wants_pause());
        let taken = partition.take(10);
        let offsets = |taken: &[Record]| taken.iter().map(|record| record.offset).collect::<Vec<_>>();
        assert_eq!(offsets(&taken), [0, 1], "exactly the batch that may have been applied");
        assert_eq!(partition.put_back(taken), BACKOFF_MIN * 2);
        let taken = partition.take(10);
        assert_eq!(offsets(&taken), [0, 1]);
        partition.advance(Offset::after(&taken[1]));
        assert_eq!(offsets(&partition.take(10)), [2]);
    }

    #[test]
    fn a_partition_is_paused_by_number_and_size_of_its_records() {
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
        partition.advance(Offset { next: 13, last_event_id: None });
        assert!(!partition.wants_pause(), "returned records are counted once");
        (16..1_012).for_each(|offset| partition.push(record(offset, Uuid::now_v7())).unwrap());
        partition.paused = false;
        assert!(!partition.wants_pause());
        partition.push(record(1_012, Uuid::now_v7())).unwrap();
        assert!(partition.wants_pause(), "1,000 records");
    }
}
