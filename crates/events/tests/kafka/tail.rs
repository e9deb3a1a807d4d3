//! The tail: what comes after it, of all partitions, once.

use std::time::Duration;

use events::{Log, Tail};

use crate::world::{append, worlds};

async fn versions(tail: &mut Tail, count: usize) -> Vec<i64> {
    let mut seen = Vec::new();
    while seen.len() < count {
        let next = tokio::time::timeout(Duration::from_secs(20), tail.next()).await.expect("records come");
        for record in next.unwrap().records {
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
async fn a_tail_sees_what_comes_after_it_and_nothing_twice() {
    for world in worlds().await {
        let producer = world.database().await;
        let relay = world.relay(&producer.db);
        let log = Log::Kafka(world.kafka("tail"));
        let mut early = log.tail(&[world.topic]).await.unwrap();
        append(&producer.db, world.topic, 10, 0..1).await;
        assert_eq!(versions(&mut early, 10).await, [0; 10]);
        let mut late = log.tail(&[world.topic]).await.unwrap();
        assert!(
            tokio::time::timeout(Duration::from_millis(300), late.next()).await.is_err(),
            "nothing is new"
        );
        append(&producer.db, world.topic, 10, 1..2).await;
        assert_eq!(versions(&mut early, 10).await, [1; 10]);
        assert_eq!(versions(&mut late, 10).await, [1; 10]);
        assert!(
            tokio::time::timeout(Duration::from_millis(100), late.next()).await.is_err(),
            "nothing comes twice"
        );
        relay.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tail_of_a_topic_that_is_not_there_is_an_error() {
    for world in worlds().await {
        if matches!(world.cluster, crate::world::Cluster::Mock(_)) {
            continue; // it makes every topic that is named
        }
        assert!(Log::Kafka(world.kafka("tail")).tail(&["test.absent"]).await.is_err());
    }
}
