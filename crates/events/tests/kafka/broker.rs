//! Tests of a broker outage.

use std::time::Duration;

use events::Log;
use testkit::eventually;

use crate::fixture::{Cluster, CopyHandler, append, assert_each_once, count, fixtures, wait_until_copied};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_outbox_grows_during_an_outage_and_drains_afterwards() {
    for fixture in fixtures().await {
        let Cluster::Mock(mock) = &fixture.cluster else { continue };
        let producer = fixture.database().await;
        let target = fixture.database().await;
        let relay = fixture.relay(&producer.db);
        let consumer = fixture.start_consumer("outliver", "one", &target.db, CopyHandler::default());
        let kafka = fixture.kafka("tail");
        let mut tail = Log::Kafka(kafka.clone()).tail(&[fixture.topic]).await.unwrap();
        append(&producer.db, fixture.topic, 10, 0..10).await;
        wait_until_copied(&target.db, 100).await;
        kafka.ping().await.unwrap();
        let mut idle = Log::Kafka(kafka.clone()).tail(&[fixture.topic]).await.unwrap();
        let reported = tokio::spawn(async move {
            let first = idle.next().await;
            (first.is_err(), idle.next().await.map(|batch| batch.records.len()))
        });
        mock.broker_down(1).unwrap();
        append(&producer.db, fixture.topic, 10, 10..20).await;
        append(&producer.db, fixture.topic, 10, 20..30).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(count(&producer.db, "outbox").await, 200);
        assert!(kafka.ping().await.is_err());
        mock.broker_up(1).unwrap();
        let (failed, recovered) =
            tokio::time::timeout(Duration::from_secs(20), reported).await.unwrap().unwrap();
        assert!(failed && recovered.is_ok(), "a tail reports the outage and its end");
        wait_until_copied(&target.db, 300).await;
        assert_each_once(&target.db, 10, 0..30).await;
        eventually("the outbox is empty", || async { count(&producer.db, "outbox").await == 0 }).await;
        let mut seen = 0;
        let mut failures = 0;
        while seen < 300 {
            match tokio::time::timeout(Duration::from_secs(20), tail.next()).await.unwrap() {
                Ok(batch) => seen += batch.records.len(),
                Err(_) => failures += 1,
            }
        }
        assert!(failures <= 1, "an outage is reported once");
        consumer.stop().await.unwrap();
        relay.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_during_an_outage_ends_in_time() {
    for fixture in fixtures().await {
        let Cluster::Mock(mock) = &fixture.cluster else { continue };
        let producer = fixture.database().await;
        let target = fixture.database().await;
        let relay = fixture.relay(&producer.db);
        let consumer = fixture.start_consumer("hurried", "one", &target.db, CopyHandler::default());
        append(&producer.db, fixture.topic, 10, 0..1).await;
        wait_until_copied(&target.db, 10).await;
        mock.broker_down(1).unwrap();
        append(&producer.db, fixture.topic, 10, 1..2).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let stop = async {
            consumer.stop().await.unwrap();
            relay.stop().await;
        };
        tokio::time::timeout(Duration::from_secs(15), stop).await.expect("both end within their limits");
    }
}
