//! GraphQL over WebSocket, on the same path as over HTTP: the handshake, and one task for every socket (`driver`) that
//! does what a pure machine ([`protocol`]) says. When the gateway stops, sockets are closed over a window of time and
//! their tasks awaited.

pub mod close;
pub mod dialect;
mod driver;
pub mod message;
#[cfg(test)]
mod noise_tests;
#[cfg(test)]
mod old_tests;
mod operations;
pub mod protocol;
#[cfg(test)]
mod protocol_tests;
mod renewal;
#[cfg(test)]
mod renewal_tests;
mod seats;
#[cfg(test)]
mod tests;
mod turns;
pub mod wire;

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{FromRequestParts, Request, State, ws::WebSocketUpgrade},
    http::{HeaderValue, Method, StatusCode, header, request},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    address::Address, live::Live, origins::Origins, pipeline::Pipeline, sessions::Revoked,
    viewer::Authenticator,
};
use dialect::Dialect;
use driver::{Client, Driver};
use message::Token;
use protocol::FRAME_MAX;
use seats::Seats;
use turns::Turns;

pub(crate) use driver::{STUCK_MAX, at, instant, over};
pub(crate) use seats::Seat;
pub use wire::Written;

/// What sockets are buffered with for reading, in bytes: most of them are idle, and frames are small.
pub const READ_BUFFER: usize = 1024;

/// A middleware: takes handshakes of WebSockets out of the path's requests.
pub async fn handshake(State(sockets): State<Sockets>, request: Request, next: Next) -> Response {
    let upgrade = request.headers().get(header::UPGRADE).map(HeaderValue::as_bytes);
    if request.method() != Method::GET || !upgrade.is_some_and(|it| it.eq_ignore_ascii_case(b"websocket")) {
        return next.run(request).await;
    }
    let (mut parts, _) = request.into_parts();
    match WebSocketUpgrade::from_request_parts(&mut parts, &()).await {
        Ok(upgrade) => sockets.upgrade(&parts, upgrade),
        Err(rejection) => rejection.into_response(),
    }
}

/// The sockets of a gateway. Cheap to clone.
#[derive(Clone)]
pub struct Sockets(Arc<Shared>);

/// What sockets are made of.
pub struct Parts {
    /// Admits and executes.
    pub pipeline: Pipeline,
    /// Opens subscriptions.
    pub live: Live,
    /// Says who asks.
    pub authenticator: Arc<Authenticator>,
    /// Which sessions are over.
    pub revoked: Revoked,
    /// Which web pages may come.
    pub origins: Origins,
    /// How many sockets a person may have.
    pub each_max: usize,
    /// How many sockets there may be of nobody yet.
    pub anonymous_max: usize,
    /// The time over which sockets are closed when the gateway stops.
    pub drain_window: Duration,
}

struct Shared {
    parts: Parts,
    seats: Seats,
    stopping: CancellationToken,
    tasks: TaskTracker,
    turns: Turns,
}

impl Sockets {
    /// None yet.
    pub fn new(parts: Parts) -> Self {
        let (seats, stopping) = (Seats::new(parts.each_max, parts.anonymous_max), CancellationToken::new());
        Self(Arc::new(Shared { parts, seats, stopping, tasks: TaskTracker::new(), turns: Turns::new() }))
    }

    /// Answers a handshake: 403 for a page that may not come, 400 without a subprotocol of ours, 503 when the
    /// gateway stops or too many sockets are of nobody, else 101 and a task.
    fn upgrade(&self, parts: &request::Parts, upgrade: WebSocketUpgrade) -> Response {
        let headers = &parts.headers;
        if !self.0.parts.origins.admit(headers) {
            return (StatusCode::FORBIDDEN, "this origin may not open a WebSocket here\n").into_response();
        }
        let Some(dialect) = Dialect::choose(upgrade.requested_protocols().map(HeaderValue::as_bytes)) else {
            return (StatusCode::BAD_REQUEST, "the subprotocol is graphql-transport-ws or graphql-ws\n")
                .into_response();
        };
        // Taken before the look: a gateway that stops meanwhile waits for this socket too.
        let task = self.0.tasks.token();
        if self.is_stopping() {
            return (StatusCode::SERVICE_UNAVAILABLE, "the gateway stops\n").into_response();
        }
        let Some(seat) = self.seats().take_anonymous() else {
            let message = "too many sockets wait for their users to sign in, try again later\n";
            return (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "3")], message).into_response();
        };
        let client = Client {
            dialect,
            address: Address::of(&parts.extensions),
            header_token: Token::of_headers(headers),
            written: parts.extensions.get().cloned().unwrap_or_default(),
        };
        let sockets = self.clone();
        upgrade
            .protocols([dialect.subprotocol()])
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(0)
            .max_frame_size(FRAME_MAX)
            .max_message_size(FRAME_MAX)
            .on_upgrade(move |socket| {
                let running = Box::new(Driver::new(sockets, socket, seat, client)).run();
                async move {
                    running.await;
                    drop(task);
                }
            })
    }

    /// Closes all sockets, each at a moment of its own within the window, and waits for their ends.
    pub async fn drain(&self) {
        self.0.stopping.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    fn pipeline(&self) -> &Pipeline {
        &self.0.parts.pipeline
    }

    /// Runs the task of a stream over HTTP; [`Sockets::drain`] waits for its end.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.tasks.spawn(task);
    }

    pub(crate) fn live(&self) -> &Live {
        &self.0.parts.live
    }

    fn authenticator(&self) -> &Authenticator {
        &self.0.parts.authenticator
    }

    pub(crate) fn revoked(&self) -> &Revoked {
        &self.0.parts.revoked
    }

    pub(crate) fn seats(&self) -> &Seats {
        &self.0.seats
    }

    /// Whether the gateway stops.
    pub(crate) fn is_stopping(&self) -> bool {
        self.0.stopping.is_cancelled()
    }

    /// Comes back when the gateway stops.
    pub(crate) async fn stopping(&self) {
        self.0.stopping.cancelled().await;
    }

    /// When a socket is to be closed, now that the gateway stops.
    pub(crate) fn turn(&self) -> Instant {
        Instant::now() + self.0.parts.drain_window.mul_f64(self.0.turns.next())
    }
}
