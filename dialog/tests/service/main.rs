//! Tests of the dialog service through its generated gRPC client, on every available database engine.
//! Each test has its own fixture: the service over an empty database, users, a fake auth service and a
//! fake counter service.

#![expect(clippy::unwrap_used, reason = "a failure in a test helper fails the test")]

mod concurrency;
mod create;
mod delete;
mod fake_auth;
mod fake_counter;
mod fixture;
mod history;
mod list;
mod membership;
mod random_histories;
mod saga;
mod send;
mod since;
mod store;
mod sweeper;
