//! Kafka tail: reads all partitions of some topics from their ends, without a consumer group. After an
//! outage it continues at its position. If the log no longer contains that position, it reports a skip
//! and continues with the first record.

use std::{collections::BTreeMap, time::Duration};

use futures_util::FutureExt;
use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{Consumer, StreamConsumer},
    error::{KafkaError, RDKafkaErrorCode},
};

use super::{
    Kafka, REQUEST_TIMEOUT, TopicPartition, blocking,
    client::{Context, KafkaClient},
    settings, wire,
};
use crate::{Error, Record, TailBatch};

/// Maximum number of records per batch.
const BATCH_MAX: usize = 500;
/// Interval between checks for an available broker during an outage.
const PING_INTERVAL: Duration = Duration::from_secs(1);

/// Reader and its position in each partition.
#[derive(Debug)]
pub(crate) struct Tail {
    client: KafkaClient<StreamConsumer<Context>>,
    /// Next offset of each partition; `i64::MAX` until the end of the partition is known.
    next: BTreeMap<TopicPartition, i64>,
    /// A position may be outside the log: compare all with the watermarks before the next read.
    needs_realign: bool,
    /// A position was outside the log, which is not reported yet.
    skipped: bool,
    /// No broker answers.
    unavailable: bool,
    /// Error to report unless a record arrives first.
    failure: Option<KafkaError>,
    kafka: Kafka,
}

impl Kafka {
    /// Follows topics from their ends at the time of this call.
    ///
    /// # Errors
    /// [`Error::Kafka`] if Kafka does not answer or a topic does not exist.
    pub async fn tail(&self, topics: &[&'static str]) -> Result<crate::Tail, Error> {
        Tail::start(self, topics).await.map(crate::Tail::kafka)
    }
}

impl Tail {
    async fn start(kafka: &Kafka, topics: &[&'static str]) -> Result<Self, Error> {
        let client = new_client(kafka)?;
        let mut next = BTreeMap::new();
        for topic in topics {
            for number in 0..kafka.partition_count(topic).await? {
                next.insert(TopicPartition { topic, number }, i64::MAX);
            }
        }
        let kafka = kafka.clone();
        let mut tail = Self {
            client,
            next,
            needs_realign: true,
            skipped: false,
            unavailable: false,
            failure: None,
            kafka,
        };
        tail.realign().await?;
        Ok(tail)
    }

    /// Waits for the next records. Cancel-safe: no record is lost.
    pub(crate) async fn next(&mut self) -> Result<TailBatch, Error> {
        loop {
            if self.needs_realign
                && let Err(error) = self.realign().await
            {
                // librdkafka keeps what a broker that is starting says about a topic, and asks again only
                // after minutes. A new client asks at once.
                self.client = new_client(&self.kafka)?;
                return Err(error);
            }
            if std::mem::take(&mut self.skipped) {
                return Ok(TailBatch { skipped: true, records: Vec::new() });
            }
            let first = tokio::select! {
                first = read(&self.client, &self.next) => first,
                () = available(&self.kafka), if self.unavailable => {
                    // The log may have been replaced during the outage.
                    self.unavailable = false;
                    self.needs_realign = true;
                    return Ok(TailBatch::default());
                }
            };
            let records = self.take(first);
            if !records.is_empty() {
                self.needs_realign |= self.unavailable;
                self.unavailable = false;
                self.failure = None;
                return Ok(TailBatch { skipped: false, records });
            }
            if let Some(error) = self.failure.take() {
                return Err(error.into());
            }
        }
    }

    /// Adds the records that are already buffered to the first one. It is not async, so that a cancelled
    /// caller loses no record.
    fn take(&mut self, first: Result<Record, KafkaError>) -> Vec<Record> {
        let mut records = Vec::new();
        let mut next = Some(first);
        while let Some(result) = next {
            match result {
                Ok(record) => {
                    let number = i32::try_from(record.partition).unwrap_or_default();
                    self.next.insert(TopicPartition { topic: record.topic, number }, record.offset + 1);
                    records.push(record);
                }
                Err(error) => self.handle_error(error),
            }
            next =
                if records.len() < BATCH_MAX { read(&self.client, &self.next).now_or_never() } else { None };
        }
        records
    }

    /// Notes the consequence of an error. librdkafka retries most errors itself.
    fn handle_error(&mut self, error: KafkaError) {
        tracing::debug!(%error, "error while reading from Kafka");
        match error.rdkafka_error_code() {
            Some(
                RDKafkaErrorCode::AutoOffsetReset
                | RDKafkaErrorCode::OffsetOutOfRange
                | RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::UnknownPartition,
            ) => self.needs_realign = true,
            Some(RDKafkaErrorCode::AllBrokersDown) if !self.unavailable => {
                self.unavailable = true;
                self.failure = Some(error);
            }
            _ => {}
        }
    }

    /// Compares all positions with the watermarks and assigns the partitions. A new partition starts at
    /// its end, one whose position is outside the log at its low watermark.
    async fn realign(&mut self) -> Result<(), Error> {
        // While partitions are assigned, each watermark request waits half a second behind a fetch
        // request.
        self.client.unassign()?;
        let client = self.client.shared();
        let partitions: Vec<_> = self.next.keys().copied().collect();
        let watermarks = blocking(move || {
            let fetch = |partition: &TopicPartition| {
                client.fetch_watermarks(partition.topic, partition.number, REQUEST_TIMEOUT)
            };
            partitions.iter().map(fetch).collect()
        });
        let watermarks: Vec<(i64, i64)> = watermarks.await?;
        let mut list = TopicPartitionList::new();
        let mut is_replaced = false;
        for ((TopicPartition { topic, number }, next), (low, high)) in self.next.iter_mut().zip(watermarks) {
            if *next == i64::MAX {
                *next = high;
            } else if *next < low || *next > high {
                is_replaced |= *next > high;
                let position = *next;
                tracing::warn!(
                    topic,
                    partition = number,
                    position,
                    low,
                    high,
                    "the position is no longer in the log"
                );
                *next = low;
                self.skipped = true;
            }
            list.add_partition_offset(topic, *number, Offset::Offset(*next))?;
        }
        if is_replaced {
            // The topic was recreated. The present client would ask its partitions as those of the former
            // topic, in vain, until it loads the metadata again after minutes.
            self.client = new_client(&self.kafka)?;
        }
        self.client.assign(&list)?;
        self.needs_realign = false;
        Ok(())
    }
}

fn new_client(kafka: &Kafka) -> Result<KafkaClient<StreamConsumer<Context>>, Error> {
    let client = settings::tail(kafka.config()).create_with_context(Context::new("tail"))?;
    Ok(KafkaClient::new(client))
}

/// Waits for the next record. Cancel-safe: no record is lost.
async fn read(
    client: &StreamConsumer<Context>,
    assigned: &BTreeMap<TopicPartition, i64>,
) -> Result<Record, KafkaError> {
    let message = client.recv().await?;
    let partition = assigned.keys().find(|partition| partition.topic == message.topic());
    Ok(wire::decode(partition.expect("only these topics are assigned").topic, &message))
}

/// Waits until a broker answers.
async fn available(kafka: &Kafka) {
    while kafka.ping().await.is_err() {
        tokio::time::sleep(PING_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::{
        mocking::MockCluster,
        producer::{FutureProducer, FutureRecord},
    };

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_lost_position_is_reported_once_and_the_tail_continues() {
        let mock = MockCluster::new(1).expect("a mock cluster");
        mock.create_topic("test.tail", 1, 1).expect("a topic");
        let kafka = Kafka::new(&format!("kafka://{}", mock.bootstrap_servers()), None).expect("a URL");
        let mut tail = Tail::start(&kafka, &["test.tail"]).await.expect("the tail starts");
        let producer: FutureProducer = kafka.config().create().expect("a producer");
        for _ in 0..2 {
            let record = FutureRecord::<str, str>::to("test.tail").key("k").payload("p").partition(0);
            producer.send(record, REQUEST_TIMEOUT).await.expect("the record is written");
        }
        // The position is beyond the end of the log.
        tail.next.insert(TopicPartition { topic: "test.tail", number: 0 }, 7);
        tail.needs_realign = true;
        let batch = tail.next().await.expect("the log can be read");
        assert!(batch.skipped, "{batch:?}");
        let mut offsets = Vec::new();
        while offsets.len() < 2 {
            let batch = tail.next().await.expect("the log can be read");
            assert!(!batch.skipped, "the skip is reported once");
            offsets.extend(batch.records.iter().map(|record| record.offset));
        }
        assert_eq!(offsets, [0, 1]);
    }
}
