//! GraphQL over WebSocket, on the path that GraphQL over HTTP uses too.
//!
//! The handshake checks the origin, the subprotocol and the quota of anonymous sockets. Each socket then
//! has one task ([`driver`]), which carries out the actions that a state machine without I/O
//! ([`protocol`]) decides on.

pub mod close;
mod driver;
mod frame_counter;
pub mod message;
mod operations;
pub mod protocol;
pub mod subprotocol;
pub mod token;
pub mod wire;

#[cfg(test)]
mod flood_tests;
#[cfg(test)]
mod graphql_ws_tests;
#[cfg(test)]
mod property_tests;
#[cfg(test)]
mod protocol_tests;
#[cfg(test)]
mod renewal_tests;
#[cfg(test)]
mod revocation_tests;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::{
    extract::{FromRequestParts, Request, State, ws::WebSocketUpgrade},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request},
    middleware::Next,
    response::{AppendHeaders, IntoResponse, Response},
};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tungstenite::{
    handshake::derive_accept_key,
    protocol::{Role, WebSocketConfig},
};

use crate::{
    client::{address::Address, caller::Authenticator, origins::Origins, user_agent::UserAgent},
    connections::{Connections, quota::Refusal},
    operation::Pipeline,
    subscription::Subscriptions,
};
use driver::{Driver, Handshake};
use frame_counter::FrameCounter;
use protocol::FRAME_MAX;
use subprotocol::Subprotocol;
use token::Token;

/// Size of a socket's read buffer, in bytes. Frames are small and most sockets are idle: the library's
/// default of 128 kB would be most of a socket's memory.
pub const READ_BUFFER: usize = 1024;

/// Middleware: answers WebSocket handshakes and passes every other request on.
pub async fn handshake(State(sockets): State<Sockets>, request: Request, next: Next) -> Response {
    let upgrade = request.headers().get(header::UPGRADE).map(HeaderValue::as_bytes);
    if request.method() != Method::GET || !upgrade.is_some_and(|it| it.eq_ignore_ascii_case(b"websocket")) {
        return next.run(request).await;
    }
    let (mut parts, _) = request.into_parts();
    // Taken here, because the extractor keeps it to itself and its sockets do not show fragments. The
    // extractor only checks the handshake.
    let connection = parts.extensions.get::<OnUpgrade>().cloned();
    match (WebSocketUpgrade::from_request_parts(&mut parts, &()).await, connection) {
        (Ok(upgrade), Some(connection)) => sockets.upgrade(&parts, &upgrade, connection),
        (Ok(_), None) => StatusCode::UPGRADE_REQUIRED.into_response(),
        (Err(rejection), _) => rejection.into_response(),
    }
}

/// The WebSocket endpoint of a gateway. Cheap to clone.
#[derive(Clone)]
pub struct Sockets(Arc<Services>);

/// The parts of the gateway that sockets use.
pub struct Services {
    /// Admits and executes operations.
    pub pipeline: Pipeline,
    /// Opens subscriptions.
    pub subscriptions: Subscriptions,
    /// Verifies access tokens.
    pub authenticator: Arc<Authenticator>,
    /// Origins of the web pages that may open a socket.
    pub origins: Origins,
    /// Quotas, revocation and drain.
    pub connections: Connections,
}

impl Sockets {
    /// Creates the endpoint.
    pub fn new(services: Services) -> Self {
        Self(Arc::new(services))
    }

    /// Answers a handshake: 403 for an origin that is not allowed, 400 without a supported subprotocol,
    /// 503 while the gateway stops or the quota of anonymous sockets is used up, 429 if the share of the
    /// client's address is. Otherwise it switches protocols and starts the task.
    fn upgrade(&self, parts: &request::Parts, upgrade: &WebSocketUpgrade, connection: OnUpgrade) -> Response {
        let headers = &parts.headers;
        if !self.0.origins.admit(headers) {
            return (StatusCode::FORBIDDEN, "this origin may not open a WebSocket here\n").into_response();
        }
        let protocols = upgrade.requested_protocols().map(HeaderValue::as_bytes);
        let Some(subprotocol) = Subprotocol::choose(protocols) else {
            let message = "the subprotocol must be graphql-transport-ws or graphql-ws\n";
            return (StatusCode::BAD_REQUEST, message).into_response();
        };
        // Taken before the check: a gateway that starts to drain after it waits for this socket too.
        let task = self.0.connections.task_token();
        if self.0.connections.is_stopping() {
            return (StatusCode::SERVICE_UNAVAILABLE, "the gateway is stopping\n").into_response();
        }
        let address = Address::of(&parts.extensions);
        let anonymous = match self.0.connections.quota().take_anonymous(address) {
            Ok(permit) => permit,
            Err(refusal) => return refused(refusal),
        };
        let handshake = Handshake {
            subprotocol,
            address,
            user_agent: UserAgent::of(headers).detached(),
            header_token: Token::from_headers(headers),
            written: parts.extensions.get().cloned().unwrap_or_default(),
        };
        let sockets = self.clone();
        tokio::spawn(async move {
            // The permits are returned if the client disconnects instead.
            if let Ok(connection) = connection.await {
                let connection = FrameCounter::new(TokioIo::new(connection));
                let socket = WebSocketStream::from_raw_socket(connection, Role::Server, Some(config())).await;
                Box::new(Driver::new(sockets, socket, anonymous, handshake)).run().await;
            }
            drop(task);
        });
        switching_protocols(headers, subprotocol)
    }

    fn pipeline(&self) -> &Pipeline {
        &self.0.pipeline
    }

    fn subscriptions(&self) -> &Subscriptions {
        &self.0.subscriptions
    }

    fn authenticator(&self) -> &Authenticator {
        &self.0.authenticator
    }

    fn connections(&self) -> &Connections {
        &self.0.connections
    }
}

/// Settings of the WebSocket library.
fn config() -> WebSocketConfig {
    let config = WebSocketConfig::default().read_buffer_size(READ_BUFFER).write_buffer_size(0);
    config.max_frame_size(Some(FRAME_MAX)).max_message_size(Some(FRAME_MAX))
}

/// Returns the answer that accepts a handshake.
fn switching_protocols(headers: &HeaderMap, subprotocol: Subprotocol) -> Response {
    let key = headers.get(header::SEC_WEBSOCKET_KEY).map_or(&[][..], HeaderValue::as_bytes);
    let fields: [(HeaderName, String); 4] = [
        (header::CONNECTION, "upgrade".to_owned()),
        (header::UPGRADE, "websocket".to_owned()),
        (header::SEC_WEBSOCKET_ACCEPT, derive_accept_key(key)),
        (header::SEC_WEBSOCKET_PROTOCOL, subprotocol.name().to_owned()),
    ];
    (StatusCode::SWITCHING_PROTOCOLS, AppendHeaders(fields)).into_response()
}

/// Returns the answer to a handshake for which the quota has no permit.
fn refused(refusal: Refusal) -> Response {
    let (status, message) = match refusal {
        Refusal::Everyone => (
            StatusCode::SERVICE_UNAVAILABLE,
            "too many sockets wait for their users to sign in, try again later\n",
        ),
        Refusal::Address => (
            StatusCode::TOO_MANY_REQUESTS,
            "too many sockets of this address wait for their users to sign in, try again later\n",
        ),
    };
    (status, [(header::RETRY_AFTER, "3")], message).into_response()
}
