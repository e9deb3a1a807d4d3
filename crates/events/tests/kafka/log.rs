//! Tests of a replaced log or a restored database: the consumer stops, or continues without applying an
//! event twice.

use std::{sync::Arc, time::Duration};

use db::{Db, query};
use events::{Log, Loss, LossKind, Mismatch, Stopped};
use parking_lot::Mutex;
use rdkafka::{
    ClientConfig, TopicPartitionList,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
};

use crate::fixture::{
    Cluster, CopyHandler, Fixture, append, assert_each_once, copied, count, fixtures, wait_until_copied,
};

/// Replaces the topic by an empty one with the same name: in another mock, or by deleting and creating
/// it.
async fn replace(fixture: &Fixture) -> Fixture {
    match &fixture.cluster {
        Cluster::Mock(_) => Fixture::mock(fixture.topic, db::Dialect::Sqlite),
        Cluster::Real(url) => {
            let admin = admin(fixture);
            for deleted in admin.delete_topics(&[fixture.topic], &AdminOptions::new()).await.unwrap() {
                deleted.unwrap();
            }
            let mut replaced = Fixture::real(url.clone(), db::Dialect::Postgres).await;
            replaced.topic = fixture.topic;
            replaced.create_topic().await;
            replaced
        }
    }
}

fn admin(fixture: &Fixture) -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", fixture.brokers()).create().unwrap()
}

async fn fill(fixture: &Fixture, db: &Db, versions: std::ops::Range<i64>) {
    let relay = fixture.relay(db);
    append(db, fixture.topic, 20, versions).await;
    testkit::eventually("the outbox is empty", || async { count(db, "outbox").await == 0 }).await;
    relay.stop().await;
}

async fn consume(fixture: &Fixture, name: &'static str, db: &Db, wanted: usize) {
    let consumer = fixture.start_consumer(name, "one", db, CopyHandler::default());
    wait_until_copied(db, wanted).await;
    consumer.stop().await.unwrap();
}

async fn start_and_stop(fixture: &Fixture, name: &'static str, db: &Db) -> Stopped {
    fixture.start_consumer(name, "one", db, CopyHandler::default()).end().await.unwrap_err()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_stops_at_a_replaced_log() {
    for fixture in fixtures().await {
        let producer = fixture.database().await;
        let target = fixture.database().await;
        fill(&fixture, &producer.db, 0..10).await;
        consume(&fixture, "stranger", &target.db, 200).await;
        let shorter = replace(&fixture).await;
        fill(&shorter, &producer.db, 0..1).await;
        let stopped = start_and_stop(&shorter, "stranger", &target.db).await;
        assert!(matches!(stopped.reason, Mismatch::EndsAt(_)), "{stopped}");
        // The new log becomes longer than the old one, with other records at the same offsets.
        fill(&shorter, &producer.db, 1..20).await;
        let stopped = start_and_stop(&shorter, "stranger", &target.db).await;
        assert_eq!(stopped.reason, Mismatch::DifferentRecord, "{stopped}");
        assert_each_once(&target.db, 20, 0..10).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_consumer_stops_when_its_topic_is_recreated() {
    for fixture in fixtures().await {
        if matches!(fixture.cluster, Cluster::Mock(_)) {
            continue; // the mock cannot delete topics
        }
        let producer = fixture.database().await;
        let target = fixture.database().await;
        fill(&fixture, &producer.db, 0..10).await;
        let consumer = fixture.start_consumer("witness", "one", &target.db, CopyHandler::default());
        wait_until_copied(&target.db, 200).await;
        let mut tail = Log::Kafka(fixture.kafka("tail")).tail(&[fixture.topic]).await.unwrap();
        let recreated = replace(&fixture).await;
        fill(&recreated, &producer.db, 0..5).await;
        let stopped = consumer.end().await.unwrap_err();
        assert!(matches!(stopped.reason, Mismatch::EndsAt(_)), "{stopped}");
        assert_each_once(&target.db, 20, 0..10).await;
        let skip = async { while !tail.next().await.is_ok_and(|batch| batch.skipped) {} };
        tokio::time::timeout(Duration::from_secs(20), skip)
            .await
            .expect("the tail reports the lost position");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_stops_when_its_database_was_restored() {
    for fixture in fixtures().await {
        let producer = fixture.database().await;
        let target = fixture.database().await;
        fill(&fixture, &producer.db, 0..10).await;
        consume(&fixture, "restored", &target.db, 200).await;
        let mut tx = target.db.begin().await.unwrap();
        query("update consumer_offset set next_offset = next_offset - 1").execute(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        let stopped = start_and_stop(&fixture, "restored", &target.db).await;
        assert!(matches!(stopped.reason, Mismatch::CommittedAt(at) if at == stopped.next + 1), "{stopped}");
        // A database without any stored offset is older, too.
        let mut tx = target.db.begin().await.unwrap();
        query("delete from consumer_offset").execute(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        let stopped = start_and_stop(&fixture, "restored", &target.db).await;
        assert!(matches!(stopped.reason, Mismatch::CommittedAt(_)), "{stopped}");
        assert_each_once(&target.db, 20, 0..10).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replayed_log_is_not_applied_again() {
    for fixture in fixtures().await {
        let producer = fixture.database().await;
        let target = fixture.database().await;
        fill(&fixture, &producer.db, 0..10).await;
        // The consumer is killed before any offset is committed to Kafka.
        let consumer = fixture.start_consumer("replayed", "one", &target.db, CopyHandler::default());
        wait_until_copied(&target.db, 200).await;
        consumer.kill().await;
        // Kafka has no offset of the other consumer name either. Only the database does.
        let mut tx = target.db.begin().await.unwrap();
        let rename = query("update consumer_offset set consumer = 'replayed-again'");
        rename.execute(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        let consumer = fixture.start_consumer("replayed-again", "one", &target.db, CopyHandler::default());
        fill(&fixture, &producer.db, 10..12).await;
        wait_until_copied(&target.db, 240).await;
        consumer.stop().await.unwrap();
        assert_each_once(&target.db, 20, 0..12).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_stops_if_retention_deleted_unapplied_records() {
    for fixture in fixtures().await {
        if matches!(fixture.cluster, Cluster::Mock(_)) {
            continue; // the mock cannot delete records
        }
        let producer = fixture.database().await;
        let target = fixture.database().await;
        fill(&fixture, &producer.db, 0..10).await;
        consume(&fixture, "late", &target.db, 200).await;
        // Applied records may be deleted.
        delete_up_to_end(&fixture).await;
        consume(&fixture, "late", &target.db, 200).await;
        fill(&fixture, &producer.db, 10..11).await;
        consume(&fixture, "late", &target.db, 220).await;
        fill(&fixture, &producer.db, 11..15).await;
        delete_up_to_end(&fixture).await;
        let stopped = start_and_stop(&fixture, "late", &target.db).await;
        assert!(matches!(stopped.reason, Mismatch::StartsAt(_)), "{stopped}");
        assert_eq!(copied(&target.db).await.values().map(Vec::len).sum::<usize>(), 220);
    }
}

/// Starts a consumer that makes losses good, waits for records, and stops it. Returns the losses.
async fn consume_and_recover(fixture: &Fixture, name: &'static str, db: &Db, wanted: usize) -> Vec<Loss> {
    let losses = Arc::new(Mutex::new(Vec::new()));
    let handler = CopyHandler { losses: Some(losses.clone()), ..CopyHandler::default() };
    let consumer = fixture.start_consumer(name, "one", db, handler);
    wait_until_copied(db, wanted).await;
    consumer.stop().await.unwrap();
    losses.lock().clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_makes_a_cut_log_good_and_the_consumer_goes_on() {
    for fixture in fixtures().await {
        if matches!(fixture.cluster, Cluster::Mock(_)) {
            continue; // the mock cannot delete records
        }
        let producer = fixture.database().await;
        let target = fixture.database().await;
        fill(&fixture, &producer.db, 0..10).await;
        consume(&fixture, "cut", &target.db, 200).await;
        fill(&fixture, &producer.db, 10..15).await;
        delete_up_to_end(&fixture).await;
        fill(&fixture, &producer.db, 15..16).await;
        let losses = consume_and_recover(&fixture, "cut", &target.db, 220).await;
        assert!(losses.iter().all(|loss| loss.kind == LossKind::Cut && loss.from < loss.to), "{losses:?}");
        let lost: i64 = losses.iter().map(|loss| loss.to - loss.from).sum();
        assert_eq!(lost, 100, "exactly the records that were deleted and not applied: {losses:?}");
        fill(&fixture, &producer.db, 16..17).await;
        let again = consume_and_recover(&fixture, "cut", &target.db, 240).await;
        assert!(again.is_empty(), "noticed once");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_makes_a_restored_database_good_and_the_log_is_read_again() {
    for fixture in fixtures().await {
        let producer = fixture.database().await;
        let target = fixture.database().await;
        fill(&fixture, &producer.db, 0..10).await;
        consume(&fixture, "rewound", &target.db, 200).await;
        let mut tx = target.db.begin().await.unwrap();
        query("update consumer_offset set next_offset = 0, last_event_id = null")
            .execute(&mut tx)
            .await
            .unwrap();
        query("delete from copy").execute(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        let losses = consume_and_recover(&fixture, "rewound", &target.db, 200).await;
        assert!(
            !losses.is_empty() && losses.iter().all(|loss| loss.kind == LossKind::Restored),
            "{losses:?}"
        );
        assert_each_once(&target.db, 20, 0..10).await;
        fill(&fixture, &producer.db, 10..11).await;
        let again = consume_and_recover(&fixture, "rewound", &target.db, 220).await;
        assert!(again.is_empty(), "noticed once");
    }
}

async fn delete_up_to_end(fixture: &Fixture) {
    let mut list = TopicPartitionList::new();
    for partition in 0..crate::fixture::PARTITIONS {
        list.add_partition_offset(fixture.topic, partition, rdkafka::Offset::End).unwrap();
    }
    let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(10)));
    admin(fixture).delete_records(&list, &options).await.unwrap();
}
