//! The relay: in order, without a loss, by one process at a time.

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

use crate::world::{Cluster, World, append, count, worlds};

/// Reads until every key has shown its last version; the first occurrences of versions, key by key.
async fn first_occurrences(tail: &mut Tail, keys: usize, last: i64) -> BTreeMap<String, Vec<i64>> {
    let mut seen: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    let mut places: BTreeMap<i64, i64> = BTreeMap::new();
    while seen.values().filter(|versions| versions.contains(&last)).count() < keys {
        let next = tokio::time::timeout(Duration::from_secs(40), tail.next()).await.expect("records come");
        for record in next.unwrap_or_default().records {
            let before = places.insert(record.partition, record.offset);
            assert!(
                before.is_none_or(|before| before + 1 == record.offset),
                "the tail jumped: {before:?}, {record:?}"
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

/// The mock checks no sequence numbers of idempotent producers, and librdkafka takes a batch that succeeds as proof of the one
/// before it: with several under way, an injected error makes it lose events. So here it is one at a time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_event_is_sent_again_by_a_new_producer() {
    for world in worlds().await {
        let Cluster::Mock(mock) = &world.cluster else { continue };
        let producer = world.database().await;
        let mut tail = Log::Kafka(world.kafka("tail")).tail(&[world.topic]).await.unwrap();
        let relay = world.relay(&producer.db);
        for version in 0..12 {
            let error = [
                RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_RECORD,
                RDKafkaRespErr::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
                RDKafkaRespErr::RD_KAFKA_RESP_ERR__TRANSPORT,
            ][usize::try_from(version % 3).unwrap()];
            mock.request_errors(RDKafkaApiKey::Produce, &[error]);
            append(&producer.db, world.topic, 1, version..version + 1).await;
            eventually("the outbox is empty", || async { count(&producer.db, "outbox").await == 0 }).await;
        }
        assert_in_order(&first_occurrences(&mut tail, 1, 11).await, 0..12);
        relay.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_connections_lose_and_swap_nothing() {
    for world in worlds().await {
        let Cluster::Mock(mock) = &world.cluster else { continue };
        let producer = world.database().await;
        let mut tail = Log::Kafka(world.kafka("tail")).tail(&[world.topic]).await.unwrap();
        let relay = world.relay(&producer.db);
        for round in 0..30 {
            append(&producer.db, world.topic, 20, round * 10..round * 10 + 10).await;
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

/// What a broker refuses for good stops the relay at it, again and again, until an operator has raised the broker's limit: to
/// go on without it would lose it, to send the next ones first would swap them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_the_broker_refuses_is_not_overtaken() {
    for world in worlds().await {
        if matches!(world.cluster, Cluster::Mock(_)) {
            continue; // it takes records of any size
        }
        let producer = world.database().await;
        let mut tail = Log::Kafka(world.kafka("tail")).tail(&[world.topic]).await.unwrap();
        set_largest_batch(&world, 50_000).await;
        append(&producer.db, world.topic, 3, 0..100).await;
        append_large(&producer.db, world.topic, 100..101, true).await;
        // Batches of their own behind it, which the broker would take.
        append_large(&producer.db, world.topic, 101..400, false).await;
        let relay = world.relay(&producer.db);
        eventually("it was refused again and again", || async { epoch(&producer.db).await > 4 }).await;
        let row = query("select count(*) as n from outbox where key = 'key-0' and version >= 100")
            .one(&producer.db);
        assert_eq!(row.await.unwrap().get::<i64>("n").unwrap(), 300, "nothing behind it was sent");
        set_largest_batch(&world, 1_000_000).await;
        let mut seen = first_occurrences(&mut tail, 1, 399).await;
        seen.retain(|key, _| key == "key-0");
        assert_in_order(&seen, 0..400);
        eventually("the outbox is empty", || async { count(&producer.db, "outbox").await == 0 }).await;
        relay.stop().await;
    }
}

/// How often the lease was taken.
async fn epoch(db: &Db) -> i64 {
    let row = query("select epoch from lease where name = 'relay'").optional(db).await.unwrap();
    row.map_or(0, |row| row.get("epoch").unwrap())
}

async fn set_largest_batch(world: &World, bytes: usize) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", world.brokers()).create().unwrap();
    let bytes = bytes.to_string();
    let topic = AlterConfig::new(ResourceSpecifier::Topic(world.topic)).set("max.message.bytes", &bytes);
    for altered in admin.alter_configs(&[topic], &AdminOptions::new()).await.unwrap() {
        altered.unwrap();
    }
}

/// Appends large events of the first key: noise, which does not compress, or nothing but zeros.
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
async fn one_relay_works_at_a_time_and_a_lost_lease_loses_nothing() {
    for world in worlds().await {
        let producer = world.database().await;
        let mut tail = Log::Kafka(world.kafka("tail")).tail(&[world.topic]).await.unwrap();
        let one = world.relay(&producer.db);
        eventually("the first has the lease", || async { epoch(&producer.db).await == 1 }).await;
        let two = world.relay(&producer.db);
        append(&producer.db, world.topic, 5, 0..50).await;
        eventually("the first works", || async { count(&producer.db, "outbox").await == 0 }).await;
        assert_eq!(epoch(&producer.db).await, 1, "the second waits");
        // A third one takes it from the first, as after a pause longer than the term, and dies at once.
        let mut tx = producer.db.begin().await.unwrap();
        let take = query(
            "update lease set owner = $1, epoch = epoch + 1, expires_at_us = (select now_us from clock) + 1000000",
        );
        take.bind(Uuid::now_v7()).execute(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        append(&producer.db, world.topic, 5, 50..100).await;
        eventually("one of the two goes on", || async { epoch(&producer.db).await >= 3 }).await;
        assert_in_order(&first_occurrences(&mut tail, 5, 99).await, 0..100);
        eventually("the outbox is empty", || async { count(&producer.db, "outbox").await == 0 }).await;
        // A relay that is shut down hands the lease on: the other one need not wait for the term to pass.
        one.stop().await;
        append(&producer.db, world.topic, 5, 100..110).await;
        eventually("the second works", || async { count(&producer.db, "outbox").await == 0 }).await;
        two.stop().await;
    }
}
