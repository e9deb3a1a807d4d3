//! GraphQL over WebSocket.

pub mod close;
pub mod message;
pub mod protocol;
#[cfg(test)]
mod protocol_tests;
