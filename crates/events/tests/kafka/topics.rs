//! Tests of topic creation. They need a real broker, because the mock cluster creates topics by itself.

use std::time::Duration;

use events::{Error, Topic};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, ResourceSpecifier},
    client::DefaultClientContext,
};
use uuid::Uuid;

use crate::fixture::{Cluster, fixtures, leak};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_is_created_once_and_keeps_its_partitions() {
    for fixture in fixtures().await {
        if matches!(fixture.cluster, Cluster::Mock(_)) {
            continue;
        }
        let kafka = fixture.kafka("admin");
        let name = leak(format!("test.{}", Uuid::now_v7().simple()));
        let topic = Topic { name, partitions: 12, retention: Duration::from_secs(7 * 24 * 3600) };
        kafka.ensure_topics(std::slice::from_ref(&topic)).await.unwrap();
        kafka.ensure_topics(std::slice::from_ref(&topic)).await.expect("an existing topic is not an error");
        let fewer = Topic { partitions: 3, ..topic };
        let found = kafka.ensure_topics(&[fewer]).await;
        assert!(matches!(found, Err(Error::Partitions { found: 12, wanted: 3, .. })), "{found:?}");
        let admin: AdminClient<DefaultClientContext> =
            ClientConfig::new().set("bootstrap.servers", fixture.brokers()).create().unwrap();
        let described =
            admin.describe_configs([&ResourceSpecifier::Topic(name)], &AdminOptions::new()).await.unwrap();
        let settings = described.into_iter().next().unwrap().unwrap();
        assert_eq!(settings.get("retention.ms").unwrap().value.as_deref(), Some("604800000"));
    }
}
