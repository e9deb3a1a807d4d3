//! Kafka consumer: a member of the consumer group of its name. It keeps polling while a batch is
//! applied, because a member that stops polling is removed from its group; records are buffered up to a
//! limit. One batch at a time is applied, with records of all partitions. A failed batch is retried
//! partition by partition while the other partitions continue.

use std::collections::BTreeMap;

use db::failpoint;
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use rdkafka::{
    Message, Offset as KafkaOffset, TopicPartitionList,
    consumer::{Consumer as _, StreamConsumer},
    error::{KafkaError, RDKafkaErrorCode},
};
use resilience::Backoff;
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Apply, BACKOFF_MIN, BATCH_MAX, BoxError, Consumer, Duration,
    batch::{Batch, Failure, PartitionSlice},
    oldest_us,
    partition::Partition,
    set_lag,
    start::{self, Start},
};
use crate::{
    Kafka, Record, Stopped,
    kafka::{
        TopicPartition,
        client::{Context, EndOffset, GroupEvent, KafkaClient},
        wire,
    },
    offset::Offset,
    pace::Pace,
};

/// Size of the payloads at which a read stops.
const READ_MAX_BYTES: usize = 8 * 1024 * 1024;
/// Time for which a member waits for an assignment. Then it begins again with a new client: after a broker
/// did not answer for a minute, librdkafka can stay without a connection to the group's coordinator.
const ASSIGNMENT_TIMEOUT: Duration = Duration::from_secs(30);
/// Time that a running batch may take when the session ends.
const LAST_BATCH_TIMEOUT: Duration = Duration::from_secs(5);

/// Membership in the consumer group, from joining until an error or shutdown.
struct Session<'a, A> {
    consumer: &'a Consumer<A>,
    client: KafkaClient<StreamConsumer<Context>>,
    group_events: mpsc::UnboundedReceiver<GroupEvent>,
    partitions: BTreeMap<TopicPartition, Partition>,
    /// Number of assignments so far.
    assignments: u64,
    /// Running tasks: at most one batch, and the resolution of start offsets.
    tasks: FuturesUnordered<BoxFuture<'a, Completion>>,
    applying: bool,
    /// librdkafka waits for the answer to an assignment.
    assignment_pending: bool,
    /// Time since which the group has assigned nothing, not even an empty list.
    unassigned_since: Option<Instant>,
    /// The next batch is a retry if one is due, so that retries and new records alternate.
    retry_next: bool,
    /// Time at which the buffered records are applied at the latest, as far as the pace permits; `None` if
    /// there are none.
    due_at: Option<Instant>,
    pace: Pace,
}

/// Result of a task.
enum Completion {
    Resolved(Result<Result<Vec<(TopicPartition, Start)>, Stopped>, BoxError>),
    Applied(Batch, Result<(), Failure>),
}

/// Early end of a session.
enum SessionError {
    Stopped(Stopped),
    Error(BoxError),
}

impl<E: Into<BoxError>> From<E> for SessionError {
    fn from(error: E) -> Self {
        Self::Error(error.into())
    }
}

/// Joins the group, then reads and applies records until shutdown or until an error that requires a new
/// session.
pub(super) async fn session<A: Apply>(
    consumer: &Consumer<A>,
    kafka: &Kafka,
    shutdown: &CancellationToken,
    backoff: &mut Backoff,
) -> Result<Result<(), Stopped>, BoxError> {
    let (client, group_events) = kafka.member(consumer.name, consumer.topics)?;
    let mut session = Session {
        consumer,
        client,
        group_events,
        partitions: BTreeMap::new(),
        assignments: 0,
        tasks: FuturesUnordered::new(),
        applying: false,
        assignment_pending: false,
        unassigned_since: Some(Instant::now()),
        retry_next: false,
        due_at: None,
        pace: Pace::default(),
    };
    let result = session.run(shutdown, backoff).await;
    session.finish().await;
    match result {
        Ok(()) => Ok(Ok(())),
        Err(SessionError::Stopped(stopped)) => Ok(Err(stopped)),
        Err(SessionError::Error(error)) => Err(error),
    }
}

impl<A: Apply> Session<'_, A> {
    async fn run(&mut self, shutdown: &CancellationToken, backoff: &mut Backoff) -> Result<(), SessionError> {
        loop {
            self.start_batch();
            let next_at = if self.applying { None } else { self.next_batch_at() };
            let next_due = tokio::time::sleep_until(next_at.unwrap_or_else(Instant::now));
            let given_up_at = self.unassigned_since.map(|since| since + ASSIGNMENT_TIMEOUT);
            let given_up = tokio::time::sleep_until(given_up_at.unwrap_or_else(Instant::now));
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                Some(event) = self.group_events.recv() => self.handle(event),
                Some(completion) = self.tasks.next() => match completion {
                    Completion::Resolved(starts) => self.assign(starts?.map_err(SessionError::Stopped)?)?,
                    Completion::Applied(batch, result) => self.finish_batch(batch, result, backoff)?,
                },
                // Polling continues while a batch is applied: `max.poll.interval.ms` is 60 s.
                results = read(&self.client, self.consumer.topics) => self.receive(results)?,
                () = next_due, if next_at.is_some() => {}
                () = given_up, if given_up_at.is_some() => {
                    return Err("the group has assigned no partition in time".into());
                }
            }
        }
    }

    fn handle(&mut self, event: GroupEvent) {
        match event {
            GroupEvent::Assigned(partitions) => {
                let partitions = self.subscribed(&partitions);
                tracing::info!(consumer = self.consumer.name, ?partitions, "partitions assigned");
                self.unassigned_since = None;
                if partitions.is_empty() {
                    return;
                }
                self.assignment_pending = true;
                let consumer = self.consumer;
                let client = self.client.shared();
                let resolve =
                    async move { Completion::Resolved(start::resolve(consumer, client, partitions).await) };
                self.tasks.push(resolve.boxed());
            }
            GroupEvent::Revoked(partitions) => {
                let partitions = self.subscribed(&partitions);
                tracing::info!(consumer = self.consumer.name, ?partitions, "partitions revoked");
                for partition in partitions {
                    self.partitions.remove(&partition);
                }
                if self.partitions.is_empty() {
                    self.unassigned_since = Some(Instant::now());
                }
            }
            GroupEvent::EndOffsets(ends) => self.measure_lag(&ends),
        }
    }

    /// Sets the lag of each topic: the number of records of the assigned partitions that are not
    /// applied.
    fn measure_lag(&self, ends: &[EndOffset]) {
        for topic in self.consumer.topics {
            let of_topic = ends.iter().filter(|end| end.topic == *topic);
            let lags = of_topic.filter_map(|end| {
                let partition = self.partitions.get(&TopicPartition { topic, number: end.partition })?;
                Some((end.offset - partition.offset.next).max(0))
            });
            set_lag(self.consumer.name, topic, lags.sum());
        }
    }

    /// Returns the partitions with the static names of the subscribed topics.
    fn subscribed(&self, partitions: &[(String, i32)]) -> Vec<TopicPartition> {
        let topics = self.consumer.topics;
        let find = |(name, number): &(String, i32)| {
            topics.iter().find(|topic| *topic == name).map(|topic| TopicPartition { topic, number: *number })
        };
        partitions.iter().filter_map(find).collect()
    }

    /// Answers the assignment: each partition starts at its resolved offset.
    fn assign(&mut self, starts: Vec<(TopicPartition, Start)>) -> Result<(), SessionError> {
        let mut list = TopicPartitionList::new();
        for (TopicPartition { topic, number }, start) in &starts {
            list.add_partition_offset(topic, *number, KafkaOffset::Offset(start.read_from))?;
        }
        self.assignment_pending = false;
        self.client.incremental_assign(&list)?;
        for (partition, start) in starts {
            self.assignments += 1;
            let buffer = Partition::new(self.assignments, start.offset, start.expected);
            self.partitions.insert(partition, buffer);
        }
        Ok(())
    }

    fn receive(&mut self, results: Vec<Result<Record, KafkaError>>) -> Result<(), SessionError> {
        for result in results {
            let record = match result {
                Ok(record) => record,
                Err(error) if self.requires_restart(&error) => return Err(error.into()),
                Err(_) => continue,
            };
            let topic = record.topic;
            let number = i32::try_from(record.partition)?;
            let Some(partition) = self.partitions.get_mut(&TopicPartition { topic, number }) else {
                continue;
            };
            let next = partition.offset.next;
            let due_at = Instant::now() + self.consumer.handler.max_delay(&record);
            self.due_at = Some(self.due_at.map_or(due_at, |earlier| earlier.min(due_at)));
            if let Err(reason) = partition.push(record) {
                let consumer = self.consumer.name;
                let partition = i64::from(number);
                return Err(SessionError::Stopped(Stopped { consumer, topic, partition, next, reason }));
            }
        }
        self.update_pauses()
    }

    /// Returns `true` if an error requires a new session, which compares the log with the stored offsets
    /// again: the offset is not in the log, or no broker was reachable and the cluster may have been
    /// replaced. Without an assigned partition there is nothing to compare.
    fn requires_restart(&self, error: &KafkaError) -> bool {
        if matches!(error, KafkaError::MessageConsumptionFatal(_)) {
            return true;
        }
        tracing::debug!(consumer = self.consumer.name, %error, "error while reading from Kafka");
        let code = error.rdkafka_error_code();
        !self.partitions.is_empty()
            && matches!(
                code,
                Some(
                    RDKafkaErrorCode::AutoOffsetReset
                        | RDKafkaErrorCode::OffsetOutOfRange
                        | RDKafkaErrorCode::AllBrokersDown
                        | RDKafkaErrorCode::UnknownTopicOrPartition
                        | RDKafkaErrorCode::UnknownTopic
                        | RDKafkaErrorCode::UnknownPartition
                )
            )
    }

    /// Pauses partitions that are full or wait for a retry, and resumes the others.
    fn update_pauses(&mut self) -> Result<(), SessionError> {
        let mut pause = TopicPartitionList::new();
        let mut resume = TopicPartitionList::new();
        for (TopicPartition { topic, number }, partition) in &mut self.partitions {
            match (partition.paused, partition.wants_pause()) {
                (false, true) => drop(pause.add_partition(topic, *number)),
                (true, false) => drop(resume.add_partition(topic, *number)),
                _ => continue,
            }
            partition.paused = !partition.paused;
        }
        if pause.count() > 0 {
            self.client.pause(&pause)?;
        }
        if resume.count() > 0 {
            self.client.resume(&resume)?;
        }
        Ok(())
    }

    /// Returns the time of the next batch: of the next retry, or of records that wait for others.
    fn next_batch_at(&self) -> Option<Instant> {
        let buffered = self.partitions.values().filter(|partition| !partition.is_empty());
        let due_at = self.due_at();
        buffered.filter_map(|partition| partition.retry_at().or(due_at)).min()
    }

    /// Returns the time at which the buffered records are applied unless they are a retry.
    fn due_at(&self) -> Option<Instant> {
        let next_start = self.pace.next_start();
        self.due_at.map(|due_at| next_start.map_or(due_at, |next_start| due_at.max(next_start)))
    }

    /// Starts the next batch unless one is running: all partitions without a failure together, or one
    /// partition that is due for a retry. The two kinds alternate, so that a failing partition does not
    /// delay the others.
    fn start_batch(&mut self) {
        if self.applying {
            return;
        }
        let now = Instant::now();
        let buffered = || self.partitions.iter().filter(|(_, partition)| !partition.is_empty());
        let is_due = self.due_at().is_some_and(|due_at| due_at <= now);
        let healthy = buffered().filter(|(_, buffer)| is_due && !buffer.is_in_doubt());
        let healthy: Vec<TopicPartition> = healthy.map(|(partition, _)| *partition).collect();
        let retries = buffered().filter_map(|(partition, buffer)| Some((buffer.retry_at()?, *partition)));
        let due = retries.filter(|(retry_at, _)| *retry_at <= now).min().map(|(_, partition)| partition);
        let (partitions, in_doubt) = match due {
            Some(partition) if self.retry_next || healthy.is_empty() => (vec![partition], true),
            _ if healthy.is_empty() => return,
            _ => (healthy, false),
        };
        self.retry_next = !in_doubt;
        self.applying = true;
        let consumer = self.consumer;
        let batch = self.take_batch(&partitions, in_doubt);
        self.pace.start(oldest_us(&batch.records));
        let has_more = self.partitions.values().any(|partition| !partition.is_empty());
        self.due_at = self.due_at.filter(|_| has_more);
        self.tasks.push(async move { apply(consumer, batch).await }.boxed());
    }

    /// Takes the same share of records from each partition.
    fn take_batch(&mut self, partitions: &[TopicPartition], in_doubt: bool) -> Batch {
        let share = (BATCH_MAX / partitions.len()).max(1);
        let mut batch = Batch { slices: Vec::new(), records: Vec::new(), in_doubt };
        for partition in partitions {
            let buffer = self.partitions.get_mut(partition).expect("the partition is assigned");
            let records = buffer.take(share);
            batch.slices.push(PartitionSlice {
                partition: *partition,
                assignment: buffer.assignment,
                count: records.len(),
                from: buffer.offset,
                to: Offset::after(records.last().expect("the buffer is not empty")),
            });
            batch.records.extend(records);
        }
        batch
    }

    /// Handles the result of a batch: stores the offsets in Kafka, or returns the records to their
    /// buffers for a retry.
    fn finish_batch(
        &mut self,
        batch: Batch,
        result: Result<(), Failure>,
        backoff: &mut Backoff,
    ) -> Result<(), SessionError> {
        self.applying = false;
        let failure = match result {
            Ok(()) => {
                backoff.reset();
                self.store_offsets(&batch.slices)?;
                return self.update_pauses();
            }
            Err(Failure::OffsetMoved) => return Err("another process has moved the offset".into()),
            Err(Failure::Error(error)) => error,
        };
        let mut records = batch.records.into_iter();
        let mut retry_in = BACKOFF_MIN;
        for slice in batch.slices {
            let records: Vec<Record> = records.by_ref().take(slice.count).collect();
            if let Some(partition) = assigned(&mut self.partitions, &slice) {
                retry_in = partition.put_back(records);
            }
        }
        self.consumer.report_failure(&*failure, retry_in);
        self.update_pauses()
    }

    /// Moves the offsets after a batch. librdkafka commits the stored offsets to Kafka at intervals;
    /// they are only used to recognise a restored database.
    fn store_offsets(&mut self, slices: &[PartitionSlice]) -> Result<(), SessionError> {
        let mut list = TopicPartitionList::new();
        for slice in slices {
            if let Some(partition) = assigned(&mut self.partitions, slice) {
                partition.advance(slice.to);
                let TopicPartition { topic, number } = slice.partition;
                list.add_partition_offset(topic, number, KafkaOffset::Offset(slice.to.next))?;
            }
        }
        failpoint::pass("offsets");
        if let Err(error) = self.client.store_offsets(&list) {
            // A partition was revoked in the meantime. Its next owner stores the offset.
            tracing::debug!(consumer = self.consumer.name, %error, "storing offsets failed");
        }
        failpoint::pass("offsets_stored");
        Ok(())
    }

    /// Waits for the running batch, then leaves the group.
    async fn finish(mut self) {
        let deadline = Instant::now() + LAST_BATCH_TIMEOUT;
        while self.applying {
            tokio::select! {
                Some(completion) = self.tasks.next() => {
                    if let Completion::Applied(batch, result) = completion {
                        self.applying = false;
                        if result.is_ok() {
                            drop(self.store_offsets(&batch.slices));
                        }
                    }
                }
                _ = read(&self.client, self.consumer.topics) => {}
                () = tokio::time::sleep_until(deadline) => break,
            }
        }
        self.client.context().close();
        if self.assignment_pending || !self.group_events.is_empty() {
            // librdkafka does not close a client whose assignment is unanswered.
            drop(self.client.incremental_assign(&TopicPartitionList::new()));
        }
        // A task that resolves start offsets holds a reference to the client.
        self.tasks.clear();
        self.client.close().await;
    }
}

/// Returns the partition of a slice, unless its assignment has ended since.
fn assigned<'a>(
    partitions: &'a mut BTreeMap<TopicPartition, Partition>,
    slice: &PartitionSlice,
) -> Option<&'a mut Partition> {
    partitions.get_mut(&slice.partition).filter(|partition| partition.assignment == slice.assignment)
}

async fn apply<A: Apply>(consumer: &Consumer<A>, batch: Batch) -> Completion {
    let result = batch.apply(consumer).await;
    Completion::Applied(batch, result)
}

/// Waits for the next record and adds those that are already buffered, up to 500 records or 8 MiB.
/// Cancel-safe: no record is lost.
async fn read(client: &StreamConsumer<Context>, topics: &[&'static str]) -> Vec<Result<Record, KafkaError>> {
    let next = async || {
        let message = client.recv().await?;
        let topic =
            topics.iter().find(|topic| **topic == message.topic()).expect("only these topics are subscribed");
        Ok(wire::decode(topic, &message))
    };
    let mut results = vec![next().await];
    let mut bytes = 0;
    while results.len() < BATCH_MAX && bytes < READ_MAX_BYTES {
        let Some(result) = next().now_or_never() else { break };
        bytes += result.as_ref().map_or(0, |record| record.payload.len());
        results.push(result);
    }
    results
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Log, consumer::new_backoff};

    struct Ignore;

    impl Apply for Ignore {
        async fn apply(&self, _: &mut db::Tx, _: &[Record]) -> Result<(), BoxError> {
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_without_an_assignment_ends() {
        let folder = tempfile::tempdir().expect("a folder");
        let db = db::Db::open_file(&folder.path().join("test.db")).await.expect("a database");
        // No broker listens there, as none answers after a pause.
        let kafka = Kafka::new("kafka://127.0.0.1:1", None).expect("a URL");
        let consumer = Consumer::new("test", &["test.t"], &Log::Kafka(kafka.clone()), &db, Ignore);
        let start = Instant::now();
        let ended = session(&consumer, &kafka, &CancellationToken::new(), &mut new_backoff()).await;
        assert_eq!(ended.unwrap_err().to_string(), "the group has assigned no partition in time");
        assert!((ASSIGNMENT_TIMEOUT..ASSIGNMENT_TIMEOUT * 2).contains(&start.elapsed()));
    }
}
