//! The gateway over services that are slow, away or given up: what is called again, what is cancelled, and what is not.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    extract::Request as HttpRequest,
    http::{Request, Response},
    middleware::{Next, from_fn},
};
use futures_util::{FutureExt, SinkExt, StreamExt, future::BoxFuture};
use parking_lot::Mutex;
use proto::{DialogId, Peer, counter, dialog};
use resilience::Settings;
use serde_json::{Value, json};
use telemetry::{call, grpc::server_layer};
use testkit::eventually;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::Instant,
};
use tokio_tungstenite::{
    connect_async,
    tungstenite::{Message, client::IntoClientRequest},
};
use tonic::{
    Status,
    body::Body,
    server::NamedService,
    transport::{Endpoint, server::TcpIncoming},
};
use tower::{Layer, Service, ServiceExt, util::BoxCloneSyncService};

use crate::{
    peers::Peers,
    testing::{TestGateway, everywhere, framed, reply, unavailable},
};

const RESILIENT: Settings = Settings { retries: 3, hedge: true, breaker: true };
const DIALOG: &str = "00000000-0000-0000-0000-000000000009";
const UNREAD: &str = "{ unread { total } }";

/// Counters and a dialog that are there, but for the history.
fn present(method: &str, _: &[u8]) -> Result<Vec<u8>, Status> {
    let version = Some(counter::Version { epoch: 1, number: 5 });
    match method {
        "Unread" => reply(&counter::UnreadReply { version, total: 7, ..Default::default() }),
        "Rows" => reply(&counter::RowsReply { version, rows: Vec::new() }),
        "Get" => {
            let id = DIALOG.parse::<DialogId>().expect("an id").bytes();
            reply(&dialog::GetReply { dialogs: vec![dialog::Dialog { id, ..Default::default() }] })
        }
        _ => unavailable(method, &[]),
    }
}

/// A service that lets calls of some methods wait at a gate, and sees how each ends.
#[derive(Clone)]
struct Watched {
    waits: &'static [&'static str],
    gate: Arc<Semaphore>,
    seen: Arc<Mutex<Vec<(String, End)>>>,
}

/// How far a call has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Begun,
    Answered,
    /// Nobody waits for it any more.
    Left,
}

/// A call under way.
struct UnderWay(Watched, String);

impl Drop for UnderWay {
    fn drop(&mut self) {
        if !self.0.has(&self.1, End::Answered) {
            self.0.note(&self.1, End::Left);
        }
    }
}

impl Watched {
    fn waiting_at(waits: &'static [&'static str]) -> Self {
        Self { waits, gate: Arc::new(Semaphore::new(0)), seen: Arc::default() }
    }

    fn note(&self, method: &str, end: End) {
        self.seen.lock().push((method.to_owned(), end));
    }

    fn has(&self, method: &str, end: End) -> bool {
        self.seen.lock().iter().any(|(seen, how)| seen == method && *how == end)
    }

    async fn until(&self, method: &str, end: End) {
        eventually("a call has come so far", || async { self.has(method, end) }).await;
    }

    /// In this process.
    fn local(&self) -> Peer {
        let server = server_layer("watched").layer(self.clone());
        BoxCloneSyncService::new(server.map_err(|never| match never {}))
    }

    /// Over the network.
    fn remote(&self) -> Peer {
        let incoming = TcpIncoming::bind(([127, 0, 0, 1], 0).into()).expect("a port");
        let address = incoming.local_addr().expect("an address");
        let server =
            tonic::transport::Server::builder().add_service(server_layer("watched").layer(self.clone()));
        tokio::spawn(server.serve_with_incoming(incoming));
        let channel = Endpoint::from_shared(format!("http://{address}")).expect("an address").connect_lazy();
        BoxCloneSyncService::new(
            channel.map_err(|error| proto::TransportError::from(proto::BoxError::from(error))),
        )
    }
}

impl NamedService for Watched {
    const NAME: &'static str = "tidings.dialog.Dialogs";
}

impl Service<Request<Body>> for Watched {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let watched = self.clone();
        async move {
            let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
            watched.note(&method, End::Begun);
            let _under_way = UnderWay(watched.clone(), method.clone());
            if watched.waits.contains(&method.as_str()) {
                watched.gate.acquire().await.expect("it is not closed").forget();
            }
            watched.note(&method, End::Answered);
            Ok(present(&method, &[]).map_or_else(Status::into_http, framed))
        }
        .boxed()
    }
}

/// The gateway on a port, and whether it has given a request up or answered it.
async fn served(fixture: &TestGateway) -> (String, Arc<AtomicBool>) {
    struct Over(Arc<AtomicBool>);
    impl Drop for Over {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let over = Arc::new(AtomicBool::new(false));
    let told = over.clone();
    let router: Router = fixture.router.clone().layer(from_fn(move |request: HttpRequest, next: Next| {
        let over = Over(told.clone());
        async move {
            let answer = next.run(request).await;
            drop(over);
            answer
        }
    }));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    tokio::spawn(async move { axum::serve(listener, router).await });
    (address, over)
}

/// A connection over which a person has asked this, and waits.
async fn asked(address: &str, fixture: &TestGateway, query: &str) -> TcpStream {
    let body = json!({ "query": query }).to_string();
    let head = format!(
        "POST /graphql HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        fixture.token(300),
        body.len()
    );
    let mut connection = TcpStream::connect(address).await.expect("a connection");
    connection.write_all(format!("{head}{body}").as_bytes()).await.expect("sent");
    connection
}

fn over(peers: Peers) -> TestGateway {
    TestGateway::over(true, peers, Arc::default())
}

#[tokio::test]
async fn a_client_that_leaves_cancels_its_reads_at_the_service() {
    for remote in [false, true] {
        let watched = Watched::waiting_at(&["List"]);
        let peer = if remote { watched.remote() } else { watched.local() };
        let fixture = over(everywhere(&peer).resilient(RESILIENT));
        let (address, _) = served(&fixture).await;
        let connection = asked(&address, &fixture, "{ dialogs { nodes { id } } }").await;
        watched.until("List", End::Begun).await;
        assert!(!watched.has("List", End::Left));
        drop(connection);
        watched.until("List", End::Left).await;
    }
}

#[tokio::test]
async fn a_write_whose_client_leaves_runs_to_its_end() {
    for remote in [false, true] {
        let watched = Watched::waiting_at(&["Send"]);
        let peer = if remote { watched.remote() } else { watched.local() };
        let fixture = over(everywhere(&peer).resilient(RESILIENT));
        let (address, over) = served(&fixture).await;
        let send = format!(
            "mutation {{ sendMessage(input: {{ dialogId: \"{DIALOG}\", text: \"hello\" }}) {{ id }} }}"
        );
        let connection = asked(&address, &fixture, &send).await;
        watched.until("Send", End::Begun).await;
        drop(connection);
        eventually("the gateway has given the request up", || async { over.load(Ordering::SeqCst) }).await;
        watched.gate.add_permits(1);
        watched.until("Send", End::Answered).await;
        assert!(!watched.has("Send", End::Left));
    }
}

#[tokio::test]
async fn completing_an_operation_of_a_socket_cancels_its_reads() {
    let watched = Watched::waiting_at(&["List"]);
    let fixture = over(everywhere(&watched.local()).resilient(RESILIENT));
    let (address, _) = served(&fixture).await;
    let mut request = format!("ws://{address}/graphql").into_client_request().expect("a request");
    request.headers_mut().insert("sec-websocket-protocol", "graphql-transport-ws".parse().expect("a header"));
    let (mut socket, _) = connect_async(request).await.expect("a socket");
    let payload = json!({ "authorization": fixture.token(300) });
    for message in [
        json!({ "type": "connection_init", "payload": payload }),
        json!({ "type": "subscribe", "id": "1", "payload": { "query": "{ dialogs { nodes { id } } }" } }),
    ] {
        socket.send(Message::text(message.to_string())).await.expect("sent");
        if message["type"] == "connection_init" {
            let ack = socket.next().await.expect("something").expect("a message");
            assert_eq!(ack, Message::text(json!({ "type": "connection_ack" }).to_string()));
        }
    }
    watched.until("List", End::Begun).await;
    assert!(!watched.has("List", End::Left));
    socket.send(Message::text(json!({ "type": "complete", "id": "1" }).to_string())).await.expect("sent");
    watched.until("List", End::Left).await;
}

#[tokio::test(start_paused = true)]
async fn the_first_fatal_error_cancels_the_reads_beside_it() {
    let watched = Watched::waiting_at(&["Rows"]);
    let fixture = over(everywhere(&watched.local()));
    let begun = Instant::now();
    let query =
        format!("{{ dialog(id: \"{DIALOG}\") {{ unreadCount messages(first: 1) {{ nodes {{ text }} }} }} }}");
    let answer = fixture.ask(&query).await;
    assert_eq!(answer["data"], json!({ "dialog": null }), "{answer}");
    assert!(watched.has("Rows", End::Begun) && watched.has("Rows", End::Left));
    assert_eq!(begun.elapsed(), Duration::ZERO, "nobody waits for what cannot be shown");
}

/// Services of which some methods are unavailable, with what is around them.
fn partly(away_of: &'static [&'static str]) -> (TestGateway, Arc<Mutex<Vec<String>>>) {
    let calls = Arc::default();
    let play = move |method: &str, bytes: &[u8]| {
        if away_of.contains(&method) { unavailable(method, bytes) } else { present(method, bytes) }
    };
    let peer = || crate::testing::fake_service(play, Arc::clone(&calls));
    let peers = Peers::new(peer(), peer(), peer()).resilient(RESILIENT);
    (TestGateway::over(true, peers, calls.clone()), calls)
}

fn count(calls: &Mutex<Vec<String>>, method: &str) -> usize {
    calls.lock().iter().filter(|called| *called == method).count()
}

#[tokio::test(start_paused = true)]
async fn reads_are_made_again_and_writes_are_not() {
    let (fixture, calls) = partly(&["Unread", "Rows"]);
    let answer = fixture.ask(UNREAD).await;
    assert_eq!(answer["errors"][0]["extensions"]["code"], "UNAVAILABLE", "{answer}");
    assert_eq!(count(&calls, "Unread"), 4);
    let writes = [
        (
            "Register",
            r#"register(input: { login: "ann", password: "correct horse" }) { accessToken }"#.to_owned(),
        ),
        ("Login", r#"login(input: { login: "ann", password: "correct horse" }) { accessToken }"#.to_owned()),
        ("Refresh", r#"refreshSession(refreshToken: "x") { accessToken }"#.to_owned()),
        ("Logout", "logout".to_owned()),
        (
            "ChangePassword",
            r#"changePassword(old: "correct horse", new: "battery staple") { accessToken }"#.to_owned(),
        ),
        ("Rename", r#"updateMe(name: "Ann") { id }"#.to_owned()),
        (
            "Create",
            format!(r#"createDialog(input: {{ participantIds: ["{DIALOG}"], clientKey: "k" }}) {{ id }}"#),
        ),
        (
            "AddParticipants",
            format!(r#"addParticipants(dialogId: "{DIALOG}", userIds: ["{DIALOG}"]) {{ id }}"#),
        ),
        ("Leave", format!(r#"leaveDialog(dialogId: "{DIALOG}")"#)),
        (
            "Send",
            format!(r#"sendMessage(input: {{ dialogId: "{DIALOG}", text: "x", clientKey: "k" }}) {{ id }}"#),
        ),
        ("Delete", format!(r#"deleteMessage(id: "{DIALOG}") {{ id }}"#)),
    ];
    for (method, mutation) in writes {
        // Each over services of its own: together their failures would open a breaker.
        let (fixture, calls) = partly(&[]);
        let answer = fixture.ask(&format!("mutation {{ {mutation} }}")).await;
        assert_eq!(answer["errors"][0]["extensions"]["code"], "UNAVAILABLE", "{answer}");
        assert_eq!(calls.lock().as_slice(), [method]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_dialog_service_leaves_the_counters_untouched() {
    let (fixture, calls) = partly(&["List"]);
    for _ in 0..40 {
        let answer = fixture.ask("{ dialogs { nodes { id } } unread { total } }").await;
        assert_eq!(answer["data"], json!({ "dialogs": null, "unread": { "total": 7 } }), "{answer}");
        assert_eq!(answer["errors"][0]["extensions"]["code"], "UNAVAILABLE", "{answer}");
    }
    let begun = Instant::now();
    for _ in 0..40 {
        let answer = fixture.ask("{ dialogs { nodes { id } } unread { total } }").await;
        assert_eq!(answer["data"]["unread"], json!({ "total": 7 }), "{answer}");
    }
    assert_eq!(begun.elapsed(), Duration::ZERO, "dialog is not waited for any more");
    assert_eq!((count(&calls, "List"), count(&calls, "Unread")), (10, 80));
}

/// The most that the operation may take, less what it needs to answer; and who is told.
#[tokio::test(start_paused = true)]
async fn each_call_is_told_what_is_left_of_the_operation() {
    let told = Arc::new(Mutex::new(Vec::<(String, Duration)>::new()));
    let noted = told.clone();
    let peer: Peer = BoxCloneSyncService::new(tower::service_fn(move |request: Request<Body>| {
        let told = noted.clone();
        async move {
            let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
            let left = call::time_left(request.headers()).expect("every call has a deadline");
            told.lock().push((method.clone(), left));
            tokio::time::sleep(Duration::from_millis(1_500)).await;
            Ok(present(&method, &[]).map_or_else(Status::into_http, framed))
        }
    }));
    let fixture = over(everywhere(&peer).resilient(RESILIENT));
    let answer = fixture.ask(&format!("{{ dialog(id: \"{DIALOG}\") {{ unreadCount }} }}")).await;
    assert_eq!(answer, json!({ "data": { "dialog": { "unreadCount": Value::Null } } }));
    let told = told.lock().clone();
    let expected =
        [("Get".to_owned(), Duration::from_millis(4_750)), ("Rows".to_owned(), Duration::from_millis(3_250))];
    assert_eq!(told, expected);
}

#[tokio::test(start_paused = true)]
async fn an_operation_has_the_time_that_is_set() {
    let hang: Peer = BoxCloneSyncService::new(tower::service_fn(|_: Request<Body>| std::future::pending()));
    let peers = everywhere(&hang);
    let rate_limiter = crate::client::rate_limits::RateLimiter::new(
        crate::client::rate_limits::RateLimits::default(),
        limit::Limiter::local(),
    );
    let pipeline = crate::operation::Pipeline::new(
        peers,
        crate::seen_versions::SeenVersions::default(),
        rate_limiter,
        true,
        None,
    );
    let pipeline = pipeline.with_deadline(Duration::from_secs(2));
    let fixture = TestGateway::alone();
    let caller = crate::client::caller::Caller {
        user: fixture.user,
        session: proto::SessionId::now(),
        expires_at_s: i64::MAX,
        authorization: crate::client::caller::Authorization::new("Bearer x", i64::MAX),
    };
    let incoming =
        crate::operation::request::OperationRequest { query: Some(UNREAD.to_owned()), ..Default::default() };
    let call = telemetry::Call::new();
    let client =
        crate::client::Client { caller: Some(caller), address: std::net::Ipv4Addr::LOCALHOST.into() };
    let admitted = pipeline.admit(incoming, &client, &call).await.expect("a query");
    let begun = Instant::now();
    let response = pipeline.execute(&admitted, client.caller, call).await;
    assert_eq!(begun.elapsed(), Duration::from_millis(1_750));
    let shown = serde_json::to_value(&response.errors[0]).expect("JSON");
    assert_eq!(shown["extensions"]["code"], "DEADLINE_EXCEEDED");
}
