//! Telemetry of every process: request ids and traces that travel from HTTP through gRPC, one access-log
//! line and one span per call, metrics, health endpoints, and the log format. It is independent of the
//! domain.

#[cfg(all(feature = "tokio-console", not(tokio_unstable)))]
compile_error!("the feature tokio-console needs RUSTFLAGS=\"--cfg tokio_unstable\"");

pub mod call;
#[cfg(test)]
mod captured;
mod error;
pub mod grpc;
pub mod http;
mod identity;
pub mod log;
pub mod ops;
pub mod panic;
pub mod readiness;
pub mod recorder;
mod request_id;
pub mod trace;
mod traceparent;
mod vitals;

pub use call::{Call, Secret};
pub use error::Error;
pub use identity::Identity;
pub use readiness::Readiness;
pub use request_id::RequestId;
pub use traceparent::Traceparent;
pub use vitals::Vitals;
