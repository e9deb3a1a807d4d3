//! Tower layers for gRPC servers and clients. They add a span, a deadline, an access-log line and
//! metrics to each call of the service that they wrap.

mod call_recorder;
mod client;
mod code;
#[cfg(test)]
mod fake;

mod server;

pub use client::{Client, ClientLayer, client_layer};
pub use code::{name as code_name, of as code_of};
pub use server::{Server, ServerLayer, server_layer};
