//! Start offset of an assigned partition. The offset stored in the database decides. Kafka's watermarks
//! show whether the log is still the one that was read before, and the offset committed to Kafka whether
//! the database is still the same.

use std::sync::Arc;

use rdkafka::{
    Offset as KafkaOffset, TopicPartitionList,
    consumer::{Consumer as _, StreamConsumer},
};
use tokio::time::sleep;
use uuid::Uuid;

use super::{Apply, BoxError, Consumer, new_backoff};
use crate::{
    Mismatch, Stopped,
    kafka::{REQUEST_TIMEOUT, TopicPartition, blocking, client::Context},
    offset::{self, Offset},
};

/// Start of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Start {
    /// Stored offset.
    pub(super) offset: Offset,
    /// First offset to read: the one before the stored offset if the identity of that record is to be
    /// compared.
    pub(super) read_from: i64,
    /// Identity that the record before the stored offset must have.
    pub(super) expected: Option<Uuid>,
}

/// Kafka's offsets of a partition: the watermarks, and the one that this consumer group has committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct KafkaOffsets {
    low: i64,
    high: i64,
    committed: Option<i64>,
}

/// Decides where to start (docs/design.md#start-of-a-consumer). Without a stored offset the consumer is
/// new and starts at the low watermark.
fn start(stored: Option<Offset>, kafka: KafkaOffsets) -> Result<Start, Mismatch> {
    let offset = stored.unwrap_or(Offset { next: kafka.low, last_event_id: None });
    if let Some(committed) = kafka.committed.filter(|committed| *committed > offset.next) {
        return Err(Mismatch::CommittedAt(committed));
    }
    if offset.next > kafka.high {
        return Err(Mismatch::EndsAt(kafka.high));
    }
    if offset.next < kafka.low {
        return Err(Mismatch::StartsAt(kafka.low));
    }
    let expected = offset.last_event_id.filter(|_| offset.next > kafka.low);
    Ok(Start { offset, read_from: offset.next - i64::from(expected.is_some()), expected })
}

/// Determines the start of each partition. Retries with backoff until the database and Kafka answer.
pub(super) async fn resolve<A: Apply>(
    consumer: &Consumer<A>,
    client: Arc<StreamConsumer<Context>>,
    partitions: Vec<TopicPartition>,
) -> Result<Vec<(TopicPartition, Start)>, Stopped> {
    let mut backoff = new_backoff();
    loop {
        match try_resolve(consumer, &client, &partitions).await {
            Ok(resolved) => return resolved,
            Err(error) => {
                let delay = backoff.next_delay();
                let consumer = consumer.name;
                let retry_in_ms = delay.as_millis();
                tracing::error!(consumer, %error, retry_in_ms, "cannot load the start offsets");
                sleep(delay).await;
            }
        }
    }
}

async fn try_resolve<A: Apply>(
    consumer: &Consumer<A>,
    client: &Arc<StreamConsumer<Context>>,
    partitions: &[TopicPartition],
) -> Result<Result<Vec<(TopicPartition, Start)>, Stopped>, BoxError> {
    let client = Arc::clone(client);
    let requested = partitions.to_vec();
    let offsets = blocking(move || fetch_offsets(&client, &requested)).await?;
    let name = consumer.name;
    let mut starts = Vec::new();
    for (TopicPartition { topic, number }, kafka) in partitions.iter().copied().zip(offsets) {
        let partition = i64::from(number);
        let stored = offset::load(&consumer.db, name, topic, partition).await?;
        match start(stored, kafka) {
            Ok(start) => {
                if stored.is_none() {
                    offset::create(&consumer.db, name, topic, partition, start.offset.next).await?;
                }
                starts.push((TopicPartition { topic, number }, start));
            }
            Err(reason) => {
                let next = stored.map_or(kafka.low, |stored| stored.next);
                return Ok(Err(Stopped { consumer: name, topic, partition, next, reason }));
            }
        }
    }
    Ok(Ok(starts))
}

fn fetch_offsets(
    client: &StreamConsumer<Context>,
    partitions: &[TopicPartition],
) -> Result<Vec<KafkaOffsets>, rdkafka::error::KafkaError> {
    let mut list = TopicPartitionList::new();
    for TopicPartition { topic, number } in partitions {
        list.add_partition(topic, *number);
    }
    let committed_offsets = client.committed_offsets(list, REQUEST_TIMEOUT)?;
    let mut offsets = Vec::new();
    for TopicPartition { topic, number } in partitions {
        let (low, high) = client.fetch_watermarks(topic, *number, REQUEST_TIMEOUT)?;
        let committed = match committed_offsets.find_partition(topic, *number).map(|found| found.offset()) {
            Some(KafkaOffset::Offset(offset)) => Some(offset),
            _ => None,
        };
        offsets.push(KafkaOffsets { low, high, committed });
    }
    Ok(offsets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stored_offset_is_the_start_if_it_matches_the_log() {
        let last = Uuid::now_v7();
        let stored = |next| Some(Offset { next, last_event_id: Some(last) });
        let new = |next| Some(Offset { next, last_event_id: None });
        let kafka = |low, high, committed| KafkaOffsets { low, high, committed };
        let starts = |stored, kafka| start(stored, kafka).map(|start| (start.read_from, start.expected));
        // A new consumer starts at the low watermark.
        assert_eq!(starts(None, kafka(7, 9, None)), Ok((7, None)));
        // Another one starts at its stored offset and compares the record before it.
        assert_eq!(starts(stored(8), kafka(7, 9, Some(8))), Ok((7, Some(last))));
        assert_eq!(starts(stored(9), kafka(7, 9, Some(8))), Ok((8, Some(last))));
        assert_eq!(starts(new(8), kafka(7, 9, None)), Ok((8, None)));
        // Retention deleted only applied records, including the one before the stored offset.
        assert_eq!(starts(stored(7), kafka(7, 9, Some(7))), Ok((7, None)));
        assert_eq!(starts(stored(7), kafka(7, 7, None)), Ok((7, None)));
        // The log ends before or starts after the stored offset: it is another log, or records were
        // lost.
        assert_eq!(starts(stored(10), kafka(7, 9, None)), Err(Mismatch::EndsAt(9)));
        assert_eq!(starts(stored(6), kafka(7, 9, None)), Err(Mismatch::StartsAt(7)));
        assert_eq!(starts(new(0), kafka(7, 9, None)), Err(Mismatch::StartsAt(7)));
        // The committed offset is ahead of the stored one: the database was restored.
        assert_eq!(starts(stored(8), kafka(0, 9, Some(9))), Err(Mismatch::CommittedAt(9)));
        assert_eq!(starts(None, kafka(0, 9, Some(3))), Err(Mismatch::CommittedAt(3)));
    }
}
