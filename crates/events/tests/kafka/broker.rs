//! The broker away and back.

use std::time::Duration;

use events::Log;
use testkit::eventually;

use crate::world::{Cluster, Copy, append, assert_each_once, count, until_copied, worlds};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_broker_is_away_the_outbox_grows_and_afterwards_it_drains() {
    for world in worlds().await {
        let Cluster::Mock(mock) = &world.cluster else { continue };
        let (producer, target) = (world.database().await, world.database().await);
        let relay = world.relay(&producer.db);
        let consumer = world.copier("outliver", "one", &target.db, Copy::default());
        let kafka = world.kafka("tail");
        let mut tail = Log::Kafka(kafka.clone()).tail(&[world.topic]).await.unwrap();
        append(&producer.db, world.topic, 10, 0..10).await;
        until_copied(&target.db, 100).await;
        kafka.ping().await.unwrap();
        let mut idle = Log::Kafka(kafka.clone()).tail(&[world.topic]).await.unwrap();
        let told = tokio::spawn(async move {
            let first = idle.next().await;
            (first.is_err(), idle.next().await.map(|next| next.records.len()))
        });
        mock.broker_down(1).unwrap();
        append(&producer.db, world.topic, 10, 10..20).await;
        append(&producer.db, world.topic, 10, 20..30).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(count(&producer.db, "outbox").await, 200);
        assert!(kafka.ping().await.is_err());
        mock.broker_up(1).unwrap();
        let (away, back) = tokio::time::timeout(Duration::from_secs(20), told).await.unwrap().unwrap();
        assert!(away && back.is_ok(), "a tail tells that the log is away and that it is back");
        until_copied(&target.db, 300).await;
        assert_each_once(&target.db, 10, 0..30).await;
        eventually("the outbox is empty", || async { count(&producer.db, "outbox").await == 0 }).await;
        let mut seen = 0;
        let mut failures = 0;
        while seen < 300 {
            match tokio::time::timeout(Duration::from_secs(20), tail.next()).await.unwrap() {
                Ok(next) => seen += next.records.len(),
                Err(_) => failures += 1,
            }
        }
        assert!(failures <= 1, "an outage is told once");
        consumer.stop().await.unwrap();
        relay.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_while_the_broker_is_away_ends_in_time() {
    for world in worlds().await {
        let Cluster::Mock(mock) = &world.cluster else { continue };
        let (producer, target) = (world.database().await, world.database().await);
        let relay = world.relay(&producer.db);
        let consumer = world.copier("hurried", "one", &target.db, Copy::default());
        append(&producer.db, world.topic, 10, 0..1).await;
        until_copied(&target.db, 10).await;
        mock.broker_down(1).unwrap();
        append(&producer.db, world.topic, 10, 1..2).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let ends = async {
            consumer.stop().await.unwrap();
            relay.stop().await;
        };
        tokio::time::timeout(Duration::from_secs(15), ends).await.expect("both end within their limits");
    }
}
