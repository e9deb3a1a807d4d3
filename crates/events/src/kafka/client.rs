//! A client of librdkafka: its callbacks, and how it is got rid of. Its last drop waits for the broker, for ever where that
//! is away; so it happens on a thread of its own and is waited for with a limit.

use std::{
    fmt,
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use rdkafka::{
    ClientContext, Statistics, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::KafkaError,
    types::RDKafkaRespErr,
};
use tokio::sync::{mpsc, oneshot};

/// How long a client may take to say good-bye to the broker before it is left to itself.
const GOODBYE: Duration = Duration::from_secs(3);

/// What a member of a group hears.
#[derive(Debug)]
pub(crate) enum Heard {
    /// Partitions that are ours, to be answered with an incremental assignment that says where to begin.
    Assigned(Vec<(String, i32)>),
    /// Partitions that are no longer ours. Already answered.
    Revoked(Vec<(String, i32)>),
    /// Where partitions end, as far as is known.
    Ends(Vec<(String, i32, i64)>),
}

/// What hears of a client.
pub(crate) struct Context {
    name: &'static str,
    hears: Option<mpsc::UnboundedSender<Heard>>,
    closing: AtomicBool,
}

impl Context {
    /// For a client that is no member of a group.
    pub(crate) fn quiet(name: &'static str) -> Self {
        Self { name, hears: None, closing: AtomicBool::new(false) }
    }

    /// For a member of a group. What it is given waits for an answer until it is closed.
    pub(crate) fn member(name: &'static str) -> (Self, mpsc::UnboundedReceiver<Heard>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self { name, hears: Some(sender), closing: AtomicBool::new(false) }, receiver)
    }

    /// From now on nobody answers rebalances but the callback.
    pub(crate) fn close(&self) {
        self.closing.store(true, SeqCst);
    }

    /// Hands on what was heard; `false`: nobody is there to answer.
    fn hand_on(&self, heard: Heard) -> bool {
        !self.closing.load(SeqCst) && self.hears.as_ref().is_some_and(|sender| sender.send(heard).is_ok())
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        let client = self.name;
        match level {
            RDKafkaLogLevel::Debug | RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
                tracing::debug!(client, facility, "librdkafka: {message}");
            }
            // That a setting of ours is called experimental, at every start.
            _ if facility == "CONFWARN" => {}
            _ => tracing::warn!(client, facility, "librdkafka: {message}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // Its log lines say the same.
        tracing::debug!(client = self.name, %error, "librdkafka: {reason}");
    }

    fn stats(&self, statistics: Statistics) {
        let ends = statistics.topics.into_iter().flat_map(|(topic, found)| {
            let ends = found.partitions.into_iter().map(|(number, partition)| (number, partition.ls_offset));
            ends.filter(|(number, end)| *number >= 0 && *end >= 0)
                .map(|(number, end)| (topic.clone(), number, end))
                .collect::<Vec<_>>()
        });
        self.hand_on(Heard::Ends(ends.collect()));
    }
}

impl ConsumerContext for Context {
    /// An assignment waits until it is known where to begin; a revocation is answered at once: what is being applied just
    /// now finds out by its offset that it is too late.
    fn rebalance(&self, client: &BaseConsumer<Self>, cause: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let places: Vec<(String, i32)> =
            list.elements().iter().map(|place| (place.topic().to_owned(), place.partition())).collect();
        let answer = if cause == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            if !places.is_empty() && self.hand_on(Heard::Assigned(places)) {
                return;
            }
            client.incremental_assign(list)
        } else {
            let answer = client.incremental_unassign(list);
            self.hand_on(Heard::Revoked(places));
            answer
        };
        if let Err(error) = answer {
            tracing::warn!(client = self.name, %error, "a rebalance was not answered");
        }
    }
}

/// A client that is dropped on a thread of its own.
pub(crate) struct Closing<T: Send + Sync + 'static>(Option<Arc<T>>);

impl<T: Send + Sync + 'static> Closing<T> {
    pub(crate) fn new(client: T) -> Self {
        Self(Some(Arc::new(client)))
    }

    /// The client, for a call on another thread.
    pub(crate) fn shared(&self) -> Arc<T> {
        Arc::clone(self.0.as_ref().expect("it is there until it is closed"))
    }

    /// Closes the client and waits for that, three seconds at most; afterwards it goes on by itself.
    pub(crate) async fn close(mut self) {
        let Some(client) = self.0.take() else { return };
        if tokio::time::timeout(GOODBYE, drop_aside(client)).await.is_err() {
            tracing::warn!("a client of Kafka is still closing: the broker may be away");
        }
    }
}

impl<T: Send + Sync + 'static> Deref for Closing<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect("it is there until it is closed")
    }
}

impl<T: Send + Sync + 'static> Drop for Closing<T> {
    fn drop(&mut self) {
        if let Some(client) = self.0.take() {
            drop(drop_aside(client));
        }
    }
}

impl<T: Send + Sync + 'static> fmt::Debug for Closing<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Client")
    }
}

/// Drops a client on a thread of its own, once nobody else holds it: a thread of the runtime that hung in a drop would keep
/// the whole process from ending.
fn drop_aside<T: Send + Sync + 'static>(mut client: Arc<T>) -> oneshot::Receiver<()> {
    let (sender, receiver) = oneshot::channel();
    std::thread::spawn(move || {
        loop {
            match Arc::try_unwrap(client) {
                Ok(last) => break drop(last),
                Err(shared) => client = shared,
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = sender.send(());
    });
    receiver
}
