//! For tests: a running gateway on a port of its own, over services with a state that the test sets and a log that it
//! writes; and clients that speak WebSocket to it.

use std::{
    collections::{BTreeSet, HashMap},
    convert::Infallible,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use access::{Claims, Guard, KeySet, ServiceToken, SigningKeys};
use axum::Router;
use events::{Event, Headers, Local, Log, outbox};
use futures_util::{SinkExt, StreamExt};
use limit::Limiter;
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use prost::Message as _;
use proto::{DialogId, SessionId, UserId, auth, counter, dialog, events::event::Kind, topic};
use serde_json::{Value, json};
use telemetry::Readiness;
use testkit::TestDb;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::timeout,
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{self, Message, client::IntoClientRequest},
};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tower::{ServiceExt, util::BoxCloneSyncService};
use uuid::Uuid;

use crate::{App, Settings, address::TrustedProxies, fixture::played, peers::Peers, rates::Limits};

const PATIENCE: Duration = Duration::from_secs(10);

/// What the played services hold.
#[derive(Default)]
pub struct World {
    /// The version and the rows of each person.
    pub unread: HashMap<UserId, (i64, Vec<counter::Row>)>,
    /// The version of each dialog, and its messages as their authors see them.
    pub dialogs: HashMap<DialogId, (i64, Vec<dialog::Message>)>,
    /// Who takes part, and up to where each has read.
    pub members: HashMap<DialogId, Vec<(UserId, i64)>>,
    /// Those of them who have left, which the counters have not heard yet.
    pub gone: Vec<UserId>,
    /// The sessions that auth says are over.
    pub revoked: Vec<SessionId>,
    /// How often people may come.
    pub limits: Limits,
    /// The methods whose service is away.
    pub away: BTreeSet<&'static str>,
    /// The methods at which our own code panics.
    pub broken: BTreeSet<&'static str>,
    /// The person whose token is shown, as far as the played services care.
    pub caller: Option<UserId>,
}

/// A running gateway.
pub struct Stage {
    pub app: App,
    pub keys: SigningKeys,
    pub world: Arc<Mutex<World>>,
    pub calls: Arc<Mutex<Vec<String>>>,
    pub readiness: Readiness,
    /// The authorization of the last call of a service.
    shown: Arc<Mutex<Option<String>>>,
    address: String,
    outbox: TestDb,
    shutdown: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Stage {
    /// Started, and ready.
    pub async fn start() -> Self {
        Self::start_with(World::default()).await
    }

    /// Started over this world, and ready.
    pub async fn start_with(world: World) -> Self {
        let limits = world.limits;
        let (world, calls) = (Arc::new(Mutex::new(world)), Arc::new(Mutex::new(Vec::new())));
        let keys = SigningKeys::generate();
        let jwks = keys.jwks();
        let set = KeySet::new(move || std::future::ready(Ok::<_, Infallible>(jwks.clone())));
        let service_token = ServiceToken::generate();
        let guard = Guard::new(set, service_token.clone(), "tidings");
        let settings = Settings {
            allowed_origins: "https://app.example".parse().expect("an origin"),
            introspection: true,
            trusted_documents: None,
            max_sockets_per_user: 20,
            max_anonymous_sockets: 100,
            drain_window: Duration::from_millis(300),
            access_token_ttl: Duration::from_secs(300),
            operation_deadline: crate::pipeline::OPERATION_LIMIT,
            limits,
            limiter: Limiter::local(),
            trusted_proxies: TrustedProxies::default(),
        };
        let outbox = testkit::sqlite(&[&db::MIGRATIONS, &events::MIGRATIONS]).await;
        let topics = [topic::AUTH, topic::DIALOG, topic::COUNTER, topic::UNREAD];
        let log = Log::Local(Local::new(topics.map(|topic| (topic, outbox.db.clone())).to_vec()));
        let shown = Arc::new(Mutex::new(None));
        let peer = || {
            let (world, shown) = (world.clone(), shown.clone());
            let service = played(
                move |method: &str, bytes: &[u8]| {
                    let broken = world.lock().expect("not poisoned").broken.contains(method);
                    assert!(!broken, "the secret reason");
                    world.lock().expect("not poisoned").answer(method, bytes)
                },
                calls.clone(),
            );
            BoxCloneSyncService::new(service.map_request(move |request: http::Request<tonic::body::Body>| {
                let authorization =
                    request.headers().get("authorization").and_then(|value| value.to_str().ok());
                *shown.lock().expect("not poisoned") = authorization.map(str::to_owned);
                request
            }))
        };
        let readiness = Readiness::new();
        let peers = Peers::new(peer(), peer(), peer());
        let app = App::new(settings, peers, guard, &service_token, log, readiness.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let shutdown = CancellationToken::new();
        let (runner, stop) = (app.clone(), shutdown.clone());
        let tasks = vec![
            tokio::spawn(async move { runner.run(stop).await }),
            tokio::spawn(serve(listener, app.router(), shutdown.clone())),
        ];
        let stage = Self { app, keys, world, calls, readiness, shown, address, outbox, shutdown, tasks };
        testkit::eventually("the gateway is ready", || async { stage.readiness.is_ready() }).await;
        stage
    }

    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().expect("not poisoned")
    }

    /// How often a method was called.
    pub fn called(&self, method: &str) -> usize {
        self.calls.lock().expect("not poisoned").iter().filter(|called| *called == method).count()
    }

    /// The authorization that the last call of a service carried.
    pub fn shown(&self) -> Option<String> {
        self.shown.lock().expect("not poisoned").clone()
    }

    /// A token of a person, for a session.
    pub fn token(&self, user: UserId, session: SessionId, lifetime_s: i64) -> String {
        let claims = Claims::new("tidings", user.uuid(), session.uuid(), crate::viewer::now_s(), lifetime_s);
        self.keys.sign(&claims)
    }

    /// Writes an event to the log.
    pub async fn emit(&self, kind: Kind) {
        let topic = match &kind {
            Kind::SessionRevoked(_) => topic::AUTH,
            Kind::UnreadChanged(_) => topic::UNREAD,
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
        let mut tx = self.outbox.db.begin().await.expect("a transaction");
        outbox::append(&mut tx, &[event]).await.expect("appended");
        tx.commit().await.expect("committed");
    }

    /// A socket that has said nothing yet, with more headers.
    ///
    /// # Errors
    /// The status of a refused handshake.
    pub async fn open(&self, headers: &[(&'static str, &str)]) -> Result<Client, u16> {
        let mut request = format!("ws://{}/graphql", self.address).into_client_request().expect("a request");
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().expect("a header"));
        }
        match connect_async(request).await {
            Ok((socket, _)) => Ok(Client { socket }),
            Err(tungstenite::Error::Http(response)) => Err(response.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    }

    /// A socket that has said nothing yet.
    pub async fn connect(&self) -> Client {
        self.connect_in("graphql-transport-ws").await
    }

    /// The same, in a subprotocol.
    pub async fn connect_in(&self, subprotocol: &str) -> Client {
        self.open(&[("sec-websocket-protocol", subprotocol)]).await.expect("a socket")
    }

    /// A socket of a person.
    pub async fn sign_in(&self, user: UserId) -> Client {
        self.sign_in_with(&self.token(user, SessionId::now(), 300)).await
    }

    /// A socket with this token.
    pub async fn sign_in_with(&self, token: &str) -> Client {
        let mut client = self.connect().await;
        client
            .say(json!({ "type": "connection_init", "payload": { "authorization": format!("Bearer {token}") } }))
            .await;
        assert_eq!(client.hear().await, json!({ "type": "connection_ack" }));
        client
    }

    /// Stops, and waits until everything has ended.
    pub async fn stop(self) {
        self.shutdown.cancel();
        for task in self.tasks {
            timeout(PATIENCE, task).await.expect("it stops").expect("it does not panic");
        }
    }
}

async fn serve(listener: TcpListener, router: Router, shutdown: CancellationToken) {
    let served = axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned());
    served.await.expect("the port is open");
}

/// The gauges of this thread's tests, as long as it is installed.
#[derive(Clone, Default)]
pub struct Gauges(Arc<Mutex<HashMap<String, Arc<AtomicU64>>>>);

impl Gauges {
    /// What a gauge shows: the sum over its labels.
    pub fn sum(&self, name: &str) -> f64 {
        let gauges = self.0.lock().expect("not poisoned");
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
        let mut gauges = self.0.lock().expect("not poisoned");
        Gauge::from_arc(gauges.entry(format!("{}{labels}", key.name())).or_default().clone())
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

/// A client's end of a socket.
pub struct Client {
    pub socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Client {
    pub async fn say(&mut self, message: Value) {
        self.socket.send(Message::text(message.to_string())).await.expect("sent");
    }

    pub async fn subscribe(&mut self, id: &str, query: &str, variables: Value) {
        self.say(
            json!({ "id": id, "type": "subscribe", "payload": { "query": query, "variables": variables } }),
        )
        .await;
    }

    /// The next message; pings are answered and passed over.
    pub async fn hear(&mut self) -> Value {
        loop {
            match self.next().await {
                Message::Text(text) => {
                    let message: Value = serde_json::from_str(&text).expect("JSON");
                    if message != json!({ "type": "ping" }) {
                        return message;
                    }
                }
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// The payload of the next message, which is a `next` of this operation.
    pub async fn result(&mut self, id: &str) -> Value {
        let mut message = self.hear().await;
        assert_eq!((&message["id"], &message["type"]), (&json!(id), &json!("next")), "{message}");
        message["payload"].take()
    }

    /// The code and the reason with which the gateway closes.
    pub async fn closed(&mut self) -> (u16, String) {
        loop {
            if let Message::Close(frame) = self.next().await {
                let frame = frame.expect("a code");
                return (frame.code.into(), frame.reason.to_string());
            }
        }
    }

    /// Whether the next thing said is that the client may come.
    pub async fn is_acknowledged(&mut self) -> bool {
        matches!(self.next().await, Message::Text(text) if text.as_str() == r#"{"type":"connection_ack"}"#)
    }

    /// Nothing comes for a moment.
    pub async fn is_quiet(&mut self) {
        let next = timeout(Duration::from_millis(200), self.socket.next()).await;
        assert!(next.is_err(), "{next:?}");
    }

    /// The next frame, whatever it is.
    pub async fn next(&mut self) -> Message {
        let next = timeout(PATIENCE, self.socket.next()).await.expect("something comes");
        next.expect("the socket is open").expect("a frame")
    }
}

impl World {
    fn answer(&mut self, method: &str, bytes: &[u8]) -> Result<Vec<u8>, Status> {
        if self.away.contains(method) {
            return Err(Status::unavailable("away"));
        }
        let malformed = |_| Status::invalid_argument("malformed");
        Ok(match method {
            "Revoked" => {
                let session_ids = self.revoked.iter().map(|session| session.bytes()).collect();
                auth::RevokedReply { session_ids }.encode_to_vec()
            }
            "Users" => {
                let request = auth::UsersRequest::decode(bytes).map_err(malformed)?;
                let named = |id: &Vec<u8>| auth::User {
                    id: id.clone(),
                    name: "somebody".to_owned(),
                    ..Default::default()
                };
                auth::UsersReply { users: request.ids.iter().map(named).collect() }.encode_to_vec()
            }
            "Snapshots" => {
                let request = counter::SnapshotsRequest::decode(bytes).map_err(malformed)?;
                let snapshots = request.of.iter().map(|of| self.snapshot(of)).collect();
                counter::SnapshotsReply { snapshots }.encode_to_vec()
            }
            "ReadStates" => {
                let request = counter::ReadStatesRequest::decode(bytes).map_err(malformed)?;
                let pages = request.pages.iter().map(|page| self.read_states(page)).collect();
                counter::ReadStatesReply { pages }.encode_to_vec()
            }
            "MessagesSince" => {
                let request = dialog::MessagesSinceRequest::decode(bytes).map_err(malformed)?;
                self.messages_since(&request)?.encode_to_vec()
            }
            "Live" => self.live(&dialog::LiveRequest::decode(bytes).map_err(malformed)?).encode_to_vec(),
            // As if it knew no newer version than the one asked for.
            "Unread" => {
                let request = counter::UnreadRequest::decode(bytes).map_err(malformed)?;
                let version = request.at_least.or(Some(counter::Version { epoch: 1, number: 0 }));
                counter::UnreadReply { version, ..Default::default() }.encode_to_vec()
            }
            "Get" => self.get(&dialog::GetRequest::decode(bytes).map_err(malformed)?).encode_to_vec(),
            _ => return Err(Status::unavailable("not played")),
        })
    }

    fn snapshot(&self, of: &counter::SnapshotOf) -> counter::Snapshot {
        let user = UserId::parse(&of.user_id).expect("an id");
        let (number, rows) = self.unread.get(&user).cloned().unwrap_or_default();
        let version = Some(counter::Version { epoch: 1, number });
        let current = of.since.is_some() && of.since == version;
        let total = rows.iter().map(|row| row.unread).sum();
        let rows = if current { Vec::new() } else { rows.into_iter().filter(|row| row.unread > 0).collect() };
        counter::Snapshot { user_id: of.user_id.clone(), version, total, current, rows, truncated: false }
    }

    fn read_states(&self, page: &counter::ReadStatesPage) -> counter::ReadStatesPageReply {
        let members = self.members.get(&DialogId::parse(&page.dialog_id).expect("an id"));
        let caller = self.caller.expect("the test says who calls");
        let Some(members) = members.filter(|members| members.iter().any(|(user, _)| *user == caller)) else {
            return counter::ReadStatesPageReply::default();
        };
        let state = |(user, read_seq): &(UserId, i64)| counter::ReadState {
            user_id: user.bytes(),
            read_seq: *read_seq,
        };
        counter::ReadStatesPageReply { found: true, states: members.iter().map(state).collect() }
    }

    fn get(&self, request: &dialog::GetRequest) -> dialog::GetReply {
        let takes_part = |id: &&Vec<u8>| {
            let members = self.members.get(&DialogId::parse(id).expect("an id")).into_iter().flatten();
            members.map(|(user, _)| *user).any(|user| self.caller == Some(user) && !self.gone.contains(&user))
        };
        let own = request.ids.iter().filter(takes_part);
        dialog::GetReply {
            dialogs: own.map(|id| dialog::Dialog { id: id.clone(), ..Default::default() }).collect(),
        }
    }

    fn messages_since(
        &self,
        request: &dialog::MessagesSinceRequest,
    ) -> Result<dialog::MessagesSinceReply, Status> {
        let dialog = DialogId::parse(&request.dialog_id).expect("an id");
        let caller = self.caller.expect("the test says who calls");
        let members =
            self.members.get(&dialog).filter(|members| members.iter().any(|(user, _)| *user == caller));
        members.ok_or_else(|| Status::not_found("no such dialog"))?;
        let (number, messages) = &self.dialogs[&dialog];
        let above = request.since.map_or(i64::MAX, |since| since.number);
        let messages = messages.iter().filter(|message| message.version > above).cloned().collect();
        let head = Some(dialog::Version { epoch: 1, number: *number });
        Ok(dialog::MessagesSinceReply { head, messages, reset: false })
    }

    fn live(&self, request: &dialog::LiveRequest) -> dialog::LiveReply {
        let dialog = DialogId::parse(&request.dialog_id).expect("an id");
        let (number, messages) = &self.dialogs[&dialog];
        let is_member = |id: &&Vec<u8>| self.members[&dialog].iter().any(|(user, _)| user.bytes() == **id);
        dialog::LiveReply {
            head: Some(dialog::Version { epoch: 1, number: *number }),
            messages: messages.iter().filter(|it| request.message_ids.contains(&it.id)).cloned().collect(),
            member_ids: request.user_ids.iter().filter(is_member).cloned().collect(),
        }
    }
}
