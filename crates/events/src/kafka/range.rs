//! Bounded read of a Kafka log: from its beginning, or from a time on, to its present end.

use std::{collections::BTreeMap, time::Duration};

use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{Consumer, StreamConsumer},
    error::KafkaError,
};
use tokio::time::timeout;

use super::{
    Kafka, REQUEST_TIMEOUT, TopicPartition, blocking,
    client::{Context, KafkaClient},
    settings, wire,
};
use crate::{Error, Record};

/// Time without a record after which the end counts as reached: the last offsets of a partition may belong
/// to records that no reader gets.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// First and last offset to read of each partition; the last one is exclusive.
type Ranges = BTreeMap<TopicPartition, (i64, i64)>;

impl Kafka {
    /// Reads the records of topics that were written at `since_us` or later, microseconds since the Unix
    /// epoch, up to the end of the log at the time of this call. Ordered per partition. Stops when `visit`
    /// returns false.
    pub(crate) async fn read(
        &self,
        topics: &[&'static str],
        since_us: i64,
        mut visit: impl FnMut(Record) -> bool + Send,
    ) -> Result<(), Error> {
        let client: KafkaClient<StreamConsumer<Context>> =
            KafkaClient::new(settings::tail(self.config()).create_with_context(Context::new("range"))?);
        let mut partitions = Vec::new();
        for topic in topics {
            for number in 0..self.partition_count(topic).await? {
                partitions.push(TopicPartition { topic, number });
            }
        }
        let shared = client.shared();
        let mut rest: Ranges = blocking(move || ranges(&shared, &partitions, since_us)).await?;
        let mut list = TopicPartitionList::new();
        for (TopicPartition { topic, number }, (first, _)) in &rest {
            list.add_partition_offset(topic, *number, Offset::Offset(*first))?;
        }
        client.assign(&list)?;
        while !rest.is_empty() {
            let Ok(message) = timeout(SILENCE_MAX, client.recv()).await else { return Ok(()) };
            let message = message?;
            let Some(topic) = topics.iter().find(|topic| **topic == message.topic()) else { continue };
            let partition = TopicPartition { topic, number: message.partition() };
            let Some((_, end)) = rest.get(&partition) else { continue };
            let is_last = message.offset() + 1 >= *end;
            if message.offset() < *end && !visit(wire::decode(topic, &message)) {
                return Ok(());
            }
            if is_last {
                rest.remove(&partition);
            }
        }
        Ok(())
    }
}

fn ranges(
    client: &StreamConsumer<Context>,
    partitions: &[TopicPartition],
    since_us: i64,
) -> Result<Ranges, KafkaError> {
    let mut times = TopicPartitionList::new();
    for TopicPartition { topic, number } in partitions {
        times.add_partition_offset(topic, *number, Offset::Offset(since_us / 1_000))?;
    }
    let starts = client.offsets_for_times(times, REQUEST_TIMEOUT)?;
    let mut ranges = Ranges::new();
    for partition in partitions {
        let TopicPartition { topic, number } = partition;
        let (low, high) = client.fetch_watermarks(topic, *number, REQUEST_TIMEOUT)?;
        // Without an offset the partition has no record of that time or later.
        let start = starts.find_partition(topic, *number).map(|found| found.offset());
        if let Some(Offset::Offset(start)) = start
            && start.max(low) < high
        {
            ranges.insert(*partition, (start.max(low), high));
        }
    }
    Ok(ranges)
}
