//! Gateway that listens on a free port, over fake services with state and an event log that the test writes.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use access::{Claims, Guard, KeySet, ServiceToken, SigningKeys};
use axum::Router;
use events::{Event, Headers, Kafka, Local, Log, outbox::append};
use limit::Limiter;
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use parking_lot::{Mutex, MutexGuard};
use proto::{SessionId, UserId, events::event::Kind, topic};
use serde_json::json;
use telemetry::Readiness;
use testkit::TestDb;
use tokio::{net::TcpListener, task::JoinHandle, time::timeout};
use tokio_tungstenite::{
    connect_async,
    tungstenite::{self, client::IntoClientRequest},
};
use tokio_util::sync::CancellationToken;
use tower::{ServiceExt, util::BoxCloneSyncService};
use uuid::Uuid;

use super::{FakeServices, PATIENCE, SocketClient, fake_service};
use crate::{App, Settings, client::rate_limits::RateLimits, peers::Peers};

/// Gateway of a test that listens on a port of this machine.
pub struct RunningGateway {
    pub app: App,
    pub keys: SigningKeys,
    pub services: Arc<Mutex<FakeServices>>,
    pub calls: Arc<Mutex<Vec<String>>>,
    pub readiness: Readiness,
    /// `Authorization` header of the last call to a service.
    last_authorization: Arc<Mutex<Option<String>>>,
    address: String,
    outbox: TestDb,
    shutdown: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl RunningGateway {
    /// Starts a gateway over empty fake services, and waits until it is ready.
    pub async fn start() -> Self {
        Self::start_with(FakeServices::default()).await
    }

    /// Starts a gateway over these fake services, and waits until it is ready.
    pub async fn start_with(services: FakeServices) -> Self {
        let outbox = outbox().await;
        let topics = [topic::AUTH, topic::DIALOG, topic::COUNTER, topic::UNREAD];
        let log = Log::Local(Local::new(topics.map(|topic| (topic, outbox.db.clone())).to_vec()));
        Self::start_on(services, outbox, log).await
    }

    /// Starts a gateway over these fake services and a Kafka that is away, and waits until it is ready.
    pub async fn start_without_kafka(services: FakeServices) -> Self {
        let kafka = Kafka::new("kafka://127.0.0.1:1", None).expect("a valid URL");
        Self::start_on(services, outbox().await, Log::Kafka(kafka)).await
    }

    async fn start_on(services: FakeServices, outbox: TestDb, log: Log) -> Self {
        let limits = services.limits;
        let services = Arc::new(Mutex::new(services));
        let calls = Arc::new(Mutex::new(Vec::new()));
        let keys = SigningKeys::generate();
        let jwks = keys.jwks();
        let set = KeySet::new(move || std::future::ready(Ok::<_, Infallible>(jwks.clone())));
        let service_token = ServiceToken::generate();
        let guard = Guard::new(set, service_token.clone(), "tidings");
        let settings = settings(limits);
        let last_authorization = Arc::new(Mutex::new(None));
        let peer = || {
            let services = services.clone();
            let last_authorization = last_authorization.clone();
            let service = fake_service(
                move |method: &str, bytes: &[u8]| {
                    let panics = services.lock().panicking.contains(method);
                    assert!(!panics, "the secret reason");
                    services.lock().answer(method, bytes)
                },
                calls.clone(),
            );
            BoxCloneSyncService::new(service.map_request(move |request: http::Request<tonic::body::Body>| {
                let authorization =
                    request.headers().get("authorization").and_then(|value| value.to_str().ok());
                // Asked every second, whatever a test does.
                if !request.uri().path().ends_with("/RevokedSince") {
                    *last_authorization.lock() = authorization.map(str::to_owned);
                }
                request
            }))
        };
        let readiness = Readiness::new();
        let peers = Peers::new(peer(), peer(), peer());
        let app = App::new(settings, peers, guard, &service_token, log, readiness.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address").to_string();
        let shutdown = CancellationToken::new();
        let tasks = vec![
            tokio::spawn({
                let app = app.clone();
                let shutdown = shutdown.clone();
                async move { app.run(shutdown).await }
            }),
            tokio::spawn(serve(listener, app.router(), shutdown.clone())),
        ];
        let gateway = Self {
            app,
            keys,
            services,
            calls,
            readiness,
            last_authorization,
            address,
            outbox,
            shutdown,
            tasks,
        };
        testkit::eventually("the gateway is ready", || async { gateway.readiness.is_ready() }).await;
        gateway
    }

    pub fn services(&self) -> MutexGuard<'_, FakeServices> {
        self.services.lock()
    }

    /// Returns the number of calls of a service method.
    pub fn called(&self, method: &str) -> usize {
        self.calls.lock().iter().filter(|called| *called == method).count()
    }

    /// Returns the `Authorization` header of the last call to a service.
    pub fn last_authorization(&self) -> Option<String> {
        self.last_authorization.lock().clone()
    }

    /// Signs an access token for a session of a user.
    pub fn token(&self, user: UserId, session: SessionId, lifetime_s: i64) -> String {
        let claims =
            Claims::new("tidings", user.uuid(), session.uuid(), crate::client::caller::now_s(), lifetime_s);
        self.keys.sign(&claims)
    }

    /// Writes an event to the log.
    pub async fn emit(&self, kind: Kind) {
        let topic = match &kind {
            Kind::SessionRevoked(_) => topic::AUTH,
            Kind::UnreadChanged(_) | Kind::UnreadEpochRaised(_) => topic::UNREAD,
            Kind::ReadMarked(_) => topic::COUNTER,
            _ => topic::DIALOG,
        };
        let event = Event {
            event_id: Uuid::now_v7(),
            topic,
            key: String::new(),
            version: 0,
            kind: kind.name(),
            payload: kind.payload(),
            headers: Headers::default(),
        };
        let mut tx = self.outbox.db.begin().await.expect("the transaction begins");
        append(&mut tx, &[event]).await.expect("the event is appended");
        tx.commit().await.expect("the transaction commits");
    }

    /// Opens a socket with these headers in the handshake, and sends nothing on it.
    ///
    /// # Errors
    /// The HTTP status of a rejected handshake.
    pub async fn open(&self, headers: &[(&'static str, &str)]) -> Result<SocketClient, u16> {
        let mut request =
            format!("ws://{}/graphql", self.address).into_client_request().expect("a valid request");
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().expect("a valid header value"));
        }
        match connect_async(request).await {
            Ok((socket, _)) => Ok(SocketClient { socket }),
            Err(tungstenite::Error::Http(response)) => Err(response.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    }

    /// Opens a socket of the subprotocol `graphql-transport-ws`, and sends nothing on it.
    pub async fn connect(&self) -> SocketClient {
        self.connect_in("graphql-transport-ws").await
    }

    /// Opens a socket of a client at this address, and sends nothing on it.
    ///
    /// # Errors
    /// The HTTP status of a rejected handshake.
    pub async fn connect_from(&self, address: &str) -> Result<SocketClient, u16> {
        self.open(&[("sec-websocket-protocol", "graphql-transport-ws"), ("x-forwarded-for", address)]).await
    }

    /// Opens a socket of a subprotocol, and sends nothing on it.
    pub async fn connect_in(&self, subprotocol: &str) -> SocketClient {
        self.open(&[("sec-websocket-protocol", subprotocol)]).await.expect("the handshake succeeds")
    }

    /// Opens a socket, and authenticates it as a user with a new session.
    pub async fn sign_in(&self, user: UserId) -> SocketClient {
        self.sign_in_with(&self.token(user, SessionId::now(), 300)).await
    }

    /// Opens a socket, and authenticates it with this token.
    pub async fn sign_in_with(&self, token: &str) -> SocketClient {
        let mut client = self.connect().await;
        client
            .send(json!({
                "type": "connection_init",
                "payload": { "authorization": format!("Bearer {token}") },
            }))
            .await;
        assert_eq!(client.receive().await, json!({ "type": "connection_ack" }));
        client
    }

    /// Stops the gateway, and waits until its tasks have ended.
    pub async fn stop(self) {
        self.shutdown.cancel();
        for task in self.tasks {
            timeout(PATIENCE, task).await.expect("the task ends in time").expect("the task does not panic");
        }
    }
}

async fn outbox() -> TestDb {
    testkit::sqlite(&[&db::MIGRATIONS, &events::MIGRATIONS]).await
}

/// Settings of a running gateway. The drain window is short, so that tests stop quickly.
fn settings(limits: RateLimits) -> Settings {
    Settings {
        allowed_origins: "https://app.example".parse().expect("a valid origin"),
        introspection: true,
        trusted_documents: None,
        max_sockets_per_user: 20,
        max_anonymous_sockets: 100,
        answer_memory_bytes: 256 << 20,
        drain_window: Duration::from_millis(300),
        operation_deadline: crate::operation::OPERATION_LIMIT,
        limits,
        limiter: Limiter::local(),
        // The address of a request without one: the test is the proxy of its clients.
        trusted_proxies: "0.0.0.0".parse().expect("a valid address"),
    }
}

async fn serve(listener: TcpListener, router: Router, shutdown: CancellationToken) {
    let served = axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned());
    served.await.expect("the server stops without an error");
}

/// Metrics recorder that keeps the gauges set on the thread it is installed for, and ignores other metrics.
#[derive(Clone, Default)]
pub struct Gauges(Arc<Mutex<HashMap<String, Arc<AtomicU64>>>>);

impl Gauges {
    /// Returns the value of a gauge, summed over its labels.
    pub fn sum(&self, name: &str) -> f64 {
        let gauges = self.0.lock();
        let named = gauges.iter().filter(|(key, _)| key.split('/').next() == Some(name));
        named.map(|(_, bits)| f64::from_bits(bits.load(Ordering::SeqCst))).sum()
    }
}

impl Recorder for Gauges {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        let labels: String = key.labels().map(|label| format!("/{}", label.value())).collect();
        let mut gauges = self.0.lock();
        Gauge::from_arc(gauges.entry(format!("{}{labels}", key.name())).or_default().clone())
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}
