//! All partitions of some topics, read from their ends by one reader that is no member of a group. After an outage it goes
//! on where it was; where the log no longer has that place, it says so and goes on with the first record that is there.

use std::{collections::BTreeMap, time::Duration};

use futures_util::FutureExt;
use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{Consumer, StreamConsumer},
    error::{KafkaError, RDKafkaErrorCode},
};

use super::{
    Kafka, PATIENCE, blocking,
    client::{Closing, Context},
    settings, wire,
};
use crate::{Error, Next, Record};

/// Records of one call, at most.
const LIMIT: usize = 500;

type Place = (&'static str, i32);

/// A reader and its place in every partition.
#[derive(Debug)]
pub(crate) struct Tail {
    client: Closing<StreamConsumer<Context>>,
    next: BTreeMap<Place, i64>,
    /// Some place may be no longer in the log.
    astray: bool,
    /// Some place was lost, which is yet to be told.
    skipped: bool,
    /// No broker answers.
    away: bool,
    /// To be told where no record comes first.
    failure: Option<KafkaError>,
    kafka: Kafka,
}

impl Kafka {
    /// Follows topics from their ends. The ends are those of now, whenever the first record is asked for.
    ///
    /// # Errors
    /// Where Kafka does not answer, or a topic is not there.
    pub async fn tail(&self, topics: &[&'static str]) -> Result<crate::Tail, Error> {
        Tail::begin(self, topics).await.map(crate::Tail::kafka)
    }
}

impl Tail {
    async fn begin(kafka: &Kafka, topics: &[&'static str]) -> Result<Self, Error> {
        let client = settings::tail(kafka.config()).create_with_context(Context::quiet("tail"))?;
        let client: Closing<StreamConsumer<Context>> = Closing::new(client);
        let mut next = BTreeMap::new();
        for topic in topics {
            for partition in 0..kafka.partitions(topic).await? {
                next.insert((*topic, partition), i64::MAX);
            }
        }
        let kafka = kafka.clone();
        let mut tail = Self { client, next, astray: true, skipped: false, away: false, failure: None, kafka };
        tail.align().await?;
        Ok(tail)
    }

    pub(crate) async fn next(&mut self) -> Result<Next, Error> {
        loop {
            if self.astray {
                self.align().await?;
            }
            if std::mem::take(&mut self.skipped) {
                return Ok(Next { skipped: true, records: Vec::new() });
            }
            let first = tokio::select! {
                first = read(&self.client, &self.next) => first,
                () = answers(&self.kafka), if self.away => {
                    // What has come back may be another log.
                    (self.away, self.astray) = (false, true);
                    return Ok(Next::default());
                }
            };
            let records = self.take(first);
            if !records.is_empty() {
                self.astray |= self.away;
                (self.away, self.failure) = (false, None);
                return Ok(Next { skipped: false, records });
            }
            if let Some(error) = self.failure.take() {
                return Err(error.into());
            }
        }
    }

    /// The first record and whatever else is there. No await in here: what was read is not lost.
    fn take(&mut self, first: Result<Record, KafkaError>) -> Vec<Record> {
        let (mut records, mut read_now) = (Vec::new(), Some(first));
        while let Some(result) = read_now {
            match result {
                Ok(record) => {
                    let partition = i32::try_from(record.partition).unwrap_or_default();
                    self.next.insert((record.topic, partition), record.offset + 1);
                    records.push(record);
                }
                Err(error) => self.failed(error),
            }
            read_now =
                if records.len() < LIMIT { read(&self.client, &self.next).now_or_never() } else { None };
        }
        records
    }

    /// Tells what an error asks for; most of them pass by themselves.
    fn failed(&mut self, error: KafkaError) {
        tracing::debug!(%error, "the tail waits");
        match error.rdkafka_error_code() {
            Some(
                RDKafkaErrorCode::AutoOffsetReset
                | RDKafkaErrorCode::OffsetOutOfRange
                | RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::UnknownPartition,
            ) => self.astray = true,
            Some(RDKafkaErrorCode::AllBrokersDown) if !self.away => {
                self.away = true;
                self.failure = Some(error);
            }
            _ => {}
        }
    }

    /// Assigns every partition at its place, after a look where the log begins and ends: at its end where we have not been
    /// yet, at its beginning where ours is no longer in it.
    async fn align(&mut self) -> Result<(), Error> {
        // A question would wait behind what is being fetched, half a second each.
        self.client.unassign()?;
        let (client, places) = (self.client.shared(), self.next.keys().copied().collect::<Vec<_>>());
        let bounds = blocking(move || {
            places
                .iter()
                .map(|(topic, partition)| client.fetch_watermarks(topic, *partition, PATIENCE))
                .collect()
        });
        let bounds: Vec<(i64, i64)> = bounds.await?;
        let mut list = TopicPartitionList::new();
        for (((topic, partition), next), (low, high)) in self.next.iter_mut().zip(bounds) {
            if *next == i64::MAX {
                *next = high;
            } else if *next < low || *next > high {
                tracing::warn!(topic, partition, was = *next, low, high, "the log no longer has our place");
                *next = low;
                self.skipped = true;
            }
            list.add_partition_offset(topic, *partition, Offset::Offset(*next))?;
        }
        self.client.assign(&list)?;
        self.astray = false;
        Ok(())
    }
}

/// The next record. Cancelled while it waits, it loses none.
async fn read(client: &StreamConsumer<Context>, known: &BTreeMap<Place, i64>) -> Result<Record, KafkaError> {
    let message = client.recv().await?;
    let place =
        known.keys().find(|(topic, _)| *topic == message.topic()).expect("only these topics are assigned");
    Ok(wire::record(place.0, &message))
}

/// Waits until a broker answers.
async fn answers(kafka: &Kafka) {
    while kafka.ping().await.is_err() {
        tokio::time::sleep(Duration::from_secs(1)).await;
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
    async fn a_tail_whose_place_is_gone_says_so_once_and_goes_on_with_what_is_there() {
        let mock = MockCluster::new(1).expect("a mock");
        mock.create_topic("test.tail", 1, 1).expect("a topic");
        let kafka = Kafka::new(&format!("kafka://{}", mock.bootstrap_servers()), None).expect("a URL");
        let mut tail = Tail::begin(&kafka, &["test.tail"]).await.expect("the log's end");
        let producer: FutureProducer = kafka.config().create().expect("a producer");
        for _ in 0..2 {
            let record = FutureRecord::<str, str>::to("test.tail").key("k").payload("p").partition(0);
            producer.send(record, PATIENCE).await.expect("it is written");
        }
        // The log that it has read was longer.
        tail.next.insert(("test.tail", 0), 7);
        tail.astray = true;
        let told = tail.next().await.expect("the log can be read");
        assert!(told.skipped, "{told:?}");
        let mut offsets = Vec::new();
        while offsets.len() < 2 {
            let next = tail.next().await.expect("the log can be read");
            assert!(!next.skipped, "it is told once");
            offsets.extend(next.records.iter().map(|record| record.offset));
        }
        assert_eq!(offsets, [0, 1]);
    }
}
