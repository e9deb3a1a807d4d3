//! Transport of calls between services: a type-erased tower service over either the generated server in
//! this process or a channel to another machine. Clients and interceptors are the same for both.

use std::convert::Infallible;

use http::{Request, Response};
use tonic::body::Body;
use tower::{Service, ServiceExt, util::BoxCloneSyncService};

/// Boxed error of any transport.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Transport failure. A newtype, because with a boxed trait object as the error type the compiler does
/// not recognise the futures of generated clients as `Send` (rust-lang/rust#64552).
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TransportError(#[source] BoxError);

impl From<BoxError> for TransportError {
    fn from(error: BoxError) -> Self {
        Self(error)
    }
}

/// Type-erased transport to one service. Generated clients are constructed from it.
pub type Peer = BoxCloneSyncService<Request<Body>, Response<Body>, TransportError>;

/// Wraps a generated server of this process as a [`Peer`]. Calls do not pass through a network.
pub fn local<S>(server: S) -> Peer
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
{
    BoxCloneSyncService::new(server.map_err(|never| match never {}))
}
