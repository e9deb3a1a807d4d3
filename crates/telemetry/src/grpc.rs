//! Layers around gRPC servers and clients. They hold no domain: a generated server or a peer goes in, the same kind of
//! service comes out, with a span, a deadline, an access-log line and metrics per call.

mod client;
mod code;
#[cfg(test)]
mod fake;
mod outcome;
mod server;

pub use client::{Client, ClientLayer, client_layer};
pub use code::{name as code_name, of as code_of};
pub use server::{Server, ServerLayer, server_layer};
