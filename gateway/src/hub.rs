//! What this process pushes: live unread counts, messages and read states, each fed by the one consumer of the log in
//! [`crate::tail`]. Nothing is kept for those who do not watch, and for those who do a bounded amount.

pub mod unread;

use std::time::Duration;

use access::ServiceToken;
use metrics::Gauge;
use telemetry::{Call, Secret};
use tokio::time::Instant;

use crate::peers::Peers;

/// The services, called by the gateway for itself and not for a person.
#[derive(Clone, Debug)]
pub struct Service {
    /// The services.
    pub peers: Peers,
    authorization: Secret,
}

impl Service {
    /// With the token that services show each other.
    pub fn new(peers: Peers, token: &ServiceToken) -> Self {
        Self { peers, authorization: Secret::new(&token.header()) }
    }

    /// What travels with a new call that must be answered within this time.
    pub fn call(&self, patience: Duration) -> Call {
        Call::new().with_deadline(Instant::now() + patience).with_authorization(self.authorization.expose())
    }
}

/// Counts one in a gauge as long as it lives.
#[derive(Debug)]
pub(crate) struct Counted(Gauge);

impl Counted {
    pub(crate) fn new(name: &'static str) -> Self {
        Self::of(metrics::gauge!(name))
    }

    pub(crate) fn of(gauge: Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

/// How long to wait before something is tried again: from 50 ms to a second, doubling.
#[derive(Debug)]
pub(crate) struct Backoff(Duration);

impl Backoff {
    const FIRST: Duration = Duration::from_millis(50);
    const LAST: Duration = Duration::from_secs(1);

    pub(crate) fn new() -> Self {
        Self(Self::FIRST)
    }

    pub(crate) fn next(&mut self) -> Duration {
        let wait = self.0;
        self.0 = (wait * 2).min(Self::LAST);
        wait
    }

    pub(crate) fn reset(&mut self) {
        self.0 = Self::FIRST;
    }
}
