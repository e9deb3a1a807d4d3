//! All partitions of some topics, read from their ends by one reader that is no member of a group. After an outage it goes
//! on where it was; where the log no longer has that place, it goes on with the first record that is there.

use std::collections::BTreeMap;

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
use crate::{Error, Record};

/// Records of one call, at most.
const LIMIT: usize = 500;

type Place = (&'static str, i32);

/// A reader and its place in every partition.
#[derive(Debug)]
pub(crate) struct Tail {
    client: Closing<StreamConsumer<Context>>,
    next: BTreeMap<Place, i64>,
    /// Some place is no longer in the log.
    astray: bool,
}

impl Kafka {
    /// Follows topics from their ends. The ends are those of now, whenever the first record is asked for.
    ///
    /// # Errors
    /// Where Kafka does not answer, or a topic is not there.
    pub async fn tail(&self, topics: &[&'static str]) -> Result<crate::Tail, Error> {
        let client = settings::tail(self.config()).create_with_context(Context::quiet("tail"))?;
        let client: Closing<StreamConsumer<Context>> = Closing::new(client);
        let mut next = BTreeMap::new();
        for topic in topics {
            for partition in 0..self.partitions(topic).await? {
                next.insert((*topic, partition), i64::MAX);
            }
        }
        let mut tail = Tail { client, next, astray: true };
        tail.align().await?;
        Ok(crate::Tail::kafka(tail))
    }
}

impl Tail {
    pub(crate) async fn next(&mut self) -> Result<Vec<Record>, Error> {
        loop {
            if self.astray {
                self.align().await?;
            }
            let mut records = Vec::new();
            let first = read(&self.client, &self.next).await;
            let mut read_now = Some(first);
            while let Some(result) = read_now {
                match result {
                    Ok(record) => records.push(record),
                    Err(error) => self.astray |= is_astray(&error),
                }
                read_now = if records.len() < LIMIT { read(&self.client, &self.next).now_or_never() } else { None };
            }
            for record in &records {
                let partition = i32::try_from(record.partition).unwrap_or_default();
                self.next.insert((record.topic, partition), record.offset + 1);
            }
            if !records.is_empty() {
                return Ok(records);
            }
        }
    }

    /// Assigns every partition at its place, after a look where the log begins and ends: at its end where we have not been
    /// yet, at its beginning where ours is no longer in it.
    async fn align(&mut self) -> Result<(), Error> {
        let (client, places) = (self.client.shared(), self.next.keys().copied().collect::<Vec<_>>());
        let bounds = blocking(move || {
            places.iter().map(|(topic, partition)| client.fetch_watermarks(topic, *partition, PATIENCE)).collect()
        });
        let bounds: Vec<(i64, i64)> = bounds.await?;
        let mut list = TopicPartitionList::new();
        for (((topic, partition), next), (low, high)) in self.next.iter_mut().zip(bounds) {
            if *next == i64::MAX {
                *next = high;
            } else if *next < low || *next > high {
                tracing::warn!(topic, partition, was = *next, low, high, "the log no longer has our place");
                *next = low;
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
    let place = known.keys().find(|(topic, _)| *topic == message.topic()).expect("only these topics are assigned");
    Ok(wire::record(place.0, &message))
}

/// Whether an error says that a place is not in the log. Everything else passes by itself.
fn is_astray(error: &KafkaError) -> bool {
    let code = error.rdkafka_error_code();
    tracing::debug!(%error, "the tail waits");
    matches!(code, Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange))
}
