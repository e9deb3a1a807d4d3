//! Tests of the auth service through its generated gRPC client, on every available database engine.

#![expect(clippy::unwrap_used, reason = "a failure in a test helper fails the test")]

mod app;
mod bad_input;
mod devices;
mod known_addresses;
mod refresh;
mod registration_and_login;
mod secrets;
mod sessions;
mod users;
