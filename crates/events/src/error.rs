//! Errors of the event log. Each variant calls for a different reaction of the caller.

use rdkafka::error::KafkaError;

/// Error of the event log.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Error of the database that holds an outbox or an offset.
    #[error(transparent)]
    Database(#[from] db::Error),
    /// Kafka is unavailable or rejected the request. The request may be retried.
    #[error("Kafka: {0}")]
    Kafka(#[from] KafkaError),
    /// Malformed Kafka URL.
    #[error("invalid Kafka URL: expected kafka://host:port[,host:port…]")]
    Url,
    /// A topic exists with a different number of partitions. Changing the number would move keys to
    /// other partitions and lose their order.
    #[error("topic {topic} has {found} partitions, not {wanted}")]
    Partitions {
        /// Name of the topic.
        topic: String,
        /// Number of partitions that it has.
        found: usize,
        /// Number of partitions that it must have.
        wanted: i32,
    },
    /// A blocking call to Kafka was cancelled because the process is shutting down.
    #[error("a blocking call was cancelled")]
    Cancelled,
}
