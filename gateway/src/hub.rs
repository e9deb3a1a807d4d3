//! Hubs: the state of all subscriptions of this process, for unread counts, lists of dialogs, messages
//! and read receipts.
//! The only log reader of the process ([`crate::subscription::log_reader`]) applies events to them. A
//! hub holds state only for users and dialogs that have a subscriber, and a bounded amount for each of
//! them.

pub mod dialogs;
pub mod messages;
pub mod read_states;
mod retry;
pub mod unread;

use std::time::Duration;

use access::ServiceToken;
use proto::{UserId, counter};
use telemetry::{Call, Secret};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::{
    client::caller::{Authorization, Caller},
    peers::Peers,
    version::Version,
};

pub(crate) use retry::backoff;

/// Deadline of the report of a lost version.
const REPORT_TIMEOUT: Duration = Duration::from_secs(2);

/// The hubs of a process. Cheap to clone; clones share their state.
#[derive(Clone)]
pub struct Hubs {
    /// The hub of unread counts.
    pub unread: unread::Hub,
    /// The hub of lists of dialogs.
    pub dialogs: dialogs::Hub,
    /// The hub of messages.
    pub messages: messages::Hub,
    /// The hub of read receipts.
    pub read_states: read_states::Hub,
    following: CancellationToken,
}

impl Hubs {
    /// Creates hubs without subscribers.
    pub fn new(service: &Service) -> Self {
        Self {
            unread: unread::Hub::new(service.clone()),
            dialogs: dialogs::Hub::new(service.clone()),
            messages: messages::Hub::new(service.clone()),
            read_states: read_states::Hub::new(service.clone()),
            following: CancellationToken::new(),
        }
    }

    /// Signals that the log reader has a position: from now on every event is applied.
    pub fn set_following(&self) {
        self.following.cancel();
    }

    /// Waits until the log reader has a position. A subscription that loaded its snapshot before could
    /// miss the events between the two.
    pub async fn following(&self) {
        self.following.cancelled().await;
    }

    /// Resynchronizes all subscribers with the services. Called when the log reader has skipped events.
    pub fn resync(&self) {
        self.unread.resync();
        self.dialogs.resync();
        self.messages.resync();
        self.read_states.resync();
    }

    /// Sends the hubs' requests to the services until `shutdown`.
    pub async fn run(&self, shutdown: &CancellationToken) {
        tokio::join!(
            self.unread.run(shutdown.clone()),
            self.dialogs.run(shutdown.clone()),
            self.messages.run(shutdown.clone()),
        );
    }
}

/// The services, called with the service token instead of a caller's access token.
#[derive(Clone, Debug)]
pub struct Service {
    /// The services.
    pub peers: Peers,
    authorization: Secret,
}

impl Service {
    /// Creates a client of the services that authenticates with `token`.
    pub fn new(peers: Peers, token: &ServiceToken) -> Self {
        Self { peers, authorization: Secret::new(&token.header()) }
    }

    /// Returns the context of `request`, authenticated with the service token.
    pub fn authorize(&self, request: &Call) -> Call {
        request.clone().with_authorization(self.authorization.expose())
    }

    /// Returns the context of a call for `request`, with its request id and trace, authenticated with the
    /// service token. Its deadline is at most `timeout` from now.
    pub fn call_for(&self, request: &Call, timeout: Duration) -> Call {
        request
            .clone()
            .with_deadline(Instant::now() + timeout)
            .with_authorization(self.authorization.expose())
    }

    /// Reports a version of a user's counters that this gateway has received to the counter service. If
    /// its database has lost the version in a restore, it raises the epoch. Returns the epoch.
    ///
    /// `version` must not come from a client.
    ///
    /// # Errors
    /// Any error of the call.
    pub async fn report_seen(&self, user: UserId, version: Version) -> Result<i64, Status> {
        let call = self.call(REPORT_TIMEOUT);
        let request = counter::SeenRequest { user_id: user.bytes(), version: Some(version.into()) };
        Ok(self.peers.counter(&call).seen(request).await?.into_inner().epoch)
    }

    /// Returns the context of a new call with a deadline `timeout` from now.
    pub fn call(&self, timeout: Duration) -> Call {
        self.call_for(&Call::new(), timeout)
    }
}

/// The caller of a subscription, with the context of the calls that the subscription makes on the
/// caller's behalf.
#[derive(Clone, Debug)]
pub struct StreamCaller {
    /// The caller's user id.
    pub user: UserId,
    authorization: Authorization,
    call: Call,
}

impl StreamCaller {
    /// Creates the context from the request that opened the subscription.
    pub fn new(caller: &Caller, request: &Call) -> Self {
        Self { user: caller.user, authorization: caller.authorization.clone(), call: request.clone() }
    }

    /// Returns the context of a call with a deadline `timeout` from now. A subscription outlives the
    /// request's deadline and its access token, so each call gets its own deadline and the newest token
    /// of the connection.
    fn call(&self, timeout: Duration) -> Call {
        let call = self.call.clone().with_deadline(Instant::now() + timeout);
        call.with_authorization(self.authorization.newest().expose())
    }
}
