//! Process of a role: owns its background tasks and its operations port, and shuts them down in order. A
//! task that panics or returns early ends the whole process, so that a supervisor restarts it instead of
//! it running without that task.

use std::{
    future::Future,
    io::{self, ErrorKind},
    net::SocketAddr,
    panic::AssertUnwindSafe,
    time::Duration,
};

use access::ServiceToken;
use anyhow::Context;
use axum::{
    Router,
    http::{Request, Response},
};
use db::Db;
use futures_util::FutureExt;
use telemetry::{Identity, Readiness, grpc::server_layer, panic, readiness::Component};
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    task::{JoinError, JoinSet},
    time::{sleep, timeout},
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
    file_descriptors,
    http::{self, PortLimits},
};

/// Time that shutdown may take beyond `DRAIN_WINDOW`.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(10);
/// Maximum number of concurrent calls of one gRPC connection; HTTP/2 flow control makes further ones
/// wait at the caller.
const CALLS_MAX: u32 = 1000;
/// Maximum size of a call's headers in bytes. The largest header is the access token with at most 4,096
/// bytes.
const HEAD_MAX_BYTES: u32 = 16 * 1024;
/// Interval of HTTP/2 pings on a silent gRPC connection, and the time allowed for the answer.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// Number of tries to bind a port that is in use, and the delay between two of them: 10 s in all.
const PORT_TRIES: u32 = 101;
const PORT_INTERVAL: Duration = Duration::from_millis(100);

/// Error of a background task that ended before shutdown.
#[derive(Debug, thiserror::Error)]
pub enum TaskFailure {
    /// The task panicked.
    #[error("a background task panicked: {0}")]
    Panicked(JoinError),
    /// The task returned.
    #[error("a background task ended unexpectedly")]
    Ended,
}

/// Running process with the tasks that it owns.
#[derive(Debug)]
pub struct Process {
    /// Cancelled when the process shuts down.
    pub shutdown: CancellationToken,
    /// State of every component, as reported by `/readyz`.
    pub readiness: Readiness,
    /// Signals since the start. One that arrives before the process is ready stops it when it is.
    pub signals: StopSignals,
    /// Component that is ready once all others are registered. Without it, `/readyz` would answer
    /// "ready" while only some components exist.
    start: Component,
    tasks: JoinSet<()>,
    /// Limit on open files.
    descriptors: u64,
}

impl Process {
    /// Catches signals, raises the limit on open files and starts the operations port, which reports
    /// "starting" from here on and serves profiles to holders of the service token. Returns the process and
    /// the port's address.
    ///
    /// # Errors
    /// Fails if signals cannot be caught or the address cannot be bound.
    pub async fn start(
        ops: SocketAddr,
        identity: &Identity,
        token: &ServiceToken,
    ) -> anyhow::Result<(Self, SocketAddr)> {
        let signals = StopSignals::catch()?;
        let descriptors = file_descriptors::raise_limit();
        let listener = listen("OPS_LISTEN", ops).await?;
        let address = listener.local_addr()?;
        let shutdown = CancellationToken::new();
        let readiness = Readiness::new();
        let start = readiness.register("start");
        let tasks = JoinSet::new();
        let mut process = Self { shutdown, readiness, signals, start, tasks, descriptors };
        let router = telemetry::ops::router(process.readiness.clone(), identity);
        let router = router.merge(profiles::router(token.clone(), process.shutdown.clone()));
        panic::count_from_zero(&["grpc", "http", "task"]);
        process.serve_http(listener, router, PortLimits::OPERATIONS);
        process.spawn(telemetry::recorder::upkeep(process.shutdown.clone()));
        Ok((process, address))
    }

    /// Spawns a background task that runs until shutdown. If it panics or returns before, the process
    /// shuts down with [`TaskFailure`].
    pub fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(async move {
            if let Err(payload) = AssertUnwindSafe(task).catch_unwind().await {
                panic::report("task", payload.as_ref());
                std::panic::resume_unwind(payload);
            }
        });
    }

    /// Returns the limits of the gateway's port, with `connections_max` lowered to what the limit on
    /// open files allows.
    pub fn gateway_limits(&self, connections_max: u32) -> PortLimits {
        let connections_max = file_descriptors::cap_connections(connections_max, self.descriptors);
        PortLimits { connections_max, ..PortLimits::SERVICE }
    }

    /// Serves HTTP until shutdown.
    pub fn serve_http(&mut self, listener: TcpListener, router: Router, limits: PortLimits) {
        self.spawn(http::serve(listener, router, limits, self.shutdown.clone()));
    }

    /// Serves gRPC until shutdown: the service, the health service and, with `reflection`, the
    /// reflection service.
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
                let builder = tonic_reflection::server::Builder::configure();
                let builder = builder.register_encoded_file_descriptor_set(proto::DESCRIPTORS);
                builder.build_v1().expect("the descriptors were compiled together with the bindings")
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
                tracing::error!(setting = "LISTEN", %error, "gRPC server failed");
            }
        });
    }

    /// Reports the process as ready, runs until SIGINT, SIGTERM or the end of a task, then shuts down
    /// within the drain window plus 10 s. A second signal ends the wait immediately.
    ///
    /// # Errors
    /// [`TaskFailure`] when a task panicked or ended early.
    pub async fn run_until_stopped(
        mut self,
        databases: &[&Db],
        drain_window: Duration,
    ) -> anyhow::Result<()> {
        self.start.ready();
        let mut failure = self.wait_for_stop().await;
        self.shutdown.cancel();
        let Self { tasks, signals, .. } = &mut self;
        tokio::select! {
            joined = timeout(drain_window + SHUTDOWN_GRACE, join(tasks, databases)) => match joined {
                Ok(panicked) => failure = failure.or(panicked),
                Err(_) => tracing::warn!("shutdown timed out, the remaining tasks are aborted"),
            },
            () = signals.next() => tracing::warn!("second signal received, exiting immediately"),
        }
        failure.map_or(Ok(()), |failure| Err(failure.into()))
    }

    /// Waits for a signal, which returns `None`, or for the end of a task.
    async fn wait_for_stop(&mut self) -> Option<TaskFailure> {
        tokio::select! {
            () = self.signals.next() => {
                tracing::info!("signal received, shutting down; a second signal exits immediately");
                None
            }
            Some(ended) = self.tasks.join_next() => {
                let failure = ended.map_or_else(TaskFailure::Panicked, |()| TaskFailure::Ended);
                tracing::error!(error = %failure, "shutting down");
                Some(failure)
            }
        }
    }
}

/// Waits for every task, then closes the databases: a task may write until its end. Returns the first panic.
async fn join(tasks: &mut JoinSet<()>, databases: &[&Db]) -> Option<TaskFailure> {
    let mut failure = None;
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            failure.get_or_insert(TaskFailure::Panicked(error));
        }
    }
    for db in databases {
        db.close().await;
    }
    failure
}

/// Binds a TCP listener. A port in use is tried again for 10 s: it may belong to the process that this one
/// replaces, or to an outgoing connection, to which Linux gives any free port of its ephemeral range.
///
/// # Errors
/// Fails if the address cannot be bound; the error names the setting.
pub async fn listen(setting: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    let mut tries_left = PORT_TRIES;
    loop {
        tries_left -= 1;
        match TcpListener::bind(address).await {
            Err(error) if error.kind() == ErrorKind::AddrInUse && tries_left > 0 => {
                if tries_left == PORT_TRIES - 1 {
                    tracing::warn!(setting, %address, "the port is in use, trying again for 10 s");
                }
                sleep(PORT_INTERVAL).await;
            }
            bound => return bound.with_context(|| format!("{setting}: cannot listen on {address}")),
        }
    }
}

/// SIGINT and SIGTERM. They do not end the process by themselves once they are caught, and each that arrives
/// from then on is returned, also if it arrives before it is waited for.
#[derive(Debug)]
pub struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    /// Catches signals from here on.
    ///
    /// # Errors
    /// Fails if the signal handlers cannot be installed.
    pub fn catch() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for the next signal.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn process() -> (Process, SocketAddr) {
        let identity = Identity::new("tidings-test", "0");
        Process::start("127.0.0.1:0".parse().unwrap(), &identity, &ServiceToken::generate()).await.unwrap()
    }

    /// Held by tests that a signal of another one would disturb.
    static SIGNALS: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

    #[tokio::test]
    async fn a_signal_during_the_start_stops_the_process_when_it_is_ready() {
        let _alone = SIGNALS.lock().await;
        let (mut process, _) = process().await;
        let shutdown = process.shutdown.clone();
        process.spawn(async move { shutdown.cancelled().await });
        testkit::signal(std::process::id(), "-TERM");
        let stopped = timeout(Duration::from_secs(5), process.run_until_stopped(&[], Duration::from_secs(1)));
        stopped.await.expect("the signal was not lost").unwrap();
    }

    #[tokio::test]
    async fn a_signal_ends_the_wait_for_a_database_although_it_arrived_before() {
        let _alone = SIGNALS.lock().await;
        let mut signals = StopSignals::catch().unwrap();
        testkit::signal(std::process::id(), "-INT");
        let url = "postgres://postgres@127.0.0.1:1/auth";
        let opened = crate::engine::open(&mut signals, "DATABASE_URL", url, None, &auth::MIGRATIONS);
        let error = timeout(Duration::from_secs(5), opened).await.expect("it does not wait").unwrap_err();
        assert_eq!(error.to_string(), "signal received while waiting for DATABASE_URL");
    }

    #[tokio::test]
    async fn a_task_that_panics_or_returns_early_stops_the_others_and_is_the_error_of_the_process() {
        let _alone = SIGNALS.lock().await;
        let recorder = telemetry::recorder::install();
        for (panics, message) in [(true, "a background task panicked"), (false, "ended unexpectedly")] {
            let (mut process, _) = process().await;
            let shutdown = process.shutdown.clone();
            let (done, mut ended) = tokio::sync::mpsc::channel(1);
            process.spawn(async move {
                shutdown.cancelled().await;
                done.send(()).await.unwrap();
            });
            process.spawn(async move { assert!(!panics, "planted") });
            let error = process.run_until_stopped(&[], Duration::from_secs(1)).await.unwrap_err();
            assert!(error.is::<TaskFailure>() && error.to_string().contains(message), "{error}");
            assert_eq!(ended.recv().await, Some(()), "the other task was cancelled and awaited");
        }
        assert!(recorder.render().contains(r#"panics_total{place="task"} 1"#), "counted once");
    }

    #[tokio::test]
    async fn a_port_that_is_taken_for_the_moment_is_bound_when_it_is_free() {
        let holder = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = holder.local_addr().unwrap();
        let bound = tokio::spawn(listen("LISTEN", address));
        sleep(3 * PORT_INTERVAL).await;
        assert!(!bound.is_finished());
        drop(holder);
        assert_eq!(bound.await.unwrap().unwrap().local_addr().unwrap(), address);
    }

    #[tokio::test(start_paused = true)]
    async fn a_port_that_stays_taken_is_an_error_after_10_s() {
        let holder = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let started = tokio::time::Instant::now();
        let error = listen("LISTEN", holder.local_addr().unwrap()).await.unwrap_err();
        assert!(error.to_string().starts_with("LISTEN: cannot listen on 127.0.0.1:"), "{error}");
        assert_eq!(started.elapsed().as_secs(), 10);
        let elsewhere = listen("LISTEN", "192.0.2.1:80".parse().unwrap());
        elsewhere.await.expect_err("an address of another machine");
        assert_eq!(started.elapsed().as_secs(), 10, "other errors are reported at once");
    }
}
