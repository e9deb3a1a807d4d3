//! The three services, as the gateway calls them: a client per call, carrying what travels with it.

use proto::{
    Peer, auth::auth_client::AuthClient, counter::counters_client::CountersClient,
    dialog::dialogs_client::DialogsClient,
};
use telemetry::{Call, grpc::client_layer};
use tonic::service::interceptor::InterceptedService;
use tower::{Layer, util::BoxCloneSyncService};

/// A page of long messages is larger than tonic's default of 4 MB.
const ANSWER_MAX_BYTES: usize = 64 << 20;

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

    /// The auth service.
    pub fn auth(&self, call: &Call) -> AuthClient<Called> {
        AuthClient::with_interceptor(self.auth.clone(), call.clone()).max_decoding_message_size(ANSWER_MAX_BYTES)
    }

    /// The dialog service.
    pub fn dialog(&self, call: &Call) -> DialogsClient<Called> {
        DialogsClient::with_interceptor(self.dialog.clone(), call.clone()).max_decoding_message_size(ANSWER_MAX_BYTES)
    }

    /// The counter service.
    pub fn counter(&self, call: &Call) -> CountersClient<Called> {
        CountersClient::with_interceptor(self.counter.clone(), call.clone()).max_decoding_message_size(ANSWER_MAX_BYTES)
    }
}

fn seen(name: &'static str, peer: Peer) -> Peer {
    BoxCloneSyncService::new(client_layer(name).layer(peer))
}
