//! The log on Kafka: on rdkafka's mock cluster on any machine, and the same on a real broker where `TEST_KAFKA_URL` names
//! one; the outboxes are of SQLite, and of Postgres where `TEST_POSTGRES_URL` names one.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]
#![expect(clippy::print_stdout, reason = "the figures of a run are shown by --nocapture")]

mod broker;
mod consumer;
mod engine;
mod log;
mod order;
mod relay;
mod tail;
mod topics;
mod world;
