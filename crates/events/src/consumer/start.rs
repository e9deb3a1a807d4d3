//! Start offset of an assigned partition. The offset stored in the database decides. Kafka's watermarks
//! show whether the log is still the one that was read before, and the offset committed to Kafka whether
//! the database is still the same.

use std::sync::Arc;

use rdkafka::{
    Offset as KafkaOffset, TopicPartitionList,
    consumer::{CommitMode, Consumer as _, StreamConsumer},
};
use tokio::time::{Duration, Instant, sleep};
use uuid::Uuid;

use super::{
    Apply, BoxError, Consumer, Loss, LossKind, new_backoff,
    recovery::{Losses, offset_after},
};
use crate::{
    Mismatch, Stopped,
    kafka::{REQUEST_TIMEOUT, TopicPartition, blocking, client::Context},
    offset::{self, Offset},
};

/// Time for which start offsets are asked for with one client.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(10);

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

/// Decides where to start (docs/design.md#start-of-a-consumer), and returns what was lost before that.
/// Without a stored offset the consumer is new and starts at the low watermark.
fn start(
    partition: TopicPartition,
    stored: Option<Offset>,
    kafka: KafkaOffsets,
) -> Result<(Start, Losses), Mismatch> {
    let offset = stored.unwrap_or(Offset { next: 0, last_event_id: None });
    if offset.next > kafka.high {
        return Err(Mismatch::EndsAt(kafka.high));
    }
    let TopicPartition { topic, number } = partition;
    let partition = i64::from(number);
    let loss = |kind, to, reason| Loss { topic, partition, kind, from: offset.next, to, reason };
    let restored = kafka.committed.filter(|committed| *committed > offset.next);
    let restored = restored.map(|at| loss(LossKind::Restored, at, Mismatch::CommittedAt(at)));
    let low = kafka.low;
    let cut = (offset.next < low).then(|| loss(LossKind::Cut, low, Mismatch::StartsAt(low)));
    let losses: Vec<Loss> = restored.into_iter().chain(cut).collect();
    let offset = offset_after(offset, &losses);
    let expected = offset.last_event_id.filter(|_| offset.next > kafka.low);
    let read_from = offset.next - i64::from(expected.is_some());
    let is_new = stored.is_none() && restored.is_none();
    Ok((Start { offset, read_from, expected }, Losses { losses, is_new }))
}

/// Determines the start of each partition. Retries with backoff while the database or Kafka does not
/// answer.
///
/// # Errors
/// The last error after [`RESOLVE_TIMEOUT`]. The session must then begin again with a new client:
/// librdkafka keeps what a broker that is starting says about a topic, and asks again only after minutes.
pub(super) async fn resolve<A: Apply>(
    consumer: &Consumer<A>,
    client: Arc<StreamConsumer<Context>>,
    partitions: Vec<TopicPartition>,
) -> Result<Result<Vec<(TopicPartition, Start)>, Stopped>, BoxError> {
    retry(consumer.name, || try_resolve(consumer, &client, &partitions)).await
}

async fn retry<T, F: Future<Output = Result<T, BoxError>>>(
    consumer: &str,
    mut attempt: impl FnMut() -> F,
) -> Result<T, BoxError> {
    let mut backoff = new_backoff();
    let deadline = Instant::now() + RESOLVE_TIMEOUT;
    loop {
        let error = match attempt().await {
            Ok(resolved) => return Ok(resolved),
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(error) => error,
        };
        let delay = backoff.next_delay();
        let retry_in_ms = delay.as_millis();
        tracing::error!(consumer, %error, retry_in_ms, "cannot load the start offsets");
        sleep(delay).await;
    }
}

async fn try_resolve<A: Apply>(
    consumer: &Consumer<A>,
    client: &Arc<StreamConsumer<Context>>,
    partitions: &[TopicPartition],
) -> Result<Result<Vec<(TopicPartition, Start)>, Stopped>, BoxError> {
    let shared = Arc::clone(client);
    let requested = partitions.to_vec();
    let offsets = blocking(move || fetch_offsets(&shared, &requested)).await?;
    let name = consumer.name;
    let mut starts = Vec::new();
    let mut found = Vec::new();
    let mut unstored = Vec::new();
    for (TopicPartition { topic, number }, kafka) in partitions.iter().copied().zip(offsets) {
        let partition = i64::from(number);
        let stored = offset::load(&consumer.db, name, topic, partition).await?;
        match start(TopicPartition { topic, number }, stored, kafka) {
            Ok((start, losses)) => {
                if stored.is_none() {
                    unstored.push((topic, partition, start.offset.next));
                }
                starts.push((TopicPartition { topic, number }, start));
                found.push(losses);
            }
            Err(reason) => {
                let next = stored.map_or(kafka.low, |stored| stored.next);
                return Ok(Err(Stopped { consumer: name, topic, partition, next, reason }));
            }
        }
    }
    if let Err(stopped) = consumer.recover(&found).await? {
        return Ok(Err(stopped));
    }
    for (topic, partition, next) in unstored {
        offset::create(&consumer.db, name, topic, partition, next).await?;
    }
    let restored = |found: &Losses| found.losses.iter().any(|loss| loss.kind == LossKind::Restored);
    let mut list = TopicPartitionList::new();
    for ((TopicPartition { topic, number }, start), _) in
        starts.iter().zip(&found).filter(|(_, found)| restored(found))
    {
        list.add_partition_offset(topic, *number, KafkaOffset::Offset(start.offset.next))?;
    }
    if list.count() > 0 {
        // From now on Kafka has the restored offset, so that the next start does not notice this restore
        // again. After the transaction: a crash in between only repeats the recovery.
        let client = Arc::clone(client);
        blocking(move || client.commit(&list, CommitMode::Sync)).await?;
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

    #[tokio::test(start_paused = true)]
    async fn start_offsets_are_asked_for_until_they_are_found_or_the_client_is_given_up() {
        let start = Instant::now();
        let found = retry("test", || async {
            if start.elapsed() < Duration::from_secs(9) { Err("not yet".into()) } else { Ok(7) }
        });
        assert_eq!(found.await.unwrap(), 7);
        let start = Instant::now();
        let given_up = retry("test", || async { Err::<(), BoxError>("never".into()) }).await;
        assert_eq!(given_up.unwrap_err().to_string(), "never");
        assert!((RESOLVE_TIMEOUT..RESOLVE_TIMEOUT * 2).contains(&start.elapsed()));
    }

    #[test]
    fn the_stored_offset_is_the_start_if_it_matches_the_log() {
        let last = Uuid::now_v7();
        let stored = |next| Some(Offset { next, last_event_id: Some(last) });
        let new = |next| Some(Offset { next, last_event_id: None });
        let kafka = |low, high, committed| KafkaOffsets { low, high, committed };
        let partition = TopicPartition { topic: "t", number: 0 };
        let resolve = |stored, kafka| {
            let (start, found) = start(partition, stored, kafka)?;
            let losses: Vec<_> = found.losses.iter().map(|loss| (loss.kind, loss.from, loss.to)).collect();
            Ok((start.read_from, start.expected, losses))
        };
        let starts = |stored, kafka| {
            let (read_from, expected, losses) = resolve(stored, kafka)?;
            assert!(losses.is_empty());
            Ok::<_, Mismatch>((read_from, expected))
        };
        // A new consumer starts at the low watermark.
        assert_eq!(starts(None, kafka(0, 9, None)), Ok((0, None)));
        assert_eq!(resolve(None, kafka(7, 9, None)), Ok((7, None, vec![(LossKind::Cut, 0, 7)])));
        assert!(start(partition, None, kafka(7, 9, None)).is_ok_and(|(_, found)| found.is_new));
        // Another one starts at its stored offset and compares the record before it.
        assert_eq!(starts(stored(8), kafka(7, 9, Some(8))), Ok((7, Some(last))));
        assert_eq!(starts(stored(9), kafka(7, 9, Some(8))), Ok((8, Some(last))));
        assert_eq!(starts(new(8), kafka(7, 9, None)), Ok((8, None)));
        // Retention deleted only applied records, including the one before the stored offset.
        assert_eq!(starts(stored(7), kafka(7, 9, Some(7))), Ok((7, None)));
        assert_eq!(starts(stored(7), kafka(7, 7, None)), Ok((7, None)));
        // The log ends before the stored offset: it is another log, or lost its end.
        assert_eq!(starts(stored(10), kafka(7, 9, None)), Err(Mismatch::EndsAt(9)));
        // It starts after the stored offset: it was cut.
        assert_eq!(resolve(stored(6), kafka(7, 9, None)), Ok((7, None, vec![(LossKind::Cut, 6, 7)])));
        assert_eq!(resolve(new(0), kafka(7, 9, None)), Ok((7, None, vec![(LossKind::Cut, 0, 7)])));
        // The committed offset is ahead of the stored one: the database was restored.
        let restored = (LossKind::Restored, 8, 9);
        assert_eq!(resolve(stored(8), kafka(0, 9, Some(9))), Ok((7, Some(last), vec![restored])));
        let both = vec![(LossKind::Restored, 2, 9), (LossKind::Cut, 2, 4)];
        assert_eq!(resolve(stored(2), kafka(4, 9, Some(9))), Ok((4, None, both)));
        assert_eq!(resolve(None, kafka(0, 9, Some(3))), Ok((0, None, vec![(LossKind::Restored, 0, 3)])));
    }
}
