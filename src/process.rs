//! What every role is made of: its tasks, its operations port, and an end in good order.

use std::{future::Future, net::SocketAddr, time::Duration};

use anyhow::Context;
use axum::Router;
use db::Db;
use telemetry::{Readiness, grpc::server_layer};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tonic::{
    body::Body,
    codegen::{Service, http},
    server::NamedService,
    transport::{Server, server::TcpIncoming},
};
use tower::Layer;

/// What the process may take beyond `DRAIN_WINDOW` to end.
const GRACE: Duration = Duration::from_secs(10);

/// A process, with the tasks that it owns.
#[derive(Debug)]
pub struct Process {
    /// Says that it is time to end.
    pub shutdown: CancellationToken,
    /// What is in order.
    pub readiness: Readiness,
    tasks: JoinSet<()>,
}

impl Process {
    /// A process with its operations port, which tells from now on how far it is.
    ///
    /// # Errors
    /// Where nothing can listen there.
    pub async fn start(ops: SocketAddr) -> anyhow::Result<(Self, SocketAddr)> {
        let listener = listen("OPS_LISTEN", ops).await?;
        let address = listener.local_addr()?;
        let (shutdown, readiness) = (CancellationToken::new(), Readiness::new());
        let mut process = Self { shutdown, readiness, tasks: JoinSet::new() };
        process.serve_http("OPS_LISTEN", listener, telemetry::ops::router(process.readiness.clone()));
        process.spawn(telemetry::recorder::upkeep(process.shutdown.clone()));
        Ok((process, address))
    }

    /// A task that ends by itself when it is shut down.
    pub fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// Answers HTTP until shut down.
    pub fn serve_http(&mut self, setting: &'static str, listener: TcpListener, router: Router) {
        let shutdown = self.shutdown.clone().cancelled_owned();
        self.spawn(async move {
            // Where the other end is travels with each request.
            let router = router.into_make_service_with_connect_info::<SocketAddr>();
            if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(shutdown).await {
                tracing::error!(setting, %error, "the port is closed");
            }
        });
    }

    /// Answers gRPC until shut down: the service, its health, and with `reflection` what it offers.
    pub fn serve_grpc<S>(&mut self, name: &'static str, listener: TcpListener, server: S, reflection: bool)
    where
        S: Service<http::Request<Body>, Response = http::Response<Body>, Error = std::convert::Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        let shutdown = self.shutdown.clone().cancelled_owned();
        self.spawn(async move {
            let (health, health_server) = tonic_health::server::health_reporter();
            health.set_serving::<S>().await;
            let reflection = reflection.then(|| {
                let described = tonic_reflection::server::Builder::configure();
                let described = described.register_encoded_file_descriptor_set(proto::DESCRIPTORS);
                described.build_v1().expect("the descriptors are those that the bindings were made from")
            });
            let served = Server::builder()
                .add_service(health_server)
                .add_optional_service(reflection)
                .add_service(server_layer(name).layer(server))
                .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), shutdown);
            if let Err(error) = served.await {
                tracing::error!(setting = "LISTEN", %error, "the port is closed");
            }
        });
    }

    /// Runs until SIGINT or SIGTERM, then ends everything within the drain window and ten seconds.
    ///
    /// # Errors
    /// Where signals cannot be received.
    pub async fn until_stopped(mut self, databases: &[&Db], drain_window: Duration) -> anyhow::Result<()> {
        stop_signal().await?;
        tracing::info!("stopping; asked again, at once");
        self.shutdown.cancel();
        let everything = async {
            while self.tasks.join_next().await.is_some() {}
            for db in databases {
                db.close().await;
            }
        };
        tokio::select! {
            ended = tokio::time::timeout(drain_window + GRACE, everything) => if ended.is_err() {
                tracing::warn!("some work did not end in time and is cut off");
            },
            again = stop_signal() => again?,
        }
        Ok(())
    }
}

/// Listens, or says in one line why not.
///
/// # Errors
/// Where nothing can listen there.
pub async fn listen(setting: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("{setting}: nothing can listen on {address}"))
}

/// SIGINT or SIGTERM.
///
/// # Errors
/// Where signals cannot be received.
pub async fn stop_signal() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted?,
        _ = terminate.recv() => {}
    }
    Ok(())
}
