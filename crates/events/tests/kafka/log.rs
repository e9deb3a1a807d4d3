//! A log or a database that is not the one of before: the consumer stops, or shows that it does not matter.

use std::time::Duration;

use db::{Db, query};
use events::{Log, Mismatch, Stopped};
use rdkafka::{
    ClientConfig, TopicPartitionList,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
};

use crate::world::{Cluster, Copy, World, append, assert_each_once, copied, count, until_copied, worlds};

/// The topic again under its name: in another mock, or deleted and made anew.
async fn replaced(world: &World) -> World {
    match &world.cluster {
        Cluster::Mock(_) => World::mock(world.topic, db::Dialect::Sqlite),
        Cluster::Real(url) => {
            let admin = admin(world);
            for deleted in admin.delete_topics(&[world.topic], &AdminOptions::new()).await.unwrap() {
                deleted.unwrap();
            }
            let mut again = World::real(url.clone(), db::Dialect::Postgres).await;
            again.topic = world.topic;
            again.make_topic().await;
            again
        }
    }
}

fn admin(world: &World) -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", world.brokers()).create().unwrap()
}

async fn fill(world: &World, db: &Db, versions: std::ops::Range<i64>) {
    let relay = world.relay(db);
    append(db, world.topic, 20, versions).await;
    testkit::eventually("the relay is done", || async { count(db, "outbox").await == 0 }).await;
    relay.stop().await;
}

async fn consume(world: &World, name: &'static str, db: &Db, wanted: usize) {
    let consumer = world.copier(name, "one", db, Copy::default());
    until_copied(db, wanted).await;
    consumer.stop().await.unwrap();
}

async fn stops(world: &World, name: &'static str, db: &Db) -> Stopped {
    world.copier(name, "one", db, Copy::default()).end().await.unwrap_err()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_stops_at_a_log_that_was_replaced() {
    for world in worlds().await {
        let (producer, target) = (world.database().await, world.database().await);
        fill(&world, &producer.db, 0..10).await;
        consume(&world, "stranger", &target.db, 200).await;
        let shorter = replaced(&world).await;
        fill(&shorter, &producer.db, 0..1).await;
        let stopped = stops(&shorter, "stranger", &target.db).await;
        assert!(matches!(stopped.why, Mismatch::EndsAt(_)), "{stopped}");
        // As long as the old one, and longer: other records at the same places.
        fill(&shorter, &producer.db, 1..20).await;
        let stopped = stops(&shorter, "stranger", &target.db).await;
        assert_eq!(stopped.why, Mismatch::Foreign, "{stopped}");
        assert_each_once(&target.db, 20, 0..10).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_is_reading_stops_when_its_topic_is_made_anew() {
    for world in worlds().await {
        if matches!(world.cluster, Cluster::Mock(_)) {
            continue; // it cannot delete a topic
        }
        let (producer, target) = (world.database().await, world.database().await);
        fill(&world, &producer.db, 0..10).await;
        let consumer = world.copier("witness", "one", &target.db, Copy::default());
        until_copied(&target.db, 200).await;
        let mut tail = Log::Kafka(world.kafka("tail")).tail(&[world.topic]).await.unwrap();
        let again = replaced(&world).await;
        fill(&again, &producer.db, 0..5).await;
        let stopped = consumer.end().await.unwrap_err();
        assert!(matches!(stopped.why, Mismatch::EndsAt(_)), "{stopped}");
        assert_each_once(&target.db, 20, 0..10).await;
        let told = async { while !tail.next().await.is_ok_and(|next| next.skipped) {} };
        tokio::time::timeout(Duration::from_secs(20), told)
            .await
            .expect("the tail says that its place is gone");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_stops_when_its_database_was_restored() {
    for world in worlds().await {
        let (producer, target) = (world.database().await, world.database().await);
        fill(&world, &producer.db, 0..10).await;
        consume(&world, "restored", &target.db, 200).await;
        let mut tx = target.db.begin().await.unwrap();
        query("update consumer_offset set next_offset = next_offset - 1").execute(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        let stopped = stops(&world, "restored", &target.db).await;
        assert!(matches!(stopped.why, Mismatch::CommittedAt(at) if at == stopped.next + 1), "{stopped}");
        // Nothing is left of what it knew: that is an older day, too.
        let mut tx = target.db.begin().await.unwrap();
        query("delete from consumer_offset").execute(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        let stopped = stops(&world, "restored", &target.db).await;
        assert!(matches!(stopped.why, Mismatch::CommittedAt(_)), "{stopped}");
        assert_each_once(&target.db, 20, 0..10).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_is_given_again_is_applied_no_second_time() {
    for world in worlds().await {
        let (producer, target) = (world.database().await, world.database().await);
        fill(&world, &producer.db, 0..10).await;
        // Killed before Kafka has heard of any offset: for Kafka it has read nothing at all.
        let consumer = world.copier("replayed", "one", &target.db, Copy::default());
        until_copied(&target.db, 200).await;
        consumer.kill().await;
        // Of another name, Kafka knows nothing either; the database does.
        let mut tx = target.db.begin().await.unwrap();
        let rename = query("update consumer_offset set consumer = 'replayed-again'");
        rename.execute(&mut tx).await.unwrap();
        tx.commit().await.unwrap();
        let consumer = world.copier("replayed-again", "one", &target.db, Copy::default());
        fill(&world, &producer.db, 10..12).await;
        until_copied(&target.db, 240).await;
        consumer.stop().await.unwrap();
        assert_each_once(&target.db, 20, 0..12).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_stops_where_retention_took_what_it_has_not_applied() {
    for world in worlds().await {
        if matches!(world.cluster, Cluster::Mock(_)) {
            continue; // it cannot delete records
        }
        let (producer, target) = (world.database().await, world.database().await);
        fill(&world, &producer.db, 0..10).await;
        consume(&world, "late", &target.db, 200).await;
        // What was applied may go.
        delete_up_to_end(&world).await;
        consume(&world, "late", &target.db, 200).await;
        fill(&world, &producer.db, 10..11).await;
        consume(&world, "late", &target.db, 220).await;
        fill(&world, &producer.db, 11..15).await;
        delete_up_to_end(&world).await;
        let stopped = stops(&world, "late", &target.db).await;
        assert!(matches!(stopped.why, Mismatch::BeginsAt(_)), "{stopped}");
        assert_eq!(copied(&target.db).await.values().map(Vec::len).sum::<usize>(), 220);
    }
}

async fn delete_up_to_end(world: &World) {
    let mut list = TopicPartitionList::new();
    for partition in 0..crate::world::PARTITIONS {
        list.add_partition_offset(world.topic, partition, rdkafka::Offset::End).unwrap();
    }
    let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(10)));
    admin(world).delete_records(&list, &options).await.unwrap();
}
