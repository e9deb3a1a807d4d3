//! The consumer on Kafka: a member of the group of its name. Polling never stops, whatever a batch does: records wait in
//! memory within bounds, a batch of all partitions is applied at a time, and what failed is repeated partition by partition
//! while the others go on.

use std::collections::BTreeMap;

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use rdkafka::{
    Message, Offset as At, TopicPartitionList,
    consumer::{Consumer as _, StreamConsumer},
    error::{KafkaError, RDKafkaErrorCode},
};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Apply, BACKOFF_MIN, BATCH, BoxError, Consumer, Duration,
    batch::{Batch, Failure, Part},
    lag,
    partition::Partition,
    start::{self, Start},
};
use crate::{
    Kafka, Record, Stopped,
    kafka::{
        client::{Closing, Context, Heard},
        wire,
    },
    offset::Offset,
};

/// The bytes of payloads that are read at once, about.
const READ_BYTES: usize = 8 * 1024 * 1024;
/// How long a batch under way may take when the session ends.
const LAST_BATCH: Duration = Duration::from_secs(5);

type Place = (&'static str, i32);

/// One membership in the group, from joining to an error or the end.
struct Session<'a, A> {
    consumer: &'a Consumer<A>,
    client: Closing<StreamConsumer<Context>>,
    heard: mpsc::UnboundedReceiver<Heard>,
    partitions: BTreeMap<Place, Partition>,
    assignments: u64,
    /// What is under way: at most one batch, and where to begin in what was assigned.
    work: FuturesUnordered<BoxFuture<'a, Done>>,
    applying: bool,
    /// An assignment was not answered yet.
    owing: bool,
    /// Whose turn is next: the partitions in trouble, or the others.
    troubled_next: bool,
}

enum Done {
    Resolved(Result<Vec<(Place, Start)>, Stopped>),
    Applied(Batch, Result<(), Failure>),
}

/// How a session ends early.
enum End {
    Stopped(Stopped),
    Error(BoxError),
}

impl<E: Into<BoxError>> From<E> for End {
    fn from(error: E) -> Self {
        Self::Error(error.into())
    }
}

/// Joins the group, reads and applies until shut down or until an error that only a new beginning can cure.
pub(super) async fn session<A: Apply>(
    consumer: &Consumer<A>,
    kafka: &Kafka,
    shutdown: &CancellationToken,
    backoff: &mut Duration,
) -> Result<Result<(), Stopped>, BoxError> {
    let (client, heard) = kafka.member(consumer.name, consumer.topics)?;
    let mut session = Session {
        consumer,
        client,
        heard,
        partitions: BTreeMap::new(),
        assignments: 0,
        work: FuturesUnordered::new(),
        applying: false,
        owing: false,
        troubled_next: false,
    };
    let end = session.run(shutdown, backoff).await;
    session.finish().await;
    match end {
        Ok(()) => Ok(Ok(())),
        Err(End::Stopped(stopped)) => Ok(Err(stopped)),
        Err(End::Error(error)) => Err(error),
    }
}

impl<A: Apply> Session<'_, A> {
    async fn run(&mut self, shutdown: &CancellationToken, backoff: &mut Duration) -> Result<(), End> {
        loop {
            self.begin_batch();
            let again_at = if self.applying { None } else { self.again_at() };
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                Some(heard) = self.heard.recv() => self.hear(heard),
                Some(done) = self.work.next() => match done {
                    Done::Resolved(starts) => self.assign(starts.map_err(End::Stopped)?)?,
                    Done::Applied(batch, result) => self.applied(batch, result, backoff)?,
                },
                read = read(&self.client, self.consumer.topics) => self.received(read)?,
                () = tokio::time::sleep_until(again_at.unwrap_or_else(Instant::now)), if again_at.is_some() => {}
            }
        }
    }

    fn hear(&mut self, heard: Heard) {
        match heard {
            Heard::Assigned(places) => {
                let places = self.known(&places);
                tracing::info!(consumer = self.consumer.name, ?places, "partitions assigned");
                self.owing = true;
                let (consumer, client) = (self.consumer, self.client.shared());
                self.work.push(
                    async move { Done::Resolved(start::resolve(consumer, client, places).await) }.boxed(),
                );
            }
            Heard::Revoked(places) => {
                let places = self.known(&places);
                tracing::info!(consumer = self.consumer.name, ?places, "partitions revoked");
                for place in places {
                    self.partitions.remove(&place);
                }
            }
            Heard::Ends(ends) => self.measure(&ends),
        }
    }

    /// Says of every topic how much of our partitions is not applied yet.
    fn measure(&self, ends: &[(String, i32, i64)]) {
        for topic in self.consumer.topics {
            let of_topic = ends.iter().filter(|(name, _, _)| name == topic);
            let behind = of_topic.filter_map(|(_, number, end)| {
                let partition = self.partitions.get(&(*topic, *number))?;
                Some((end - partition.offset.next).max(0))
            });
            lag(self.consumer.name, topic, behind.sum());
        }
    }

    fn known(&self, places: &[(String, i32)]) -> Vec<Place> {
        let topics = self.consumer.topics;
        let known = |(name, partition): &(String, i32)| {
            topics.iter().find(|topic| *topic == name).map(|topic| (*topic, *partition))
        };
        places.iter().filter_map(known).collect()
    }

    /// Answers the assignment: every partition begins where the database says.
    fn assign(&mut self, starts: Vec<(Place, Start)>) -> Result<(), End> {
        let mut list = TopicPartitionList::new();
        for ((topic, partition), start) in &starts {
            list.add_partition_offset(topic, *partition, At::Offset(start.read_from))?;
        }
        self.owing = false;
        self.client.incremental_assign(&list)?;
        for (place, start) in starts {
            self.assignments += 1;
            self.partitions.insert(place, Partition::new(self.assignments, start.offset, start.expected));
        }
        Ok(())
    }

    fn received(&mut self, read: Vec<Result<Record, KafkaError>>) -> Result<(), End> {
        for result in read {
            let record = match result {
                Ok(record) => record,
                Err(error) if self.is_serious(&error) => return Err(error.into()),
                Err(_) => continue,
            };
            let place = (record.topic, i32::try_from(record.partition)?);
            let Some(partition) = self.partitions.get_mut(&place) else { continue };
            let next = partition.offset.next;
            if let Err(why) = partition.push(record) {
                let (consumer, (topic, number)) = (self.consumer.name, place);
                return Err(End::Stopped(Stopped {
                    consumer,
                    topic,
                    partition: i64::from(number),
                    next,
                    why,
                }));
            }
        }
        self.balance_pauses()
    }

    /// Whether an error asks for a new beginning, with its look at the log: our place is gone, or the brokers were away all
    /// together and may be others now. While we have no partition there is nothing to look at.
    fn is_serious(&self, error: &KafkaError) -> bool {
        if matches!(error, KafkaError::MessageConsumptionFatal(_)) {
            return true;
        }
        tracing::debug!(consumer = self.consumer.name, %error, "Kafka says");
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

    /// Pauses what is full or waits for a repetition, and lets go on what is neither any more.
    fn balance_pauses(&mut self) -> Result<(), End> {
        let (mut pause, mut resume) = (TopicPartitionList::new(), TopicPartitionList::new());
        for ((topic, number), partition) in &mut self.partitions {
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

    /// When the next attempt after a failure is due.
    fn again_at(&self) -> Option<Instant> {
        self.partitions
            .values()
            .filter(|partition| !partition.is_empty())
            .filter_map(Partition::again_at)
            .min()
    }

    /// Begins to apply what waits, unless a batch is under way: everything that is well together, or one partition in
    /// trouble alone, in turns.
    fn begin_batch(&mut self) {
        if self.applying {
            return;
        }
        let now = Instant::now();
        let waiting = || self.partitions.iter().filter(|(_, partition)| !partition.is_empty());
        let well: Vec<Place> =
            waiting().filter(|(_, part)| !part.is_in_doubt()).map(|(place, _)| *place).collect();
        let due = waiting().filter_map(|(place, part)| Some((part.again_at()?, *place)));
        let troubled = due.filter(|(again_at, _)| *again_at <= now).min().map(|(_, place)| place);
        let (places, in_doubt) = match troubled {
            Some(place) if self.troubled_next || well.is_empty() => (vec![place], true),
            _ if well.is_empty() => return,
            _ => (well, false),
        };
        self.troubled_next = !in_doubt;
        self.applying = true;
        let (consumer, batch) = (self.consumer, self.batch(&places, in_doubt));
        self.work.push(async move { apply(consumer, batch).await }.boxed());
    }

    /// Takes a fair share of every partition's records.
    fn batch(&mut self, places: &[Place], in_doubt: bool) -> Batch {
        let share = (BATCH / places.len()).max(1);
        let mut batch = Batch { parts: Vec::new(), records: Vec::new(), in_doubt };
        for place in places {
            let partition = self.partitions.get_mut(place).expect("it is one of ours");
            let records = partition.take(share);
            let to = Offset::after(records.last().expect("it has records that wait"));
            let (assignment, count, from) = (partition.assignment, records.len(), partition.offset);
            batch.parts.push(Part { place: *place, assignment, count, from, to });
            batch.records.extend(records);
        }
        batch
    }

    /// A batch has ended: what was applied is stored in Kafka, what failed waits for its repetition.
    fn applied(
        &mut self,
        batch: Batch,
        result: Result<(), Failure>,
        backoff: &mut Duration,
    ) -> Result<(), End> {
        self.applying = false;
        let failure = match result {
            Ok(()) => {
                *backoff = BACKOFF_MIN;
                self.store(&batch.parts)?;
                return self.balance_pauses();
            }
            Err(Failure::Moved) => return Err("another process has moved our offset".into()),
            Err(Failure::Error(error)) => error,
        };
        let mut records = batch.records.into_iter();
        let mut retry_in = BACKOFF_MIN;
        for part in batch.parts {
            let own: Vec<Record> = records.by_ref().take(part.count).collect();
            if let Some(partition) = current(&mut self.partitions, &part) {
                retry_in = partition.put_back(own);
            }
        }
        self.consumer.failed(&*failure, retry_in);
        self.balance_pauses()
    }

    /// Remembers what was applied, here and in Kafka, which commits it by itself now and then.
    fn store(&mut self, parts: &[Part]) -> Result<(), End> {
        let mut list = TopicPartitionList::new();
        for part in parts {
            if let Some(partition) = current(&mut self.partitions, part) {
                partition.advanced(part.to);
                list.add_partition_offset(part.place.0, part.place.1, At::Offset(part.to.next))?;
            }
        }
        if let Err(error) = self.client.store_offsets(&list) {
            // A partition that was revoked meanwhile: the next owner stores it.
            tracing::debug!(consumer = self.consumer.name, %error, "offsets were not stored in Kafka");
        }
        Ok(())
    }

    /// Lets a batch under way end, then leaves the group.
    async fn finish(mut self) {
        let deadline = Instant::now() + LAST_BATCH;
        while self.applying {
            tokio::select! {
                Some(done) = self.work.next() => {
                    if let Done::Applied(batch, result) = done {
                        self.applying = false;
                        if result.is_ok() {
                            drop(self.store(&batch.parts));
                        }
                    }
                }
                _ = read(&self.client, self.consumer.topics) => {}
                () = tokio::time::sleep_until(deadline) => break,
            }
        }
        self.client.context().close();
        if self.owing || !self.heard.is_empty() {
            // Nobody will say where to begin any more; without an answer the client would never close.
            drop(self.client.incremental_assign(&TopicPartitionList::new()));
        }
        // What was asked where to begin holds the client, too.
        self.work.clear();
        self.client.close().await;
    }
}

/// The partition that a part was taken from, where it is still ours by the same assignment.
fn current<'a>(partitions: &'a mut BTreeMap<Place, Partition>, part: &Part) -> Option<&'a mut Partition> {
    partitions.get_mut(&part.place).filter(|partition| partition.assignment == part.assignment)
}

async fn apply<A: Apply>(consumer: &Consumer<A>, batch: Batch) -> Done {
    let result = batch.apply(consumer).await;
    Done::Applied(batch, result)
}

/// The next records and whatever else is there, at most a batch or 8 MiB. Cancelled while it waits, it loses none.
async fn read(client: &StreamConsumer<Context>, topics: &[&'static str]) -> Vec<Result<Record, KafkaError>> {
    let one = async || {
        let message = client.recv().await?;
        let topic =
            topics.iter().find(|topic| **topic == message.topic()).expect("only these are subscribed");
        Ok(wire::record(topic, &message))
    };
    let mut read = vec![one().await];
    let mut bytes = 0;
    while read.len() < BATCH && bytes < READ_BYTES {
        let Some(next) = one().now_or_never() else { break };
        bytes += next.as_ref().map_or(0, |record| record.payload.len());
        read.push(next);
    }
    read
}
