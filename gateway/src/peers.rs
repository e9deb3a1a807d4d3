//! The three services, as the gateway calls them: a client per call, carrying what travels with it.

use proto::{
    ANSWER_MAX_BYTES, Peer, REQUEST_MAX_BYTES, auth::auth_client::AuthClient,
    counter::counters_client::CountersClient, dialog::dialogs_client::DialogsClient,
};
use resilience::{Settings, Target};
use telemetry::{Call, grpc::client_layer};
use tonic::service::interceptor::InterceptedService;
use tower::{Layer, util::BoxCloneSyncService};

use crate::{rates::Limits, upstream::UpstreamLimit};

/// The calls that change nothing and may be made again, as the .proto files have them; and of the counters' those that cost
/// them little (a snapshot is of up to 1,000 people).
const AUTH: Target = Target { service: "auth", reads: &["Users", "Search", "Revoked"], hedged: &[] };
const DIALOG: Target = Target {
    service: "dialog",
    reads: &["List", "Get", "History", "Messages", "ReadTarget", "MessagesSince", "Live"],
    hedged: &[],
};
const COUNTER: Target = Target {
    service: "counter",
    reads: &["Unread", "Rows", "ReadStates", "Snapshots"],
    hedged: &["Unread", "Rows", "ReadStates"],
};

/// A service, and what travels with each call of it.
pub type Called = InterceptedService<Peer, Call>;

/// The services behind the gateway. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Peers {
    auth: Peer,
    dialog: Peer,
    counter: Peer,
}

impl Peers {
    /// The services to call; every call is seen in the log and the metrics.
    pub fn new(auth: Peer, dialog: Peer, counter: Peer) -> Self {
        Self { auth: seen("auth", auth), dialog: seen("dialog", dialog), counter: seen("counter", counter) }
    }

    /// The same, with everything around each service that these settings ask for. Each has budgets and a breaker of its
    /// own: one that is ill costs the others nothing.
    #[must_use]
    pub fn resilient(self, settings: Settings) -> Self {
        let around = |peer: Peer, target: Target| -> Peer { resilience::around(peer, target, settings) };
        Self {
            auth: around(self.auth, AUTH),
            dialog: around(self.dialog, DIALOG),
            counter: around(self.counter, COUNTER),
        }
    }

    /// The same services, each called as often as the limits have it.
    #[must_use]
    pub fn limited(self, limits: &Limits) -> Self {
        let Some(rate) = limits.upstream.0 else { return self };
        let limited = |name, peer| BoxCloneSyncService::new(UpstreamLimit::new(name, rate).layer(peer));
        let Self { auth, dialog, counter } = self;
        Self {
            auth: limited("auth", auth),
            dialog: limited("dialog", dialog),
            counter: limited("counter", counter),
        }
    }

    /// The auth service.
    pub fn auth(&self, call: &Call) -> AuthClient<Called> {
        AuthClient::with_interceptor(self.auth.clone(), call.clone())
            .max_decoding_message_size(ANSWER_MAX_BYTES)
            .max_encoding_message_size(REQUEST_MAX_BYTES)
    }

    /// The dialog service.
    pub fn dialog(&self, call: &Call) -> DialogsClient<Called> {
        DialogsClient::with_interceptor(self.dialog.clone(), call.clone())
            .max_decoding_message_size(ANSWER_MAX_BYTES)
            .max_encoding_message_size(REQUEST_MAX_BYTES)
    }

    /// The counter service.
    pub fn counter(&self, call: &Call) -> CountersClient<Called> {
        CountersClient::with_interceptor(self.counter.clone(), call.clone())
            .max_decoding_message_size(ANSWER_MAX_BYTES)
            .max_encoding_message_size(REQUEST_MAX_BYTES)
    }
}

fn seen(name: &'static str, peer: Peer) -> Peer {
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

    /// A service whose answer says that its message has so many bytes.
    fn answers_of(bytes: u32) -> Peer {
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
    async fn an_answer_over_its_bound_is_not_read_and_says_so() {
        let limit = u32::try_from(ANSWER_MAX_BYTES).expect("a small number");
        for (bytes, code) in [(limit, Code::Internal), (limit + 1, Code::LimitExceeded)] {
            let peers = Peers::new(answers_of(bytes), answers_of(bytes), answers_of(bytes));
            let refused =
                peers.dialog(&Call::new()).history(HistoryRequest::default()).await.expect_err("no message");
            assert_eq!(Error::from(refused).code(), code, "one within it is waited for, and breaks off here");
        }
    }
}
