//! What this process pushes: live unread counts, messages and read states, each fed by the one consumer of the log in
//! [`crate::tail`]. Nothing is kept for those who do not watch, and for those who do a bounded amount.

pub mod messages;
pub mod read_states;
pub mod unread;

use std::time::Duration;

use access::ServiceToken;
use metrics::Gauge;
use proto::UserId;
use telemetry::{Call, Secret};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Response, Status};

use crate::{
    error::Error,
    peers::Peers,
    viewer::{Authorization, Viewer},
};

/// The hubs of a process. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Hubs {
    /// Of unread counts.
    pub unread: unread::Hub,
    /// Of messages.
    pub messages: messages::Hub,
    /// Of read states.
    pub read_states: read_states::Hub,
    followed: CancellationToken,
}

impl Hubs {
    /// Without streams.
    pub fn new(service: &Service) -> Self {
        Self {
            unread: unread::Hub::new(service.clone()),
            messages: messages::Hub::new(service.clone()),
            read_states: read_states::Hub::new(service.clone()),
            followed: CancellationToken::new(),
        }
    }

    /// From now on whatever happens is heard here.
    pub fn follow(&self) {
        self.followed.cancel();
    }

    /// Waits until whatever happens is heard: a stream that began before could miss what happens in between.
    pub async fn followed(&self) {
        self.followed.cancelled().await;
    }

    /// Events are missing: what streams know is made good by what the services say now.
    pub fn refresh(&self) {
        self.unread.refresh();
        self.messages.refresh();
        self.read_states.refresh();
    }

    /// Asks the services what streams need, until shut down.
    pub async fn run(&self, shutdown: &CancellationToken) {
        tokio::join!(self.unread.run(shutdown.clone()), self.messages.run(shutdown.clone()));
    }
}

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

/// A person for whom a stream is opened, with what travels with the calls.
#[derive(Clone, Debug)]
pub struct Person {
    /// Who.
    pub user: UserId,
    authorization: Authorization,
    call: Call,
}

impl Person {
    /// For calls with this person's own token that belong to a request, which has no deadline any more.
    pub fn new(viewer: &Viewer, request: &Call) -> Self {
        Self { user: viewer.user, authorization: viewer.authorization.clone(), call: request.clone() }
    }

    /// What travels with a call that must be answered within this time.
    fn call(&self, patience: Duration) -> Call {
        let call = self.call.clone().with_deadline(Instant::now() + patience);
        call.with_authorization(self.authorization.newest().expose())
    }
}

/// Asks until a service answers: a stream that is opened while it is away begins when it is back. Whoever does not want to
/// wait drops the future.
async fn persistently<T, F>(mut ask: impl FnMut() -> F) -> Result<Response<T>, Error>
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    let mut backoff = Backoff::new();
    loop {
        match ask().await {
            Err(status) if matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded) => {
                tracing::debug!(error = %status, "a stream waits for a service");
                tokio::time::sleep(backoff.next()).await;
            }
            answer => return answer.map_err(Error::from),
        }
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
