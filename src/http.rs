//! HTTP/1 and HTTP/2 server of a port. It replaces `axum::serve` because it limits what that does not:
//! the size of a request's head, the time until the head is complete, and the number of connections
//! ([`LimitedListener`]). A request must name its host ([`host::require`]).

use std::{
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{Router, body::Body, extract::ConnectInfo, http::Request, middleware::from_fn, serve::Listener};
use gateway::Written;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, time::sleep};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;

use crate::{
    connection_limit::{Connection, LimitedListener},
    host,
    write_timeout::WriteTimeout,
};

/// Maximum size of the request line and headers together, in bytes; a larger head is answered 431 on
/// HTTP/1 and HTTP/2. The request line holds the whole document of a GET request.
pub(crate) const HEAD_MAX_BYTES: usize = 64 * 1024;
/// Maximum number of headers of a request; more are answered 431.
pub(crate) const HEADERS_MAX: usize = 100;
/// Maximum number of concurrent streams of an HTTP/2 connection. One stream buffers at most its window
/// of 64 KiB, all streams of a connection 1 MiB together.
pub(crate) const STREAMS_MAX: u32 = 100;
pub(crate) const STREAM_WINDOW_BYTES: u32 = 64 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// Interval of HTTP/2 pings on a silent connection, and the time allowed for the answer.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// Limits of a port.
#[derive(Debug, Clone, Copy)]
pub struct PortLimits {
    /// Time from accepting a connection until the head of its first request is complete.
    pub first_head_timeout: Duration,
    /// Time until the head of each later HTTP/1 request is complete, which closes idle connections. It
    /// exceeds the 60 s for which load balancers commonly keep idle connections, so that the balancer
    /// closes them and never sends a request on a connection that is closing here.
    pub next_head_timeout: Duration,
    /// Maximum number of concurrent connections; further ones are answered 503.
    pub connections_max: u32,
}

impl PortLimits {
    /// Limits of the gateway's port. [`crate::file_descriptors`] may lower `connections_max`.
    pub const SERVICE: Self = Self {
        first_head_timeout: Duration::from_secs(10),
        next_head_timeout: Duration::from_secs(75),
        connections_max: 19_000,
    };
    /// Limits of the operations port.
    pub const OPERATIONS: Self = Self { connections_max: 100, ..Self::SERVICE };
}

/// Serves requests until `shutdown` is cancelled, then waits until every open connection has ended.
pub async fn serve(listener: TcpListener, router: Router, limits: PortLimits, shutdown: CancellationToken) {
    let router = router.layer(from_fn(host::require));
    let connections = TaskTracker::new();
    let mut listener = LimitedListener::new(listener, limits.connections_max);
    let accepting = async {
        loop {
            let (stream, address) = listener.accept().await;
            connections.spawn(serve_connection(stream, address, router.clone(), limits, shutdown.clone()));
        }
    };
    shutdown.run_until_cancelled(accepting).await;
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// Serves one connection until it ends.
async fn serve_connection(
    stream: Connection,
    address: SocketAddr,
    router: Router,
    limits: PortLimits,
    shutdown: CancellationToken,
) {
    let has_request = Arc::new(AtomicBool::new(false));
    let request_arrived = has_request.clone();
    let written = Written::default();
    let counted = written.clone();
    let service = ServiceExt::<Request<Body>>::map_request(router, move |request: Request<Incoming>| {
        request_arrived.store(true, Ordering::Relaxed);
        let mut request = request.map(Body::new);
        // Read by the gateway: the peer's address, and the number of bytes that the peer has accepted.
        request.extensions_mut().insert(ConnectInfo(address));
        request.extensions_mut().insert(counted.clone());
        request
    });
    let builder = builder(limits);
    let stream = TokioIo::new(WriteTimeout::new(stream, written));
    let serving = builder.serve_connection_with_upgrades(stream, TowerToHyperService::new(service));
    let mut serving = pin!(serving);
    // hyper's header timeout does not cover the wait for the first bytes, by which hyper-util tells
    // HTTP/1 from HTTP/2, nor an HTTP/2 connection without a request.
    let mut first_head_timeout = pin!(sleep(limits.first_head_timeout));
    let mut awaiting_first_head = true;
    let mut stopping = false;
    loop {
        tokio::select! {
            ended = serving.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "connection failed");
                }
                return;
            }
            () = first_head_timeout.as_mut(), if awaiting_first_head => {
                if !has_request.load(Ordering::Relaxed) {
                    metrics::counter!("http_silent_connections_total").increment(1);
                    return;
                }
                awaiting_first_head = false;
            }
            () = shutdown.cancelled(), if !stopping => {
                stopping = true;
                serving.as_mut().graceful_shutdown();
            }
        }
    }
}

fn builder(limits: PortLimits) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.next_head_timeout)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_MAX_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(HEAD_MAX_BYTES).expect("64 KiB fit into 32 bits"))
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE);
    builder
}
