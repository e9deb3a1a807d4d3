//! Faults of the event log: records that are gone, that come several times, and that come again.

use std::time::Duration;

use db::{Db, query};
use proto::topic;
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    client::Client,
    consumer::{BaseConsumer, Consumer, StreamConsumer},
    message::{BorrowedHeaders, BorrowedMessage, Header, Headers, OwnedHeaders},
    producer::{FutureProducer, FutureRecord},
};
use tokio::time::{Instant, sleep, timeout_at};

use crate::{restore, stack::Stack};

/// Time for a request to Kafka.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Topics with events of the services.
const TOPICS: [&str; 4] = [topic::AUTH, topic::DIALOG, topic::COUNTER, topic::UNREAD];
/// Header of a record that repeats another one.
const REPEATED: &str = "repeated";

/// Stops the counter, and deletes the log up to its end before it starts again.
pub async fn cut(stack: &mut Stack, hold: Duration) {
    stack.kill("counter").await;
    sleep(hold).await;
    let partitions = restore::watermarks(stack.kafka_url()).await.into_keys().collect();
    restore::delete_records(stack.kafka_url(), &partitions).await;
    stack.start_role("counter");
}

/// Writes every record that a relay publishes during `hold` twice more, to the end of its partition. Newer
/// records of the same key often come before these.
pub async fn repeat(kafka_url: &str, hold: Duration) {
    let consumer: StreamConsumer = client(kafka_url).set("group.id", "repeat").create().unwrap();
    consumer.assign(&partitions(consumer.client(), &TOPICS)).unwrap();
    let producer: FutureProducer = client(kafka_url).create().unwrap();
    let end = Instant::now() + hold;
    let mut repeated = 0;
    while let Ok(record) = timeout_at(end, consumer.recv()).await {
        let record = record.unwrap();
        let headers = record.headers();
        if headers.is_some_and(|headers| headers.iter().any(|header| header.key == REPEATED)) {
            continue;
        }
        for _ in 0..2 {
            produce_again(&producer, &record).await;
        }
        repeated += 1;
    }
    println!("          {repeated} events were repeated");
    assert!(repeated > 0, "no event was written during the fault");
}

async fn produce_again(producer: &FutureProducer, record: &BorrowedMessage<'_>) {
    let headers = record.headers().map_or_else(OwnedHeaders::new, BorrowedHeaders::detach);
    let headers = headers.insert(Header { key: REPEATED, value: Some("1") });
    let copy = FutureRecord::to(record.topic()).partition(record.partition()).headers(headers);
    let copy = copy.key(record.key().unwrap_or_default()).payload(record.payload().unwrap_or_default());
    producer.send(copy, REQUEST_TIMEOUT).await.unwrap();
}

/// Kills a role, sets the positions of its consumers back to the first record of each partition, and starts
/// it.
pub async fn replay(stack: &mut Stack, role: &'static str) {
    stack.kill(role).await;
    let consumer: BaseConsumer = client(stack.kafka_url()).create().unwrap();
    let db = Db::open(&stack.databases[role], 1).await.unwrap();
    let select = query("select distinct topic, partition from consumer_offset where next_offset > 0");
    let positions = select.all(&db).await.unwrap();
    assert!(!positions.is_empty(), "{role} has consumed nothing");
    for row in positions {
        let (topic, partition): (String, i64) = (row.get("topic").unwrap(), row.get("partition").unwrap());
        let id = i32::try_from(partition).expect("few partitions");
        let (first, _) = consumer.fetch_watermarks(&topic, id, REQUEST_TIMEOUT).unwrap();
        let update = query(
            "update consumer_offset set next_offset = $3, last_event_id = null
             where topic = $1 and partition = $2",
        );
        update.bind(topic).bind(partition).bind(first).execute(&db).await.unwrap();
    }
    db.close().await;
    stack.start_role(role);
}

fn client(kafka_url: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", kafka_url.trim_start_matches("kafka://"));
    config
}

/// Returns the ends of all partitions of topics.
fn partitions<C: rdkafka::ClientContext>(client: &Client<C>, topics: &[&str]) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for topic in topics {
        let metadata = client.fetch_metadata(Some(topic), REQUEST_TIMEOUT).unwrap();
        for partition in metadata.topics()[0].partitions() {
            list.add_partition_offset(topic, partition.id(), Offset::End).unwrap();
        }
    }
    list
}
