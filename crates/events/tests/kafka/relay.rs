//! Tests of the relay: it publishes in order and without loss, in one process at a time.

use std::{collections::BTreeMap, time::Duration};

use db::{Db, query};
use events::{Event, Headers, Log, Tail, outbox};
use rand::{Rng, SeedableRng};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier},
    client::DefaultClientContext,
    types::{RDKafkaApiKey, RDKafkaRespErr},
};
use testkit::eventually;
use uuid::Uuid;

use crate::fixture::{Cluster, Fixture, append, count, fixtures};

/// Reads until the last version of every key was received. Returns the versions of each key by first
/// occurrence.
async fn first_occurrences(tail: &mut Tail, keys: usize, last: i64) -> BTreeMap<String, Vec<i64>> {
    let mut seen: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    let mut offsets: BTreeMap<i64, i64> = BTreeMap::new();
    while seen.values().filter(|versions| versions.contains(&last)).count() < keys {
        let batch = tokio::time::timeout(Duration::from_secs(40), tail.next()).await.expect("records arrive");
        for record in batch.unwrap_or_default().records {
            let previous = offsets.insert(record.partition, record.offset);
            assert!(
                previous.is_none_or(|previous| previous + 1 == record.offset),
                "the tail skipped records: {previous:?}, {record:?}"
            );
            let versions = seen.entry(record.key).or_default();
            if !versions.contains(&record.version) {
                versions.push(record.version);
            }
        }
    }
    seen
}

fn assert_in_order(seen: &BTreeMap<String, Vec<i64>>, versions: std::ops::Range<i64>) {
    for (key, found) in seen {
        assert_eq!(*found, versions.clone().collect::<Vec<_>>(), "{key}");
    }
}

/// Sends one event at a time. The mock does not check the sequence numbers of idempotent producers, and
/// librdkafka takes a successful batch as proof that the previous one succeeded, so with several batches
/// in flight an injected error would lose events.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rejected_event_is_sent_again_by_a_new_producer() {
    for fixture in fixtures().await {
        let Cluster::Mock(mock) = &fixture.cluster else { continue };
        let producer = fixture.database().await;
        let mut tail = Log::Kafka(fixture.kafka("tail")).tail(&[fixture.topic]).await.unwrap();
        let relay = fixture.relay(&producer.db);
        for version in 0..12 {
            let error = [
                RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_RECORD,
                RDKafkaRespErr::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
                RDKafkaRespErr::RD_KAFKA_RESP_ERR__TRANSPORT,
            ][usize::try_from(version % 3).unwrap()];
            mock.request_errors(RDKafkaApiKey::Produce, &[error]);
            append(&producer.db, fixture.topic, 1, version..version + 1).await;
            eventually("the outbox is empty", || async { count(&producer.db, "outbox").await == 0 }).await;
        }
        assert_in_order(&first_occurrences(&mut tail, 1, 11).await, 0..12);
        relay.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closed_connections_neither_lose_nor_reorder_events() {
    for fixture in fixtures().await {
        let Cluster::Mock(mock) = &fixture.cluster else { continue };
        let producer = fixture.database().await;
        let mut tail = Log::Kafka(fixture.kafka("tail")).tail(&[fixture.topic]).await.unwrap();
        let relay = fixture.relay(&producer.db);
        for round in 0..30 {
            append(&producer.db, fixture.topic, 20, round * 10..round * 10 + 10).await;
            if round % 10 == 5 {
                mock.broker_down(1).unwrap();
                tokio::time::sleep(Duration::from_millis(20)).await;
                mock.broker_up(1).unwrap();
            }
        }
        assert_in_order(&first_occurrences(&mut tail, 20, 299).await, 0..300);
        eventually("the outbox is empty", || async { count(&producer.db, "outbox").await == 0 }).await;
        relay.stop().await;
    }
}

/// An event that the broker rejects permanently stops the relay until an operator raises the broker's
/// limit. Skipping the event would lose it, and sending later ones first would reorder them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_permanently_rejected_event_is_not_overtaken() {
    for fixture in fixtures().await {
        if matches!(fixture.cluster, Cluster::Mock(_)) {
            continue; // the mock accepts records of any size
        }
        let producer = fixture.database().await;
        let mut tail = Log::Kafka(fixture.kafka("tail")).tail(&[fixture.topic]).await.unwrap();
        set_max_message_bytes(&fixture, 50_000).await;
        append(&producer.db, fixture.topic, 3, 0..100).await;
        append_large(&producer.db, fixture.topic, 100..101, true).await;
        // These later events form separate batches, which the broker would accept.
        append_large(&producer.db, fixture.topic, 101..400, false).await;
        let relay = fixture.relay(&producer.db);
        eventually("the event was rejected several times", || async { epoch(&producer.db).await > 4 }).await;
        let row = query("select count(*) as n from outbox where key = 'key-0' and version >= 100")
            .one(&producer.db);
        assert_eq!(row.await.unwrap().get::<i64>("n").unwrap(), 300, "no later event was sent");
        set_max_message_bytes(&fixture, 1_000_000).await;
        let mut seen = first_occurrences(&mut tail, 1, 399).await;
        seen.retain(|key, _| key == "key-0");
        assert_in_order(&seen, 0..400);
        eventually("the outbox is empty", || async { count(&producer.db, "outbox").await == 0 }).await;
        relay.stop().await;
    }
}

/// Returns the number of times that the lease was acquired.
async fn epoch(db: &Db) -> i64 {
    let row = query("select epoch from lease where name = 'relay'").optional(db).await.unwrap();
    row.map_or(0, |row| row.get("epoch").unwrap())
}

async fn set_max_message_bytes(fixture: &Fixture, bytes: usize) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", fixture.brokers()).create().unwrap();
    let bytes = bytes.to_string();
    let topic = AlterConfig::new(ResourceSpecifier::Topic(fixture.topic)).set("max.message.bytes", &bytes);
    for altered in admin.alter_configs(&[topic], &AdminOptions::new()).await.unwrap() {
        altered.unwrap();
    }
}

/// Appends large events of the first key. `noise` payloads do not compress; the others are zeros.
async fn append_large(db: &Db, topic: &'static str, versions: std::ops::Range<i64>, noise: bool) {
    let mut random = rand::rngs::SmallRng::seed_from_u64(7);
    let mut payload =
        || if noise { (0..100_000).map(|_| random.random()).collect() } else { vec![0; 10_000] };
    let events: Vec<Event> = versions
        .map(|version| Event {
            event_id: Uuid::now_v7(),
            topic,
            key: "key-0".to_owned(),
            version,
            kind: "Tested",
            payload: payload(),
            headers: Headers::default(),
        })
        .collect();
    let mut tx = db.begin().await.unwrap();
    outbox::append(&mut tx, &events).await.unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_relay_works_at_a_time_and_a_lost_lease_loses_no_event() {
    for fixture in fixtures().await {
        let producer = fixture.database().await;
        let mut tail = Log::Kafka(fixture.kafka("tail")).tail(&[fixture.topic]).await.unwrap();
        let one = fixture.relay(&producer.db);
        eventually("the first relay holds the lease", || async { epoch(&producer.db).await == 1 }).await;
        let two = fixture.relay(&producer.db);
        append(&producer.db, fixture.topic, 5, 0..50).await;
        eventually("the first relay publishes", || async { count(&producer.db, "outbox").await == 0 }).await;
        assert_eq!(epoch(&producer.db).await, 1, "the second relay waits");
        // A third owner acquires the lease, as after a pause longer than the term, and does not renew
        // it.
        let mut tx = producer.db.begin().await.unwrap();
        let acquire = query(
            "update lease set owner = $1, epoch = epoch + 1,
                expires_at_us = (select now_us from clock) + 1000000",
        );
        acquire.bind(Uuid::now_v7()).execute(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        append(&producer.db, fixture.topic, 5, 50..100).await;
        eventually("one of the two relays continues", || async { epoch(&producer.db).await >= 3 }).await;
        assert_in_order(&first_occurrences(&mut tail, 5, 99).await, 0..100);
        eventually("the outbox is empty", || async { count(&producer.db, "outbox").await == 0 }).await;
        // A relay releases the lease at shutdown, so that the other one need not wait until it expires.
        one.stop().await;
        append(&producer.db, fixture.topic, 5, 100..110).await;
        eventually("the second relay publishes", || async { count(&producer.db, "outbox").await == 0 }).await;
        two.stop().await;
    }
}
