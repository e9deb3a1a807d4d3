//! The dialog service through its generated client, on every database that answers: each test makes a world of its own,
//! with people, the auth service that knows them, and the counters that answer for messages.

#![expect(clippy::unwrap_used, reason = "what a test's helper does not expect fails the test")]

mod auth;
mod concurrency;
mod counter;
mod create;
mod delete;
mod history;
mod list;
mod membership;
mod random;
mod saga;
mod send;
mod since;
mod store;
mod sweeper;
mod world;
