//! What every process says about itself: request ids and traces that travel from HTTP through gRPC, one access-log line
//! and one span per call, metrics, health, and the log's form. It knows nothing of what the services are for.

pub mod call;
#[cfg(test)]
mod captured;
mod error;
pub mod grpc;
pub mod http;
pub mod log;
pub mod ops;
pub mod panic;
pub mod readiness;
pub mod recorder;
mod request_id;
mod traceparent;

pub use call::{Call, Secret};
pub use error::Error;
pub use readiness::Readiness;
pub use request_id::RequestId;
pub use traceparent::Traceparent;
