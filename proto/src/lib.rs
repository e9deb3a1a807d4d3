//! The contracts between the services: the bindings of `proto/`, the ids that travel in them, the topics of the log and
//! [`Peer`], the one type behind which a service is called, in this process or on another machine.

pub mod id;
mod peer;
mod secret;
pub mod topic;

pub use id::{DialogId, InvalidId, MessageId, SessionId, TransactionId, UserId};
pub use peer::{BoxError, Peer, TransportError, local};

/// The most bytes of a request between services; the bounds of their fields leave it far below.
pub const REQUEST_MAX_BYTES: usize = 1 << 20;
/// The most bytes of an answer: a page of long messages is larger than tonic's default of 4 MB.
pub const ANSWER_MAX_BYTES: usize = 17 << 20;

/// The events of the log, `tidings.events`.
#[expect(missing_docs, reason = "generated; the .proto files speak")]
pub mod events {
    tonic::include_proto!("tidings.events");
}
/// The auth service, `tidings.auth`.
#[expect(missing_docs, reason = "generated; the .proto files speak")]
pub mod auth {
    tonic::include_proto!("tidings.auth");
}
/// The dialog service, `tidings.dialog`.
#[expect(missing_docs, reason = "generated; the .proto files speak")]
pub mod dialog {
    tonic::include_proto!("tidings.dialog");
}
/// The counter service, `tidings.counter`.
#[expect(missing_docs, reason = "generated; the .proto files speak")]
pub mod counter {
    tonic::include_proto!("tidings.counter");
}

/// The file descriptor set of all services, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
