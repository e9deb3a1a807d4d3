//! Test support: a gateway over fake services, in two forms.
//!
//! [`TestGateway`] is the router without a port, over services whose replies a function returns.
//! [`RunningGateway`] listens on a free port, reads an event log that the test writes, and serves
//! [`SocketClient`]s.

mod client;
mod fake_services;
mod router;
mod running;

use std::time::Duration;

pub use client::SocketClient;
pub use fake_services::{FakeHandler, FakeServices, everywhere, fake_service, reply, unavailable};
pub use router::{Answer, TestGateway, post};
pub use running::{Gauges, RunningGateway};

/// Longest wait for anything that a test expects, long enough for a loaded machine.
const PATIENCE: Duration = Duration::from_secs(10);
