//! Topic creation by an operator's command. Clients never create topics implicitly.

use std::time::Duration;

use rdkafka::{
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    consumer::Consumer,
    error::{KafkaError, RDKafkaErrorCode},
};
use tokio::time::Instant;

use super::{
    Kafka, REQUEST_TIMEOUT, blocking,
    client::{Context, KafkaClient},
};
use crate::Error;

/// Time for new topics to become available on all brokers.
const CREATION_TIMEOUT: Duration = Duration::from_secs(20);

/// Required topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// Name of the topic.
    pub name: &'static str,
    /// Number of partitions. It must never change: keys would move to other partitions and lose their
    /// order.
    pub partitions: i32,
    /// Time after which records are deleted.
    pub retention: Duration,
}

impl Kafka {
    /// Creates the missing topics with the brokers' default replication and waits until they are
    /// available. Existing topics are not changed.
    ///
    /// # Errors
    /// [`Error::Partitions`] if a topic exists with another number of partitions; [`Error::Kafka`] if a
    /// broker does not answer or rejects the request.
    pub async fn ensure_topics(&self, topics: &[Topic]) -> Result<(), Error> {
        let admin: KafkaClient<AdminClient<Context>> =
            KafkaClient::new(self.config().create_with_context(Context::new("admin"))?);
        let retentions: Vec<String> =
            topics.iter().map(|topic| topic.retention.as_millis().to_string()).collect();
        let new: Vec<NewTopic<'_>> = topics
            .iter()
            .zip(&retentions)
            .map(|(topic, retention)| {
                // -1 selects the default replication factor of the brokers.
                NewTopic::new(topic.name, topic.partitions, TopicReplication::Fixed(-1))
                    .set("retention.ms", retention)
            })
            .collect();
        let options = AdminOptions::new()
            .request_timeout(Some(REQUEST_TIMEOUT))
            .operation_timeout(Some(CREATION_TIMEOUT));
        for created in admin.create_topics(&new, &options).await? {
            match created {
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((_, code)) => return Err(Error::Kafka(KafkaError::AdminOp(code))),
            }
        }
        let deadline = Instant::now() + CREATION_TIMEOUT;
        for topic in topics {
            while !self.is_available(topic).await? {
                if Instant::now() > deadline {
                    return Err(Error::Kafka(KafkaError::MetadataFetch(
                        RDKafkaErrorCode::UnknownTopicOrPartition,
                    )));
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }

    /// Returns `true` if a topic exists and each of its partitions has a leader.
    async fn is_available(&self, topic: &Topic) -> Result<bool, Error> {
        let probe = self.probe()?;
        let name = topic.name;
        let metadata = blocking(move || probe.fetch_metadata(Some(name), REQUEST_TIMEOUT)).await?;
        let Some(found) =
            metadata.topics().iter().find(|found| found.name() == topic.name && found.error().is_none())
        else {
            return Ok(false);
        };
        let partitions = found.partitions();
        if !partitions.is_empty() && partitions.len() != usize::try_from(topic.partitions).unwrap_or_default()
        {
            return Err(Error::Partitions {
                topic: topic.name.to_owned(),
                found: partitions.len(),
                wanted: topic.partitions,
            });
        }
        Ok(!partitions.is_empty() && partitions.iter().all(|partition| partition.leader() >= 0))
    }

    /// Returns the number of partitions of a topic.
    pub(super) async fn partition_count(&self, topic: &'static str) -> Result<i32, Error> {
        let probe = self.probe()?;
        let metadata = blocking(move || probe.fetch_metadata(Some(topic), REQUEST_TIMEOUT)).await?;
        let found = metadata.topics().iter().find(|found| found.name() == topic && found.error().is_none());
        let count = found.map_or(0, |found| found.partitions().len());
        if count == 0 {
            return Err(Error::Kafka(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition)));
        }
        Ok(i32::try_from(count).unwrap_or(i32::MAX))
    }
}
