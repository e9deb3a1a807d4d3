//! What went wrong on the way from an outbox to a consumer, by what the caller can do about it.

use rdkafka::error::KafkaError;

/// An error of the log.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database that holds an outbox or an offset.
    #[error(transparent)]
    Database(#[from] db::Error),
    /// Kafka is away or refuses: try again later.
    #[error("Kafka: {0}")]
    Kafka(#[from] KafkaError),
    /// A URL that names no Kafka.
    #[error("a Kafka URL is kafka://host:port, with more brokers after commas")]
    Url,
    /// A topic exists with another number of partitions: keys would move between them, and with them their order.
    #[error("topic {topic} has {found} partitions, not {wanted}")]
    Partitions {
        /// Which topic.
        topic: String,
        /// How many it has.
        found: usize,
        /// How many it should have.
        wanted: i32,
    },
    /// The process is ending, and a call to Kafka with it.
    #[error("a blocking call was cut short")]
    Cancelled,
}
