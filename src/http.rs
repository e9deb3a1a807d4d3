//! HTTP on a port, within bounds that axum's own `serve` does not have: how large a request's head may be, how long it
//! may take to come, and how many connections there are ([`Limited`]).

use std::{
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{Router, body::Body, extract::ConnectInfo, http::Request, serve::Listener};
use gateway::socket::Written;
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
    connections::{Connection, Limited},
    patient::Patient,
};

/// The most bytes of a request's line and headers together: 431 beyond that, on HTTP/2 as on HTTP/1. A document by GET
/// stands in the line.
pub(crate) const HEAD_MAX_BYTES: usize = 64 * 1024;
/// The most headers of a request: 431 beyond that.
pub(crate) const HEADERS_MAX: usize = 100;
/// Streams of an HTTP/2 connection at once. Each buffers at most a window of 64 KiB, all together 1 MiB.
pub(crate) const STREAMS_MAX: u32 = 100;
pub(crate) const STREAM_WINDOW_BYTES: u32 = 64 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// How often a silent HTTP/2 connection shows that it lives, and how long that may take.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// How patient a port is, and with how many.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// From the start of a connection until its first request has come whole, body aside.
    pub first_head: Duration,
    /// Until the head of each later request of HTTP/1 has come whole: an idle connection ends with it. More than the 60 s
    /// that balancers keep theirs.
    pub next_head: Duration,
    /// Connections at once. Those beyond are answered 503.
    pub connections: u32,
}

impl Bounds {
    /// The gateway's port. Each connection is a descriptor: fewer where the system does not let the process have so many
    /// ([`crate::descriptors`]).
    pub const SERVICE: Self =
        Self { first_head: Duration::from_secs(10), next_head: Duration::from_secs(75), connections: 19_000 };
    /// The operations port.
    pub const OPERATIONS: Self = Self { connections: 100, ..Self::SERVICE };
}

/// Answers until shut down, then until every connection has ended.
pub async fn serve(listener: TcpListener, router: Router, bounds: Bounds, shutdown: CancellationToken) {
    let (connections, mut limited) = (TaskTracker::new(), Limited::new(listener, bounds.connections));
    let accepting = async {
        loop {
            let (stream, address) = limited.accept().await;
            connections.spawn(connection(stream, address, router.clone(), bounds, shutdown.clone()));
        }
    };
    shutdown.run_until_cancelled(accepting).await;
    drop(limited);
    connections.close();
    connections.wait().await;
}

/// Serves one connection to its end.
async fn connection(
    stream: Connection,
    address: SocketAddr,
    router: Router,
    bounds: Bounds,
    shutdown: CancellationToken,
) {
    let asked = Arc::new(AtomicBool::new(false));
    let heard = asked.clone();
    let written = Written::default();
    let counted = written.clone();
    let service = ServiceExt::<Request<Body>>::map_request(router, move |request: Request<Incoming>| {
        heard.store(true, Ordering::Relaxed);
        let mut request = request.map(Body::new);
        // Where the other end is travels with each request, and how much it has taken.
        request.extensions_mut().insert(ConnectInfo(address));
        request.extensions_mut().insert(counted.clone());
        request
    });
    let builder = builder(bounds);
    let stream = TokioIo::new(Patient::new(stream, written));
    let serving = builder.serve_connection_with_upgrades(stream, TowerToHyperService::new(service));
    let (mut serving, mut patience) = (pin!(serving), pin!(sleep(bounds.first_head)));
    let (mut waiting, mut stopping) = (true, false);
    loop {
        tokio::select! {
            ended = serving.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection broke off");
                }
                return;
            }
            () = patience.as_mut(), if waiting => {
                if !asked.load(Ordering::Relaxed) {
                    metrics::counter!("http_silent_connections_total").increment(1);
                    return;
                }
                waiting = false;
            }
            () = shutdown.cancelled(), if !stopping => {
                stopping = true;
                serving.as_mut().graceful_shutdown();
            }
        }
    }
}

fn builder(bounds: Bounds) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.next_head)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_MAX_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(HEAD_MAX_BYTES).expect("a small number"))
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE);
    builder
}
