//! Profiles of a running process over HTTP: where it spends CPU time and, with the feature `heap`, which
//! functions hold its memory. [`router`] serves them to holders of the service token, as the format of
//! `pprof` or as a flame graph. Recording stops when the client disconnects or the process shuts down. It is
//! independent of the domain.

mod cpu;
mod endpoint;
mod error;
pub mod flamegraph;
#[cfg(feature = "heap")]
mod heap;
mod profile;
mod protobuf;
mod query;
mod symbols;

pub use endpoint::router;
pub use error::Error;
#[cfg(feature = "heap")]
pub use tikv_jemallocator::Jemalloc;
