//! Clients of the services auth, dialog and counter. A client is created for each call and carries the
//! call's context: deadline, request id, trace and authorization.

use std::sync::Arc;

use proto::{
    Peer, REQUEST_MAX_BYTES, RESPONSE_MAX_BYTES, auth::auth_client::AuthClient,
    counter::counters_client::CountersClient, dialog::dialogs_client::DialogsClient,
};
use resilience::{Settings, Target};
use telemetry::{Call, grpc::client_layer};
use tonic::service::interceptor::InterceptedService;
use tower::{Layer, util::BoxCloneSyncService};

use crate::{client::rate_limits::RateLimits, upstream::UpstreamLimit};

// `reads` are the methods without effects, which may be retried. `hedged` are those among them that may
// also be sent twice concurrently: only the counter's cheap ones, since a `Snapshots` call can cover up
// to 1,000 users.
const AUTH: Target =
    Target { service: "auth", reads: &["Users", "Search", "Sessions", "RevokedSince"], hedged: &[] };
const DIALOG: Target = Target {
    service: "dialog",
    reads: &["List", "Get", "History", "Messages", "ReadTarget", "MessagesSince", "Live", "Participants"],
    hedged: &[],
};
const COUNTER: Target = Target {
    service: "counter",
    reads: &["Unread", "Rows", "ReadStates", "Snapshots"],
    hedged: &["Unread", "Rows", "ReadStates"],
};

/// A service with the context of one call.
pub type PeerWithContext = InterceptedService<Peer, Call>;

/// The services that the gateway calls. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Peers(Arc<Clients>);

/// The clients of the services. A clone of one copies all its layers, so only a call makes one.
#[derive(Debug)]
struct Clients {
    auth: Peer,
    dialog: Peer,
    counter: Peer,
}

impl Peers {
    /// Creates the clients. Every call is logged and measured.
    pub fn new(auth: Peer, dialog: Peer, counter: Peer) -> Self {
        Self(Arc::new(Clients {
            auth: observed("auth", auth),
            dialog: observed("dialog", dialog),
            counter: observed("counter", counter),
        }))
    }

    /// Adds retries, hedging and a circuit breaker to each service. Budgets and breakers are per
    /// service, so a failing service does not affect calls to the others.
    #[must_use]
    pub fn resilient(self, settings: Settings) -> Self {
        let around =
            |peer: &Peer, target: Target| -> Peer { resilience::around(peer.clone(), target, settings) };
        Self(Arc::new(Clients {
            auth: around(&self.0.auth, AUTH),
            dialog: around(&self.0.dialog, DIALOG),
            counter: around(&self.0.counter, COUNTER),
        }))
    }

    /// Adds the configured rate limit of calls to each service.
    #[must_use]
    pub fn limited(self, limits: &RateLimits) -> Self {
        let Some(rate) = limits.upstream.0 else { return self };
        let limited =
            |name, peer: &Peer| BoxCloneSyncService::new(UpstreamLimit::new(name, rate).layer(peer.clone()));
        Self(Arc::new(Clients {
            auth: limited("auth", &self.0.auth),
            dialog: limited("dialog", &self.0.dialog),
            counter: limited("counter", &self.0.counter),
        }))
    }

    /// Creates a client of auth for one call.
    pub fn auth(&self, call: &Call) -> AuthClient<PeerWithContext> {
        AuthClient::with_interceptor(self.0.auth.clone(), call.clone())
            .max_decoding_message_size(RESPONSE_MAX_BYTES)
            .max_encoding_message_size(REQUEST_MAX_BYTES)
    }

    /// Creates a client of dialog for one call.
    pub fn dialog(&self, call: &Call) -> DialogsClient<PeerWithContext> {
        DialogsClient::with_interceptor(self.0.dialog.clone(), call.clone())
            .max_decoding_message_size(RESPONSE_MAX_BYTES)
            .max_encoding_message_size(REQUEST_MAX_BYTES)
    }

    /// Creates a client of counter for one call.
    pub fn counter(&self, call: &Call) -> CountersClient<PeerWithContext> {
        CountersClient::with_interceptor(self.0.counter.clone(), call.clone())
            .max_decoding_message_size(RESPONSE_MAX_BYTES)
            .max_encoding_message_size(REQUEST_MAX_BYTES)
    }
}

fn observed(name: &'static str, peer: Peer) -> Peer {
    BoxCloneSyncService::new(client_layer(name).layer(peer))
}

#[cfg(test)]
mod tests {
    use http::{Response, header};
    use http_body_util::Full;
    use proto::{TransportError, dialog::HistoryRequest};
    use tonic::body::Body;
    use tower::service_fn;

    use super::*;
    use crate::error::{Code, Error};

    /// A service whose response header announces a message of this size.
    fn announcing(bytes: u32) -> Peer {
        BoxCloneSyncService::new(service_fn(move |_: http::Request<Body>| async move {
            let head = [&[0][..], &bytes.to_be_bytes()].concat();
            let mut response = Response::new(Body::new(Full::<bytes::Bytes>::from(head)));
            response
                .headers_mut()
                .insert(header::CONTENT_TYPE, "application/grpc".parse().expect("a header"));
            Ok::<_, TransportError>(response)
        }))
    }

    #[tokio::test]
    async fn a_response_over_the_size_limit_is_limit_exceeded_and_not_read() {
        let limit = u32::try_from(RESPONSE_MAX_BYTES).expect("a small number");
        for (bytes, code) in [(limit, Code::Internal), (limit + 1, Code::LimitExceeded)] {
            let peers = Peers::new(announcing(bytes), announcing(bytes), announcing(bytes));
            let error =
                peers.dialog(&Call::new()).history(HistoryRequest::default()).await.expect_err("no message");
            assert_eq!(
                Error::from(error).code(),
                code,
                "{bytes}: a message within the limit is read, and is cut off here"
            );
        }
    }
}
