//! Tests of the Kafka event log. They run on rdkafka's mock cluster with SQLite outboxes and, if
//! `TEST_KAFKA_URL` names a broker, also on that broker, with Postgres outboxes if `TEST_POSTGRES_URL`
//! is set.

#![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]
#![expect(clippy::print_stdout, reason = "--nocapture shows the measurements")]

mod broker;
mod consumer;
mod engine;
mod fixture;
mod log;
mod order;
mod relay;
mod tail;
mod topics;
