//! What a consumer on Kafka applies in one transaction: records of one or more partitions, with the offsets that lead past them.

use super::{Apply, BoxError, Consumer, Move};
use crate::{
    Record,
    offset::{self, Offset},
};

type Place = (&'static str, i32);

/// Records of some partitions, applied in one transaction.
pub(super) struct Batch {
    pub(super) parts: Vec<Part>,
    pub(super) records: Vec<Record>,
    /// An earlier attempt failed: ask the database first whether it took place.
    pub(super) in_doubt: bool,
}

/// One partition's share: so many records, in their order among all.
pub(super) struct Part {
    pub(super) place: Place,
    pub(super) assignment: u64,
    pub(super) count: usize,
    pub(super) from: Offset,
    pub(super) to: Offset,
}

/// Why a batch was not applied.
pub(super) enum Failure {
    /// To be repeated.
    Error(BoxError),
    /// Somebody else has moved our offset: begin anew.
    Moved,
}

impl Batch {
    /// Applies the records and moves the offsets, or neither. After an earlier failure the database is asked first: whether a
    /// commit that failed took place is known to it alone.
    pub(super) async fn apply<A: Apply>(&self, consumer: &Consumer<A>) -> Result<(), Failure> {
        let moves: Vec<Move> = self
            .parts
            .iter()
            .map(|part| Move {
                topic: part.place.0,
                partition: i64::from(part.place.1),
                from: part.from,
                to: part.to,
            })
            .collect();
        if self.in_doubt {
            for Move { topic, partition, from, to } in &moves {
                let known = offset::load(&consumer.db, consumer.name, topic, *partition).await;
                match known.map_err(|error| Failure::Error(error.into()))? {
                    Some(known) if known == *to => return Ok(()),
                    Some(known) if known == *from => {}
                    _ => return Err(Failure::Moved),
                }
            }
        }
        consumer.apply(&self.records, &moves).await.map_err(Failure::Error)
    }
}
