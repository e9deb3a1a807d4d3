//! Kafka as the event log: connection settings, topics and a reachability check. The configuration of
//! librdkafka is in [`settings`], the encoding of records in [`wire`], its callbacks and the closing of
//! clients in [`client`].

pub(crate) mod client;
mod range;
pub(crate) mod settings;
mod tail;
mod topics;
pub(crate) mod wire;

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use rdkafka::{
    ClientConfig,
    consumer::{BaseConsumer, Consumer, StreamConsumer},
    error::KafkaError,
    producer::FutureProducer,
};
use tokio::sync::mpsc;

pub(crate) use tail::Tail;
pub use topics::Topic;

use crate::Error;
use client::{Context, GroupEvent, KafkaClient};

/// Timeout of a request to Kafka.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Time without a heartbeat after which the partitions of a consumer are reassigned.
const SESSION_TIMEOUT: Duration = Duration::from_secs(15);

/// Partition of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TopicPartition {
    pub(crate) topic: &'static str,
    pub(crate) number: i32,
}

/// Member of a consumer group, and the events of its membership.
pub(crate) type Member = (KafkaClient<StreamConsumer<Context>>, mpsc::UnboundedReceiver<GroupEvent>);

/// Kafka cluster and the settings with which this process uses it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Kafka(Arc<Cluster>);

#[derive(Debug)]
struct Cluster {
    brokers: String,
    instance: Option<String>,
    session_timeout: Duration,
    /// Client that belongs to no group, created for the first request.
    probe: OnceLock<KafkaClient<BaseConsumer<Context>>>,
}

impl Kafka {
    /// Parses a URL of the form `kafka://host:port,host:port`. Does not connect.
    ///
    /// `instance` is the static member id of this process in its consumer groups. It must differ between
    /// processes and stay the same after a restart; the process then gets its partitions back
    /// immediately. With or without it, the partitions of a killed process are reassigned after 15
    /// seconds. Without it, a process that ends regularly frees them immediately.
    ///
    /// # Errors
    /// [`Error::Url`] if the URL has another form.
    pub fn new(url: &str, instance: Option<&str>) -> Result<Self, Error> {
        let brokers = url.strip_prefix("kafka://").ok_or(Error::Url)?.trim_end_matches('/');
        for broker in brokers.split(',') {
            let (host, port) = broker.rsplit_once(':').ok_or(Error::Url)?;
            if host.is_empty() || port.parse::<u16>().is_err() {
                return Err(Error::Url);
            }
        }
        Ok(Self(Arc::new(Cluster {
            brokers: brokers.to_owned(),
            instance: instance.map(str::to_owned),
            session_timeout: SESSION_TIMEOUT,
            probe: OnceLock::new(),
        })))
    }

    /// Returns the same cluster with another session timeout for consumers. The default is 15 seconds.
    #[must_use]
    pub fn with_session_timeout(&self, session_timeout: Duration) -> Self {
        let Cluster { brokers, instance, .. } = &*self.0;
        Self(Arc::new(Cluster {
            brokers: brokers.clone(),
            instance: instance.clone(),
            session_timeout,
            probe: OnceLock::new(),
        }))
    }

    /// Checks that a broker answers.
    ///
    /// # Errors
    /// [`Error::Kafka`] if no broker answers within five seconds.
    pub async fn ping(&self) -> Result<(), Error> {
        let probe = self.probe()?;
        blocking(move || probe.client().fetch_metadata(Some("-"), REQUEST_TIMEOUT)).await.map(drop)
    }

    /// Creates a member of a consumer group, subscribed to topics. The owner must answer each
    /// [`GroupEvent::Assigned`].
    pub(crate) fn member(&self, group: &'static str, topics: &[&str]) -> Result<Member, KafkaError> {
        let (context, events) = Context::member(group);
        let Cluster { instance, session_timeout, .. } = &*self.0;
        let config = settings::member(self.config(), group, instance.as_deref(), *session_timeout);
        let client: KafkaClient<StreamConsumer<Context>> =
            KafkaClient::new(config.create_with_context(context)?);
        client.subscribe(topics)?;
        Ok((client, events))
    }

    /// Creates a producer for a relay.
    pub(crate) fn producer(
        &self,
        name: &'static str,
    ) -> Result<KafkaClient<FutureProducer<Context>>, KafkaError> {
        Ok(KafkaClient::new(settings::producer(self.config()).create_with_context(Context::new(name))?))
    }

    /// Returns the client for requests outside a consumer group.
    fn probe(&self) -> Result<Arc<BaseConsumer<Context>>, Error> {
        if let Some(probe) = self.0.probe.get() {
            return Ok(probe.shared());
        }
        let probe = KafkaClient::new(self.config().create_with_context(Context::new("probe"))?);
        Ok(self.0.probe.get_or_init(|| probe).shared())
    }

    /// Returns the settings that all clients share.
    fn config(&self) -> ClientConfig {
        settings::common(&self.0.brokers)
    }
}

/// Runs a call that blocks inside librdkafka on a thread for blocking calls.
pub(crate) async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, KafkaError> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(call).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Error::Cancelled),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_lists_brokers_with_ports() {
        for valid in ["kafka://localhost:9092", "kafka://a:1,b:2", "kafka://[::1]:9092/"] {
            assert!(Kafka::new(valid, None).is_ok(), "{valid}");
        }
        for invalid in
            ["localhost:9092", "kafka://", "kafka://a", "kafka://a:1,", "kafka://:9092", "kafka://a:99999"]
        {
            assert!(matches!(Kafka::new(invalid, None), Err(Error::Url)), "{invalid}");
        }
    }
}
