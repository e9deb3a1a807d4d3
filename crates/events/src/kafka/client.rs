//! librdkafka client: its callbacks, and its closing. Dropping a client blocks until the broker answers,
//! without a limit if the broker is unavailable. Clients are therefore dropped on a separate thread, and
//! the owner waits with a timeout.

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
    statistics::Partition,
    types::RDKafkaRespErr,
};
use tokio::sync::{mpsc, oneshot};

/// Time that [`KafkaClient::close`] waits. Afterwards the client continues to close in the background.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// Event of a consumer group membership.
#[derive(Debug)]
pub(crate) enum GroupEvent {
    /// Partitions were assigned. The receiver must answer with an incremental assignment that has their
    /// start offsets. An empty list, for a member that gets nothing new, has been answered already.
    Assigned(Vec<(String, i32)>),
    /// Partitions were revoked. The callback has answered already.
    Revoked(Vec<(String, i32)>),
    /// Known end offsets of partitions, from librdkafka's statistics.
    EndOffsets(Vec<EndOffset>),
}

/// End offset of a partition.
#[derive(Debug)]
pub(crate) struct EndOffset {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
}

/// Callbacks of a client.
pub(crate) struct Context {
    name: &'static str,
    events: Option<mpsc::UnboundedSender<GroupEvent>>,
    closing: AtomicBool,
}

impl Context {
    /// Creates the callbacks of a client that belongs to no group.
    pub(crate) fn new(name: &'static str) -> Self {
        Self { name, events: None, closing: AtomicBool::new(false) }
    }

    /// Creates the callbacks of a group member, and the receiver of its events.
    pub(crate) fn member(name: &'static str) -> (Self, mpsc::UnboundedReceiver<GroupEvent>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self { name, events: Some(sender), closing: AtomicBool::new(false) }, receiver)
    }

    /// Stops sending events. From now on the callback itself answers rebalances.
    pub(crate) fn close(&self) {
        self.closing.store(true, SeqCst);
    }

    /// Sends an event to the owner. Returns `false` if there is none or the client is closing.
    fn send(&self, event: GroupEvent) -> bool {
        !self.closing.load(SeqCst) && self.events.as_ref().is_some_and(|sender| sender.send(event).is_ok())
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        let client = self.name;
        match level {
            RDKafkaLogLevel::Debug | RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
                tracing::debug!(client, facility, "librdkafka: {message}");
            }
            // A warning at every start that `enable.gapless.guarantee` is experimental.
            _ if facility == "CONFWARN" => {}
            _ => tracing::warn!(client, facility, "librdkafka: {message}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // librdkafka also logs the error.
        tracing::debug!(client = self.name, %error, "librdkafka: {reason}");
    }

    fn stats(&self, statistics: Statistics) {
        let ends = statistics.topics.into_iter().flat_map(|(topic, found)| {
            let end = move |(number, partition): (i32, Partition)| EndOffset {
                topic: topic.clone(),
                partition: number,
                offset: partition.ls_offset,
            };
            found.partitions.into_iter().map(end)
        });
        // Negative numbers stand for an internal partition and for an offset that is not known yet.
        self.send(GroupEvent::EndOffsets(ends.filter(|end| end.partition >= 0 && end.offset >= 0).collect()));
    }
}

impl ConsumerContext for Context {
    /// Leaves an assignment to the owner, which loads the start offsets first. Answers a revocation
    /// immediately: if records of the partition are being applied and the new owner is faster, the
    /// transaction fails at its offset.
    fn rebalance(&self, client: &BaseConsumer<Self>, cause: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let partitions: Vec<(String, i32)> =
            list.elements().iter().map(|found| (found.topic().to_owned(), found.partition())).collect();
        let answer = if cause == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            let is_empty = partitions.is_empty();
            if self.send(GroupEvent::Assigned(partitions)) && !is_empty {
                return;
            }
            client.incremental_assign(list)
        } else {
            let answer = client.incremental_unassign(list);
            self.send(GroupEvent::Revoked(partitions));
            answer
        };
        if let Err(error) = answer {
            tracing::warn!(client = self.name, %error, "answering a rebalance failed");
        }
    }
}

/// librdkafka client that is dropped on a separate thread.
pub(crate) struct KafkaClient<T: Send + Sync + 'static>(Option<Arc<T>>);

impl<T: Send + Sync + 'static> KafkaClient<T> {
    pub(crate) fn new(client: T) -> Self {
        Self(Some(Arc::new(client)))
    }

    /// Returns a reference to the client for a call on another thread.
    pub(crate) fn shared(&self) -> Arc<T> {
        Arc::clone(self.0.as_ref().expect("the client is present until it is closed"))
    }

    /// Closes the client and waits for at most three seconds. Afterwards the client continues to close
    /// in the background.
    pub(crate) async fn close(mut self) {
        let Some(client) = self.0.take() else { return };
        if tokio::time::timeout(CLOSE_TIMEOUT, drop_on_thread(client)).await.is_err() {
            tracing::warn!("a Kafka client is still closing, the broker may be unavailable");
        }
    }
}

impl<T: Send + Sync + 'static> Deref for KafkaClient<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect("the client is present until it is closed")
    }
}

impl<T: Send + Sync + 'static> Drop for KafkaClient<T> {
    fn drop(&mut self) {
        if let Some(client) = self.0.take() {
            drop(drop_on_thread(client));
        }
    }
}

impl<T: Send + Sync + 'static> fmt::Debug for KafkaClient<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Client")
    }
}

/// Drops a client on a separate thread once no other reference is left. If a thread of the runtime
/// blocked in the drop, the process could not exit.
fn drop_on_thread<T: Send + Sync + 'static>(mut client: Arc<T>) -> oneshot::Receiver<()> {
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

#[cfg(test)]
mod tests {
    use rdkafka::{consumer::StreamConsumer, mocking::MockCluster};

    use super::*;
    use crate::Kafka;

    /// Polls a member until the group assigns it partitions, answers, and returns their number.
    async fn assigned(
        (client, events): &mut (KafkaClient<StreamConsumer<Context>>, mpsc::UnboundedReceiver<GroupEvent>),
    ) -> usize {
        loop {
            let event = tokio::select! {
                _ = client.recv() => continue,
                event = events.recv() => event.expect("the client exists"),
            };
            let GroupEvent::Assigned(partitions) = event else { continue };
            let mut list = TopicPartitionList::new();
            for (topic, number) in &partitions {
                list.add_partition_offset(topic, *number, rdkafka::Offset::Beginning).unwrap();
            }
            if !partitions.is_empty() {
                client.incremental_assign(&list).expect("the answer is accepted");
            }
            return partitions.len();
        }
    }

    /// A member of a group with more members than partitions is not one that hears nothing.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_member_hears_that_the_group_assigns_nothing_to_it() {
        let mock = MockCluster::new(1).expect("a mock cluster");
        mock.create_topic("test.group", 1, 1).expect("a topic");
        let kafka = Kafka::new(&format!("kafka://{}", mock.bootstrap_servers()), None).expect("a URL");
        let mut first = kafka.member("group", &["test.group"]).expect("a member");
        assert_eq!(assigned(&mut first).await, 1);
        let mut second = kafka.member("group", &["test.group"]).expect("a member");
        let (_, of_second) = tokio::time::timeout(Duration::from_secs(60), async {
            tokio::join!(assigned(&mut first), assigned(&mut second))
        })
        .await
        .expect("both members hear of the new assignment");
        assert_eq!(of_second, 0);
    }
}
