//! The service as its callers see it: the generated client over the generated server, on every database that answers.

#![expect(clippy::unwrap_used, reason = "what a test's helper does not expect fails the test")]

mod app;
mod bad_input;
mod refreshing;
mod secrets;
mod sessions;
mod signing_in;
mod users;
