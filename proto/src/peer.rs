//! A service as its callers see it: the generated server called directly, or a channel to another machine, behind one
//! erased type. Clients and interceptors are the same for both.

use std::convert::Infallible;

use http::{Request, Response};
use tonic::body::Body;
use tower::{Service, ServiceExt, util::BoxCloneSyncService};

/// Any error of a transport.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A transport that failed. A type of its own: with a boxed trait object in this place the futures of generated clients
/// would not count as `Send` (rust-lang/rust#64552).
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TransportError(#[source] BoxError);

impl From<BoxError> for TransportError {
    fn from(error: BoxError) -> Self {
        Self(error)
    }
}

/// A service to call: what a generated client is made over.
pub type Peer = BoxCloneSyncService<Request<Body>, Response<Body>, TransportError>;

/// A generated server in this process as a [`Peer`].
pub fn local<S>(server: S) -> Peer
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    BoxCloneSyncService::new(server.map_err(|never| match never {}))
}
