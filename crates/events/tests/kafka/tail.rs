//! Tests of the tail: it receives each later event of all partitions once.

use std::time::Duration;

use events::{Log, Tail};

use crate::fixture::{append, fixtures};

async fn versions(tail: &mut Tail, count: usize) -> Vec<i64> {
    let mut seen = Vec::new();
    while seen.len() < count {
        let batch = tokio::time::timeout(Duration::from_secs(20), tail.next()).await.expect("records arrive");
        for record in batch.unwrap().records {
            assert!(!record.is_malformed() && record.kind == "Tested" && record.created_at_us > 0);
            assert_eq!(record.headers.request_id.as_deref(), Some("r-1"));
            assert_eq!(record.payload, record.version.to_be_bytes().as_slice());
            seen.push(record.version);
        }
    }
    seen.sort_unstable();
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tail_receives_each_later_event_once() {
    for fixture in fixtures().await {
        let producer = fixture.database().await;
        let relay = fixture.relay(&producer.db);
        let log = Log::Kafka(fixture.kafka("tail"));
        let mut early = log.tail(&[fixture.topic]).await.unwrap();
        append(&producer.db, fixture.topic, 10, 0..1).await;
        assert_eq!(versions(&mut early, 10).await, [0; 10]);
        let mut late = log.tail(&[fixture.topic]).await.unwrap();
        assert!(
            tokio::time::timeout(Duration::from_millis(300), late.next()).await.is_err(),
            "there is no new event"
        );
        append(&producer.db, fixture.topic, 10, 1..2).await;
        assert_eq!(versions(&mut early, 10).await, [1; 10]);
        assert_eq!(versions(&mut late, 10).await, [1; 10]);
        assert!(
            tokio::time::timeout(Duration::from_millis(100), late.next()).await.is_err(),
            "no event is received twice"
        );
        relay.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tail_of_a_missing_topic_is_an_error() {
    for fixture in fixtures().await {
        if matches!(fixture.cluster, crate::fixture::Cluster::Mock(_)) {
            continue; // the mock creates every topic that a client names
        }
        assert!(Log::Kafka(fixture.kafka("tail")).tail(&["test.absent"]).await.is_err());
    }
}
