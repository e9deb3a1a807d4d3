//! Where to begin in a partition that Kafka has given us. The database decides; Kafka's bounds and what Kafka remembers of us
//! show whether it is still the log that was read before, and the database the one that read it.

use std::sync::Arc;

use rdkafka::{
    Offset as At, TopicPartitionList,
    consumer::{Consumer as _, StreamConsumer},
};
use tokio::time::sleep;
use uuid::Uuid;

use super::{Apply, BACKOFF_MAX, BACKOFF_MIN, BoxError, Consumer};
use crate::{
    Mismatch, Stopped,
    kafka::{PATIENCE, blocking, client::Context},
    offset::{self, Offset},
};

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Start {
    /// What the database holds.
    pub(super) offset: Offset,
    /// The first record to read: the one below the offset where its identity is to be looked at.
    pub(super) read_from: i64,
    /// The identity that the record below must have.
    pub(super) expected: Option<Uuid>,
}

/// What Kafka says of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Found {
    low: i64,
    high: i64,
    committed: Option<i64>,
}

/// The rules of DESIGN §5. Without a known offset the consumer is new and begins where the log does.
fn start(known: Option<Offset>, found: Found) -> Result<Start, Mismatch> {
    let offset = known.unwrap_or(Offset { next: found.low, last_event_id: None });
    if let Some(committed) = found.committed.filter(|committed| *committed > offset.next) {
        return Err(Mismatch::CommittedAt(committed));
    }
    if offset.next > found.high {
        return Err(Mismatch::EndsAt(found.high));
    }
    if offset.next < found.low {
        return Err(Mismatch::BeginsAt(found.low));
    }
    let expected = offset.last_event_id.filter(|_| offset.next > found.low);
    Ok(Start { offset, read_from: offset.next - i64::from(expected.is_some()), expected })
}

type Place = (&'static str, i32);

/// Finds where to begin in each of these partitions, for as long as it takes.
pub(super) async fn resolve<A: Apply>(
    consumer: &Consumer<A>,
    client: Arc<StreamConsumer<Context>>,
    places: Vec<Place>,
) -> Result<Vec<(Place, Start)>, Stopped> {
    let mut backoff = BACKOFF_MIN;
    loop {
        match attempt(consumer, &client, &places).await {
            Ok(resolved) => return resolved,
            Err(error) => {
                let (consumer, retry_in_ms) = (consumer.name, backoff.as_millis());
                tracing::error!(consumer, %error, retry_in_ms, "where to begin is not known yet");
            }
        }
        sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

async fn attempt<A: Apply>(
    consumer: &Consumer<A>,
    client: &Arc<StreamConsumer<Context>>,
    places: &[Place],
) -> Result<Result<Vec<(Place, Start)>, Stopped>, BoxError> {
    let (asked, client) = (places.to_vec(), Arc::clone(client));
    let found = blocking(move || look(&client, &asked)).await?;
    let mut starts = Vec::new();
    for (place, found) in places.iter().zip(found) {
        let (name, topic, partition) = (consumer.name, place.0, i64::from(place.1));
        let known = offset::load(&consumer.db, name, topic, partition).await?;
        match start(known, found) {
            Ok(start) => {
                if known.is_none() {
                    offset::begin(&consumer.db, name, topic, partition, start.offset.next).await?;
                }
                starts.push((*place, start));
            }
            Err(why) => {
                let next = known.map_or(found.low, |known| known.next);
                return Ok(Err(Stopped { consumer: name, topic, partition, next, why }));
            }
        }
    }
    Ok(Ok(starts))
}

fn look(
    client: &StreamConsumer<Context>,
    places: &[Place],
) -> Result<Vec<Found>, rdkafka::error::KafkaError> {
    let mut list = TopicPartitionList::new();
    for (topic, partition) in places {
        list.add_partition(topic, *partition);
    }
    let remembered = client.committed_offsets(list, PATIENCE)?;
    let mut found = Vec::new();
    for (topic, partition) in places {
        let (low, high) = client.fetch_watermarks(topic, *partition, PATIENCE)?;
        let committed = match remembered.find_partition(topic, *partition).map(|element| element.offset()) {
            Some(At::Offset(offset)) => Some(offset),
            _ => None,
        };
        found.push(Found { low, high, committed });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_database_decides_where_to_begin_and_the_log_whether() {
        let last = Uuid::now_v7();
        let known = |next| Some(Offset { next, last_event_id: Some(last) });
        let untouched = |next| Some(Offset { next, last_event_id: None });
        let found = |low, high, committed| Found { low, high, committed };
        let begins = |known, found| start(known, found).map(|start| (start.read_from, start.expected));
        // A new consumer begins where the log does.
        assert_eq!(begins(None, found(7, 9, None)), Ok((7, None)));
        // A known one begins at its offset, after a look at the record below.
        assert_eq!(begins(known(8), found(7, 9, Some(8))), Ok((7, Some(last))));
        assert_eq!(begins(known(9), found(7, 9, Some(8))), Ok((8, Some(last))));
        assert_eq!(begins(untouched(8), found(7, 9, None)), Ok((8, None)));
        // Retention took only what was applied, the record below included.
        assert_eq!(begins(known(7), found(7, 9, Some(7))), Ok((7, None)));
        assert_eq!(begins(known(7), found(7, 7, None)), Ok((7, None)));
        // The log ends below or begins above: it is another one, or events are lost.
        assert_eq!(begins(known(10), found(7, 9, None)), Err(Mismatch::EndsAt(9)));
        assert_eq!(begins(known(6), found(7, 9, None)), Err(Mismatch::BeginsAt(7)));
        assert_eq!(begins(untouched(0), found(7, 9, None)), Err(Mismatch::BeginsAt(7)));
        // Kafka remembers more than the database: that was restored.
        assert_eq!(begins(known(8), found(0, 9, Some(9))), Err(Mismatch::CommittedAt(9)));
        assert_eq!(begins(None, found(0, 9, Some(3))), Err(Mismatch::CommittedAt(3)));
    }
}
