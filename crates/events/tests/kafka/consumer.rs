//! Durable consumers: everything applied once and in order, whatever fails and whoever comes and goes.

use std::{
    sync::{OnceLock, atomic::Ordering::Relaxed},
    time::Duration,
};

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use rdkafka::{
    ClientConfig,
    message::{Header, OwnedHeaders},
    producer::{FutureProducer, FutureRecord},
};
use testkit::eventually;

use crate::world::{Copy, append, assert_each_once, count, until_copied, worlds};

/// The value of a gauge, of whoever it speaks.
fn gauge(name: &str, of: &str) -> f64 {
    let shown = metrics().render();
    let line = shown.lines().find(|line| line.starts_with(name) && line.contains(&format!("\"{of}\"")));
    line.and_then(|line| line.rsplit_once(' ')?.1.parse().ok()).unwrap_or(f64::NAN)
}

fn metrics() -> &'static PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE.get_or_init(|| PrometheusBuilder::new().install_recorder().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_event_is_applied_once_and_in_order_though_batches_fail() {
    for world in worlds().await {
        let (producer, target) = (world.database().await, world.database().await);
        let relay = world.relay(&producer.db);
        let copy = Copy { fails_every: Some(3), moves_offset: true, ..Copy::default() };
        let consumer = world.copier("copier", "one", &target.db, copy);
        for start in (0..100).step_by(10) {
            append(&producer.db, world.topic, 13, start..start + 10).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        until_copied(&target.db, 1300).await;
        consumer.stop().await.unwrap();
        assert_each_once(&target.db, 13, 0..100).await;
        // It goes on where it was.
        append(&producer.db, world.topic, 13, 100..105).await;
        let consumer = world.copier("copier", "one", &target.db, Copy::default());
        until_copied(&target.db, 1365).await;
        assert_each_once(&target.db, 13, 0..105).await;
        consumer.stop().await.unwrap();
        relay.stop().await;
        assert_eq!(count(&producer.db, "outbox").await, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_consumers_share_the_partitions_and_apply_nothing_twice() {
    for world in worlds().await {
        let (producer, target) = (world.database().await, world.database().await);
        let relay = world.relay(&producer.db);
        let (copies, others) = (Copy::default(), Copy::default());
        let one = world.copier("sharer", "one", &target.db, copies.clone());
        append(&producer.db, world.topic, 20, 0..10).await;
        until_copied(&target.db, 200).await;
        let two = world.copier("sharer", "two", &target.db, others.clone());
        let mut version = 10;
        // Events flow while the partitions move, until the second consumer has applied some.
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        while others.calls.load(Relaxed) == 0 {
            assert!(tokio::time::Instant::now() < deadline, "the second consumer was given no partition");
            append(&producer.db, world.topic, 20, version..version + 1).await;
            version += 1;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        until_copied(&target.db, 20 * usize::try_from(version).unwrap()).await;
        one.stop().await.unwrap();
        two.kill().await;
        // Whoever comes back under its own name gets its partitions back; the database says where to go on.
        let one = world.copier("sharer", "one", &target.db, copies);
        let two = world.copier("sharer", "two", &target.db, others);
        append(&producer.db, world.topic, 20, version..version + 10).await;
        until_copied(&target.db, 20 * usize::try_from(version + 10).unwrap()).await;
        assert_each_once(&target.db, 20, 0..version + 10).await;
        one.stop().await.unwrap();
        two.stop().await.unwrap();
        relay.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_partition_in_trouble_does_not_hold_up_the_others() {
    metrics();
    for world in worlds().await {
        let (producer, target) = (world.database().await, world.database().await);
        let relay = world.relay(&producer.db);
        let copy = Copy { refuses_key: Some("key-0".to_owned()), ..Copy::default() };
        let consumer = world.copier("patient", "one", &target.db, copy);
        append(&producer.db, world.topic, 40, 0..5).await;
        // The keys that share a partition with the refused one wait; three partitions of four go on.
        let others = || async { crate::world::copied(&target.db).await.len() >= 20 };
        testkit::eventually("the relay is done", || async { count(&producer.db, "outbox").await == 0 }).await;
        eventually("the others go on", others).await;
        assert!(!crate::world::copied(&target.db).await.contains_key("key-0"));
        let lag = || async {
            gauge("consumer_lag_records", "patient") > 0.0 && gauge("outbox_age_seconds", "tested") >= 0.0
        };
        eventually("the lag is told", lag).await;
        consumer.stop().await.unwrap();
        let consumer = world.copier("patient", "one", &target.db, Copy::default());
        until_copied(&target.db, 200).await;
        assert_each_once(&target.db, 40, 0..5).await;
        consumer.stop().await.unwrap();
        relay.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_without_our_headers_is_given_to_the_handler_and_the_rest_goes_on() {
    for world in worlds().await {
        let (producer, target) = (world.database().await, world.database().await);
        let relay = world.relay(&producer.db);
        let copy = Copy::default();
        let malformed = copy.malformed.clone();
        let consumer = world.copier("careful", "one", &target.db, copy);
        append(&producer.db, world.topic, 5, 0..2).await;
        let stranger: FutureProducer =
            ClientConfig::new().set("bootstrap.servers", world.brokers()).create().unwrap();
        for partition in 0..crate::world::PARTITIONS {
            let key = [&[0xff_u8][..], b"a\0b"][usize::try_from(partition).unwrap() % 2];
            let nul = Header { key: "request_id", value: Some("\0") };
            let headers = OwnedHeaders::new().insert(nul);
            let record =
                FutureRecord::to(world.topic).partition(partition).key(key).payload("noise").headers(headers);
            stranger.send(record, Duration::from_secs(10)).await.unwrap();
        }
        append(&producer.db, world.topic, 5, 2..4).await;
        until_copied(&target.db, 20).await;
        eventually("the noise is seen", || async { malformed.load(Relaxed) >= 4 }).await;
        consumer.stop().await.unwrap();
        // It was the last one applied of some partition, and is recognised as such.
        let consumer = world.copier("careful", "one", &target.db, Copy::default());
        append(&producer.db, world.topic, 5, 4..5).await;
        until_copied(&target.db, 25).await;
        assert_each_once(&target.db, 5, 0..5).await;
        consumer.stop().await.unwrap();
        relay.stop().await;
    }
}
