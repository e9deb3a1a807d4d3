//! Batch of a Kafka consumer: records of one or more partitions, applied in one transaction that also
//! moves the offsets of those partitions.

use super::{Apply, BoxError, Consumer};
use crate::{
    Record,
    kafka::TopicPartition,
    offset::{self, Offset},
};

/// Records of some partitions, applied in one transaction.
pub(super) struct Batch {
    pub(super) slices: Vec<PartitionSlice>,
    pub(super) records: Vec<Record>,
    /// An earlier attempt failed and may have been committed.
    pub(super) in_doubt: bool,
}

/// Records of one partition in a batch. The records of all slices follow each other in
/// [`Batch::records`].
pub(super) struct PartitionSlice {
    pub(super) partition: TopicPartition,
    /// Assignment under which the records were read.
    pub(super) assignment: u64,
    /// Number of records.
    pub(super) count: usize,
    pub(super) from: Offset,
    pub(super) to: Offset,
}

/// Failure to apply a batch.
pub(super) enum Failure {
    /// The batch is repeated.
    Error(BoxError),
    /// Another process has moved an offset: the session ends.
    OffsetMoved,
}

impl Batch {
    /// Applies the records and moves the offsets in one transaction. If the batch is in doubt, compares
    /// the stored offsets first, because only the database knows whether a failed commit took effect.
    pub(super) async fn apply<A: Apply>(&self, consumer: &Consumer<A>) -> Result<(), Failure> {
        let moves: Vec<offset::Move> = self
            .slices
            .iter()
            .map(|slice| offset::Move {
                topic: slice.partition.topic,
                partition: i64::from(slice.partition.number),
                from: slice.from,
                to: slice.to,
            })
            .collect();
        if self.in_doubt {
            for offset::Move { topic, partition, from, to } in &moves {
                let stored = offset::load(&consumer.db, consumer.name, topic, *partition).await;
                match stored.map_err(|error| Failure::Error(error.into()))? {
                    Some(stored) if stored == *to => return Ok(()),
                    Some(stored) if stored == *from => {}
                    _ => return Err(Failure::OffsetMoved),
                }
            }
        }
        consumer.apply(&self.records, &moves).await.map_err(Failure::Error)
    }
}
