//! Contracts between the services: the generated bindings of `proto/`, the id types, the topics and
//! encoding of the event log, and [`Peer`], the transport that a generated client calls a service
//! through.

pub mod dead_letter;
pub mod id;
mod peer;
mod redacted;
mod refusal;
pub mod topic;

pub use id::{DialogId, InvalidId, MessageId, SessionId, TransactionId, UserId};
pub use peer::{BoxError, Peer, TransportError, local};
pub use refusal::{refuse, retry_after};

/// Maximum size of a request between services, in bytes. The limits on the fields keep every valid
/// request far below.
pub const REQUEST_MAX_BYTES: usize = 1 << 20;
/// Maximum size of a response between services, in bytes. A page of long messages exceeds tonic's
/// default of 4 MB.
pub const RESPONSE_MAX_BYTES: usize = 17 << 20;

/// Response metadata of a login that failed for its password, present if the address of the client has
/// signed in to this login before.
pub const KNOWN_ADDRESS: &str = "tidings-known-address";

/// Events of the log, package `tidings.events`.
#[expect(missing_docs, reason = "generated; documented in the .proto files")]
pub mod events {
    tonic::include_proto!("tidings.events");
}
/// Auth service, package `tidings.auth`.
#[expect(missing_docs, reason = "generated; documented in the .proto files")]
pub mod auth {
    tonic::include_proto!("tidings.auth");
}
/// Dialog service, package `tidings.dialog`.
#[expect(missing_docs, reason = "generated; documented in the .proto files")]
pub mod dialog {
    tonic::include_proto!("tidings.dialog");
}
/// Counter service, package `tidings.counter`.
#[expect(missing_docs, reason = "generated; documented in the .proto files")]
pub mod counter {
    tonic::include_proto!("tidings.counter");
}

/// Encoded file descriptor set of all services, for gRPC server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
