//! Tests of consumers: each event is applied once and in order despite failures and rebalances.

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

use crate::fixture::{
    CopyHandler, PARTITIONS, append, assert_each_once, copied, count, fixtures, wait_until_copied,
};

/// Returns the value of the gauge with this label value; NaN if there is none.
fn gauge(name: &str, label: &str) -> f64 {
    let metrics = metrics().render();
    let line = metrics.lines().find(|line| line.starts_with(name) && line.contains(&format!("\"{label}\"")));
    line.and_then(|line| line.rsplit_once(' ')?.1.parse().ok()).unwrap_or(f64::NAN)
}

fn metrics() -> &'static PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE.get_or_init(|| PrometheusBuilder::new().install_recorder().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_event_is_applied_once_and_in_order_despite_failures() {
    for fixture in fixtures().await {
        let producer = fixture.database().await;
        let target = fixture.database().await;
        let relay = fixture.relay(&producer.db);
        let copy = CopyHandler { fails_every: Some(3), moves_offset: true, ..CopyHandler::default() };
        let consumer = fixture.start_consumer("copier", "one", &target.db, copy);
        for start in (0..100).step_by(10) {
            append(&producer.db, fixture.topic, 13, start..start + 10).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        wait_until_copied(&target.db, 1300).await;
        consumer.stop().await.unwrap();
        assert_each_once(&target.db, 13, 0..100).await;
        // A new session continues at the stored offset.
        append(&producer.db, fixture.topic, 13, 100..105).await;
        let consumer = fixture.start_consumer("copier", "one", &target.db, CopyHandler::default());
        wait_until_copied(&target.db, 1365).await;
        assert_each_once(&target.db, 13, 0..105).await;
        consumer.stop().await.unwrap();
        relay.stop().await;
        assert_eq!(count(&producer.db, "outbox").await, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_consumers_share_the_partitions_and_apply_nothing_twice() {
    for fixture in fixtures().await {
        let producer = fixture.database().await;
        let target = fixture.database().await;
        let relay = fixture.relay(&producer.db);
        let first = CopyHandler::default();
        let second = CopyHandler::default();
        let one = fixture.start_consumer("sharer", "one", &target.db, first.clone());
        append(&producer.db, fixture.topic, 20, 0..10).await;
        wait_until_copied(&target.db, 200).await;
        let two = fixture.start_consumer("sharer", "two", &target.db, second.clone());
        let mut version = 10;
        // Events are written during the rebalance, until the second consumer has applied some.
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        while second.calls.load(Relaxed) == 0 {
            assert!(tokio::time::Instant::now() < deadline, "the second consumer received no partition");
            append(&producer.db, fixture.topic, 20, version..version + 1).await;
            version += 1;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        wait_until_copied(&target.db, 20 * usize::try_from(version).unwrap()).await;
        one.stop().await.unwrap();
        two.kill().await;
        // Restarted instances get their partitions back and continue at the stored offsets.
        let one = fixture.start_consumer("sharer", "one", &target.db, first);
        let two = fixture.start_consumer("sharer", "two", &target.db, second);
        append(&producer.db, fixture.topic, 20, version..version + 10).await;
        wait_until_copied(&target.db, 20 * usize::try_from(version + 10).unwrap()).await;
        assert_each_once(&target.db, 20, 0..version + 10).await;
        one.stop().await.unwrap();
        two.stop().await.unwrap();
        relay.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_partition_does_not_delay_the_others() {
    metrics();
    for fixture in fixtures().await {
        let producer = fixture.database().await;
        let target = fixture.database().await;
        let relay = fixture.relay(&producer.db);
        let copy = CopyHandler { fails_for_key: Some("key-0".to_owned()), ..CopyHandler::default() };
        let consumer = fixture.start_consumer("patient", "one", &target.db, copy);
        append(&producer.db, fixture.topic, 40, 0..5).await;
        // Keys in the partition of the failing key wait. The other three partitions continue.
        let others = || async { copied(&target.db).await.len() >= 20 };
        eventually("the outbox is empty", || async { count(&producer.db, "outbox").await == 0 }).await;
        eventually("the other partitions continue", others).await;
        assert!(!copied(&target.db).await.contains_key("key-0"));
        let lag = || async {
            gauge("consumer_lag_records", "patient") > 0.0 && gauge("outbox_age_seconds", "tested") >= 0.0
        };
        eventually("the lag is measured", lag).await;
        consumer.stop().await.unwrap();
        let consumer = fixture.start_consumer("patient", "one", &target.db, CopyHandler::default());
        wait_until_copied(&target.db, 200).await;
        assert_each_once(&target.db, 40, 0..5).await;
        consumer.stop().await.unwrap();
        relay.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_malformed_record_reaches_the_handler_and_the_others_are_applied() {
    for fixture in fixtures().await {
        let producer = fixture.database().await;
        let target = fixture.database().await;
        let relay = fixture.relay(&producer.db);
        let copy = CopyHandler::default();
        let malformed = copy.malformed.clone();
        let consumer = fixture.start_consumer("careful", "one", &target.db, copy);
        append(&producer.db, fixture.topic, 5, 0..2).await;
        let foreign_producer: FutureProducer =
            ClientConfig::new().set("bootstrap.servers", fixture.brokers()).create().unwrap();
        for partition in 0..PARTITIONS {
            let key = [&[0xff_u8][..], b"a\0b"][usize::try_from(partition).unwrap() % 2];
            let nul = Header { key: "request_id", value: Some("\0") };
            let headers = OwnedHeaders::new().insert(nul);
            let record = FutureRecord::to(fixture.topic)
                .partition(partition)
                .key(key)
                .payload("noise")
                .headers(headers);
            foreign_producer.send(record, Duration::from_secs(10)).await.unwrap();
        }
        append(&producer.db, fixture.topic, 5, 2..4).await;
        wait_until_copied(&target.db, 20).await;
        eventually("the malformed records are handled", || async { malformed.load(Relaxed) >= 4 }).await;
        consumer.stop().await.unwrap();
        // A malformed record can be the last applied one of a partition, by which a new session
        // recognises the log.
        let consumer = fixture.start_consumer("careful", "one", &target.db, CopyHandler::default());
        append(&producer.db, fixture.topic, 5, 4..5).await;
        wait_until_copied(&target.db, 25).await;
        assert_each_once(&target.db, 5, 0..5).await;
        consumer.stop().await.unwrap();
        relay.stop().await;
    }
}
