//! Fake gRPC service for tests: one function answers the calls of all methods, and every call is
//! recorded. It is a tower service: layers can wrap it, and a `proto::Peer` (the client of another service)
//! can be built from it without a network. [`FakeGrpc::routes`] serves it through tonic's transport.

use std::{
    convert::Infallible,
    fmt,
    future::Future,
    sync::Arc,
    task::{Context, Poll},
};

use axum::Router;
use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Request, Response, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::{Status, body::Body, service::Routes};
use tower::{Service, ServiceExt};

use crate::eventually;

/// Length of a gRPC frame's prefix: one byte of flags and four bytes of message length.
const FRAME_PREFIX_BYTES: usize = 5;

type Handler =
    dyn Fn(FakeRequest) -> BoxFuture<'static, Result<tonic::Response<Vec<u8>>, Status>> + Send + Sync;

/// Fake gRPC service. Clones share the handler and the recorded calls.
#[derive(Clone)]
pub struct FakeGrpc {
    handler: Arc<Handler>,
    calls: Arc<Mutex<Vec<FakeCall>>>,
}

/// Request as the handler of a [`FakeGrpc`] receives it.
#[derive(Debug)]
pub struct FakeRequest {
    /// Last segment of the request's path.
    pub method: String,
    /// Metadata of the call.
    pub headers: HeaderMap,
    /// Values that layers attached to the request.
    pub extensions: Extensions,
    /// Encoded request message; empty if the body is empty.
    pub message: Bytes,
}

/// Record of one call.
#[derive(Clone, Debug)]
pub struct FakeCall {
    /// Last segment of the request's path.
    pub method: String,
    /// Metadata of the call.
    pub headers: HeaderMap,
    /// Time at which the call arrived, by the clock of the runtime.
    pub started_at: Instant,
    /// Progress of the call.
    pub state: CallState,
}

/// Progress of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallState {
    /// The handler is running.
    Running,
    /// The handler returned a reply or a status.
    Answered,
    /// The caller dropped the call before the reply, or the handler panicked.
    Cancelled,
}

impl FakeGrpc {
    /// Creates a service that answers with an asynchronous handler. On success the handler returns
    /// the encoded reply message, or a [`tonic::Response`] that adds metadata to it.
    pub fn new<F, R>(handler: impl Fn(FakeRequest) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<R, Status>> + Send + 'static,
        R: Into<tonic::Response<Vec<u8>>>,
    {
        let handler = move |request| handler(request).map(|reply| reply.map(Into::into)).boxed();
        Self { handler: Arc::new(handler), calls: Arc::default() }
    }

    /// Creates a service that answers immediately, from the method's name and the encoded request
    /// message.
    pub fn from_fn(reply: impl Fn(&str, &[u8]) -> Result<Vec<u8>, Status> + Send + Sync + 'static) -> Self {
        Self::new(move |request| std::future::ready(reply(&request.method, &request.message)))
    }

    /// Returns the calls so far, in order of arrival.
    pub fn calls(&self) -> Vec<FakeCall> {
        self.calls.lock().clone()
    }

    /// Returns the methods that were called, in order of arrival.
    pub fn methods(&self) -> Vec<String> {
        self.calls.lock().iter().map(|call| call.method.clone()).collect()
    }

    /// Counts the calls of a method.
    pub fn count(&self, method: &str) -> usize {
        self.calls.lock().iter().filter(|call| call.method == method).count()
    }

    /// Returns `true` if a call of this method is in this state.
    pub fn has(&self, method: &str, state: CallState) -> bool {
        self.calls.lock().iter().any(|call| call.method == method && call.state == state)
    }

    /// Waits until a call of this method is in this state.
    ///
    /// # Panics
    /// If that does not happen within a minute.
    pub async fn wait_for(&self, method: &str, state: CallState) {
        eventually(&format!("a call of {method} is {state:?}"), async || self.has(method, state)).await;
    }

    /// Returns routes that serve every path with this service, for `Server::builder().add_routes(…)`.
    pub fn routes(&self) -> Routes {
        let service = self.clone().map_request(|request: Request<axum::body::Body>| request.map(Body::new));
        Routes::from(Router::new().fallback_service(service))
    }

    fn start(&self, method: &str, headers: &HeaderMap) -> RunningCall {
        let mut calls = self.calls.lock();
        calls.push(FakeCall {
            method: method.to_owned(),
            headers: headers.clone(),
            started_at: Instant::now(),
            state: CallState::Running,
        });
        RunningCall { calls: Arc::clone(&self.calls), index: calls.len() - 1, state: CallState::Cancelled }
    }
}

impl fmt::Debug for FakeGrpc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeGrpc").field("calls", &self.calls).finish_non_exhaustive()
    }
}

impl Service<Request<Body>> for FakeGrpc {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let service = self.clone();
        async move {
            let (parts, body) = request.into_parts();
            let method = parts.uri.path().rsplit('/').next().unwrap_or_default().to_owned();
            let mut running = service.start(&method, &parts.headers);
            let mut body = body.collect().await.expect("the request body arrives").to_bytes();
            let message = body.split_off(FRAME_PREFIX_BYTES.min(body.len()));
            let request =
                FakeRequest { method, headers: parts.headers, extensions: parts.extensions, message };
            let reply = (service.handler)(request).await;
            running.state = CallState::Answered;
            Ok(reply.map_or_else(Status::into_http, encode))
        }
        .boxed()
    }
}

/// Call whose handler is running. Records the final state when dropped.
struct RunningCall {
    calls: Arc<Mutex<Vec<FakeCall>>>,
    index: usize,
    state: CallState,
}

impl Drop for RunningCall {
    fn drop(&mut self) {
        self.calls.lock()[self.index].state = self.state;
    }
}

/// Encodes a successful reply: one frame, then the trailer `grpc-status: 0`.
fn encode(reply: tonic::Response<Vec<u8>>) -> Response<Body> {
    let (metadata, message, _) = reply.into_parts();
    let length = u32::try_from(message.len()).expect("a reply of a test is small");
    let data = [&[0][..], &length.to_be_bytes(), &message].concat();
    let trailers =
        HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]);
    let frames = [Frame::data(Bytes::from(data)), Frame::trailers(trailers)];
    let body = StreamBody::new(futures_util::stream::iter(frames.map(Ok::<_, Infallible>)));
    let mut response = Response::new(Body::new(body));
    *response.headers_mut() = metadata.into_headers();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// Creates an empty request for a method of a fake service.
///
/// # Panics
/// If a header is not valid.
pub fn fake_request(method: &str, headers: &[(&'static str, &str)]) -> Request<Body> {
    let mut request = Request::post(format!("http://fake/fake.Fake/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Body::empty()).expect("the headers are valid")
}
