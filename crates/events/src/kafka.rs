//! Kafka as the log: where it is, its topics, and whether it answers. What librdkafka is told is in [`settings`], how an
//! event becomes a record in [`wire`], what becomes of its callbacks and of clients that cannot be closed in [`client`].

pub(crate) mod client;
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
use client::{Closing, Context, Heard};

/// How long a question to Kafka may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// How long a consumer may be silent before its partitions go to others.
const SESSION_TIMEOUT: Duration = Duration::from_secs(15);

/// A member of a group, and what it hears.
pub(crate) type Member = (Closing<StreamConsumer<Context>>, mpsc::UnboundedReceiver<Heard>);

/// A Kafka cluster, as one process uses it. Clones are the same.
#[derive(Debug, Clone)]
pub struct Kafka(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    brokers: String,
    instance: Option<String>,
    session_timeout: Duration,
    probe: OnceLock<Closing<BaseConsumer<Context>>>,
}

impl Kafka {
    /// The cluster at `kafka://host:port,host:port`. `instance` names this process among those that consume under the same
    /// names: another one for each, and the same again after a restart, so that it gets its partitions back at once. Without
    /// one, a process that was killed keeps its partitions from the others for fifteen seconds, and one that ends does not.
    ///
    /// # Errors
    /// [`Error::Url`] for anything else. Nothing is connected yet.
    pub fn new(url: &str, instance: Option<&str>) -> Result<Self, Error> {
        let brokers = url.strip_prefix("kafka://").ok_or(Error::Url)?.trim_end_matches('/');
        for broker in brokers.split(',') {
            let (host, port) = broker.rsplit_once(':').ok_or(Error::Url)?;
            if host.is_empty() || port.parse::<u16>().is_err() {
                return Err(Error::Url);
            }
        }
        let (brokers, instance) = (brokers.to_owned(), instance.map(str::to_owned));
        let (session_timeout, probe) = (SESSION_TIMEOUT, OnceLock::new());
        Ok(Self(Arc::new(Shared { brokers, instance, session_timeout, probe })))
    }

    /// The same cluster with another time for which a consumer may be silent before its partitions go to others: fifteen
    /// seconds unless told.
    #[must_use]
    pub fn with_session_timeout(&self, session_timeout: Duration) -> Self {
        let (brokers, instance) = (self.0.brokers.clone(), self.0.instance.clone());
        Self(Arc::new(Shared { brokers, instance, session_timeout, probe: OnceLock::new() }))
    }

    /// Whether a broker answers.
    ///
    /// # Errors
    /// [`Error::Kafka`] where none does within five seconds.
    pub async fn ping(&self) -> Result<(), Error> {
        let probe = self.probe()?;
        blocking(move || probe.client().fetch_metadata(Some("-"), PATIENCE)).await.map(drop)
    }

    /// A member of the group of this name, subscribed to topics. What it is assigned waits for an answer.
    pub(crate) fn member(&self, group: &'static str, topics: &[&str]) -> Result<Member, KafkaError> {
        let (context, heard) = Context::member(group);
        let (instance, session_timeout) = (self.0.instance.as_deref(), self.0.session_timeout);
        let config = settings::member(self.config(), group, instance, session_timeout);
        let client: Closing<StreamConsumer<Context>> = Closing::new(config.create_with_context(context)?);
        client.subscribe(topics)?;
        Ok((client, heard))
    }

    /// A producer for a relay.
    pub(crate) fn producer(
        &self,
        name: &'static str,
    ) -> Result<Closing<FutureProducer<Context>>, KafkaError> {
        Ok(Closing::new(settings::producer(self.config()).create_with_context(Context::quiet(name))?))
    }

    /// A client of no group, for questions.
    fn probe(&self) -> Result<Arc<BaseConsumer<Context>>, Error> {
        if let Some(probe) = self.0.probe.get() {
            return Ok(probe.shared());
        }
        let probe = Closing::new(self.config().create_with_context(Context::quiet("probe"))?);
        Ok(self.0.probe.get_or_init(|| probe).shared())
    }

    /// What every client is told.
    fn config(&self) -> ClientConfig {
        settings::common(&self.0.brokers)
    }
}

/// A call that waits inside librdkafka, on a thread for such calls.
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
    fn a_url_names_brokers_with_their_ports() {
        for good in ["kafka://localhost:9092", "kafka://a:1,b:2", "kafka://[::1]:9092/"] {
            assert!(Kafka::new(good, None).is_ok(), "{good}");
        }
        for bad in
            ["localhost:9092", "kafka://", "kafka://a", "kafka://a:1,", "kafka://:9092", "kafka://a:99999"]
        {
            assert!(matches!(Kafka::new(bad, None), Err(Error::Url)), "{bad}");
        }
    }
}
