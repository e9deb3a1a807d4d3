//! What every role is made of: its tasks, its operations port, and an end in good order.

use std::{future::Future, net::SocketAddr, panic::AssertUnwindSafe, time::Duration};

use anyhow::Context;
use axum::{
    Router,
    http::{Request, Response},
};
use db::Db;
use futures_util::FutureExt;
use telemetry::{Readiness, grpc::server_layer, panic, readiness::Component};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    task::{JoinError, JoinSet},
};
use tokio_util::sync::CancellationToken;
use tonic::{
    body::Body,
    codegen::Service,
    server::NamedService,
    transport::{Server, server::TcpIncoming},
};
use tower::Layer;

use crate::{
    descriptors,
    http::{self, Bounds},
};

/// What the process may take beyond `DRAIN_WINDOW` to end.
const GRACE: Duration = Duration::from_secs(10);
/// Calls of one connection at once; more wait at the caller's.
const CALLS_MAX: u32 = 1000;
/// The most bytes of a call's headers: a token has 4,096, everything else is short.
const HEAD_MAX_BYTES: u32 = 16 * 1024;
/// How often a silent connection shows that it lives, and how long that may take.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// A task of the process has ended without being told to: what it did is not done any more.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// It panicked.
    #[error("a task of the process panicked: {0}")]
    Panicked(JoinError),
    /// It came back.
    #[error("a task of the process has ended by itself")]
    Ended,
}

/// A process, with the tasks that it owns.
#[derive(Debug)]
pub struct Process {
    /// Says that it is time to end.
    pub shutdown: CancellationToken,
    /// What is in order.
    pub readiness: Readiness,
    /// Not ready until everything that has to be is registered: before that, all of it could seem ready.
    start: Component,
    tasks: JoinSet<()>,
    /// What the system lets it have open.
    descriptors: u64,
}

impl Process {
    /// A process with all the descriptors that it can have and its operations port, which tells from now on how far it is.
    ///
    /// # Errors
    /// Where nothing can listen there.
    pub async fn start(ops: SocketAddr) -> anyhow::Result<(Self, SocketAddr)> {
        let descriptors = descriptors::raise();
        let listener = listen("OPS_LISTEN", ops).await?;
        let address = listener.local_addr()?;
        let (shutdown, readiness) = (CancellationToken::new(), Readiness::new());
        let start = readiness.register("start");
        let mut process = Self { shutdown, readiness, start, tasks: JoinSet::new(), descriptors };
        process.serve_http(listener, telemetry::ops::router(process.readiness.clone()), Bounds::OPERATIONS);
        process.spawn(telemetry::recorder::upkeep(process.shutdown.clone()));
        Ok((process, address))
    }

    /// A task that ends when it is shut down. Where it panics, or comes back before, the process ends: without one of its
    /// tasks it would only look alive.
    pub fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(async move {
            if let Err(payload) = AssertUnwindSafe(task).catch_unwind().await {
                panic::report("task", payload.as_ref());
                std::panic::resume_unwind(payload);
            }
        });
    }

    /// The bounds of the gateway's port: so many connections, or what the system allows.
    pub fn bounds(&self, connections_max: u32) -> Bounds {
        Bounds { connections: descriptors::cut(connections_max, self.descriptors), ..Bounds::SERVICE }
    }

    /// Answers HTTP until shut down.
    pub fn serve_http(&mut self, listener: TcpListener, router: Router, bounds: Bounds) {
        self.spawn(http::serve(listener, router, bounds, self.shutdown.clone()));
    }

    /// Answers gRPC until shut down: the service, its health, and with `reflection` what it offers.
    pub fn serve_grpc<S>(&mut self, name: &'static str, listener: TcpListener, server: S, reflection: bool)
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = std::convert::Infallible>
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
                .max_concurrent_streams(CALLS_MAX)
                .http2_max_header_list_size(HEAD_MAX_BYTES)
                .http2_keepalive_interval(Some(KEEP_ALIVE))
                .http2_keepalive_timeout(Some(KEEP_ALIVE))
                .add_service(health_server)
                .add_optional_service(reflection)
                .add_service(server_layer(name).layer(server))
                .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), shutdown);
            if let Err(error) = served.await {
                tracing::error!(setting = "LISTEN", %error, "the port is closed");
            }
        });
    }

    /// Runs until SIGINT or SIGTERM, or until a task breaks, then ends everything within the drain window and ten seconds.
    ///
    /// # Errors
    /// [`Broken`] where a task has panicked or ended by itself, and where signals cannot be received.
    pub async fn until_stopped(mut self, databases: &[&Db], drain_window: Duration) -> anyhow::Result<()> {
        self.start.ready();
        let mut broken = self.stopped().await?;
        self.shutdown.cancel();
        tokio::select! {
            ended = tokio::time::timeout(drain_window + GRACE, self.end(databases)) => match ended {
                Ok(panicked) => broken = broken.or(panicked),
                Err(_) => tracing::warn!("some work did not end in time and is cut off"),
            },
            again = stop_signal() => again?,
        }
        broken.map_or(Ok(()), |broken| Err(broken.into()))
    }

    /// Waits for a signal, or for a task that breaks.
    async fn stopped(&mut self) -> anyhow::Result<Option<Broken>> {
        tokio::select! {
            stopped = stop_signal() => {
                stopped?;
                tracing::info!("stopping; asked again, at once");
                Ok(None)
            }
            Some(ended) = self.tasks.join_next() => {
                let broken = ended.map_or_else(Broken::Panicked, |()| Broken::Ended);
                tracing::error!(error = %broken, "stopping");
                Ok(Some(broken))
            }
        }
    }

    /// Waits for every task, then closes the databases; the first panic on the way.
    async fn end(&mut self, databases: &[&Db]) -> Option<Broken> {
        let mut broken = None;
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = ended {
                broken.get_or_insert(Broken::Panicked(error));
            }
        }
        for db in databases {
            db.close().await;
        }
        broken
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

#[cfg(test)]
mod tests {
    use super::*;

    async fn process() -> (Process, SocketAddr) {
        Process::start("127.0.0.1:0".parse().unwrap()).await.unwrap()
    }

    #[tokio::test]
    async fn a_task_that_panics_or_comes_back_ends_the_process_with_an_error_and_the_others_in_good_order() {
        let recorder = telemetry::recorder::install();
        for (panics, told) in [(true, "a task of the process panicked"), (false, "has ended by itself")] {
            let (mut process, _) = process().await;
            let (shutdown, (done, mut ended)) = (process.shutdown.clone(), tokio::sync::mpsc::channel(1));
            process.spawn(async move {
                shutdown.cancelled().await;
                done.send(()).await.unwrap();
            });
            process.spawn(async move { assert!(!panics, "planted") });
            let error = process.until_stopped(&[], Duration::from_secs(1)).await.unwrap_err();
            assert!(error.is::<Broken>() && error.to_string().contains(told), "{error}");
            assert_eq!(ended.recv().await, Some(()), "the other was told to end, and awaited");
        }
        assert!(recorder.render().contains(r#"panics_total{place="task"} 1"#), "counted once");
    }
}
