//! Topics: made by an operator's command, never by a client that happens to name one.

use std::time::Duration;

use rdkafka::{
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    consumer::Consumer,
    error::{KafkaError, RDKafkaErrorCode},
};
use tokio::time::Instant;

use super::{
    Kafka, PATIENCE, blocking,
    client::{Closing, Context},
};
use crate::Error;

/// How long the brokers may take to tell each other of new topics.
const SETTLE: Duration = Duration::from_secs(20);

/// A topic as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: &'static str,
    /// Its parts. For ever: with another number, keys change their place and lose their order.
    pub partitions: i32,
    /// How long its records stay.
    pub retention: Duration,
}

impl Kafka {
    /// Makes the topics that are not there, replicated as the brokers do by default, and waits until they can be used. One
    /// that is there is left as it is.
    ///
    /// # Errors
    /// [`Error::Partitions`] where one is there with another number of partitions; [`Error::Kafka`] where a broker does not
    /// answer or refuses.
    pub async fn ensure_topics(&self, topics: &[Topic]) -> Result<(), Error> {
        let admin: Closing<AdminClient<Context>> =
            Closing::new(self.config().create_with_context(Context::quiet("admin"))?);
        let retentions: Vec<String> =
            topics.iter().map(|topic| topic.retention.as_millis().to_string()).collect();
        let new: Vec<NewTopic<'_>> = topics
            .iter()
            .zip(&retentions)
            .map(|(topic, retention)| {
                // -1: as many replicas as the brokers make by default.
                NewTopic::new(topic.name, topic.partitions, TopicReplication::Fixed(-1))
                    .set("retention.ms", retention)
            })
            .collect();
        let options = AdminOptions::new().request_timeout(Some(PATIENCE)).operation_timeout(Some(SETTLE));
        for made in admin.create_topics(&new, &options).await? {
            match made {
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((_, code)) => return Err(Error::Kafka(KafkaError::AdminOp(code))),
            }
        }
        let deadline = Instant::now() + SETTLE;
        for topic in topics {
            while !self.is_there(topic).await? {
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

    /// Whether a topic has its partitions, and each of them a leader.
    async fn is_there(&self, topic: &Topic) -> Result<bool, Error> {
        let (probe, name) = (self.probe()?, topic.name);
        let metadata = blocking(move || probe.fetch_metadata(Some(name), PATIENCE)).await?;
        let Some(found) =
            metadata.topics().iter().find(|found| found.name() == topic.name && found.error().is_none())
        else {
            return Ok(false);
        };
        let parts = found.partitions();
        if !parts.is_empty() && parts.len() != usize::try_from(topic.partitions).unwrap_or_default() {
            let (found, wanted) = (parts.len(), topic.partitions);
            return Err(Error::Partitions { topic: topic.name.to_owned(), found, wanted });
        }
        Ok(!parts.is_empty() && parts.iter().all(|part| part.leader() >= 0))
    }

    /// How many partitions a topic has.
    pub(super) async fn partitions(&self, topic: &'static str) -> Result<i32, Error> {
        let probe = self.probe()?;
        let metadata = blocking(move || probe.fetch_metadata(Some(topic), PATIENCE)).await?;
        let found = metadata.topics().iter().find(|found| found.name() == topic && found.error().is_none());
        let count = found.map_or(0, |found| found.partitions().len());
        if count == 0 {
            return Err(Error::Kafka(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition)));
        }
        Ok(i32::try_from(count).unwrap_or(i32::MAX))
    }
}
