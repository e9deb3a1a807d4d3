//! Tests of the gateway over slow and unavailable services: retries, cancellation, the circuit breaker
//! and deadlines.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    extract::Request as HttpRequest,
    middleware::{Next, from_fn},
};
use futures_util::{SinkExt, StreamExt};
use parking_lot::Mutex;
use proto::{DialogId, Peer, counter, dialog};
use resilience::Settings;
use serde_json::{Value, json};
use telemetry::{call, grpc::server_layer};
use testkit::{CallState, FakeGrpc, eventually};
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
    transport::{Endpoint, Server, server::TcpIncoming},
};
use tower::{Layer, ServiceExt, util::BoxCloneSyncService};

use crate::{
    peers::Peers,
    testing::{TestGateway, everywhere, reply, unavailable},
};

const RESILIENT: Settings = Settings { retries: 3, hedge: true, breaker: true };
const DIALOG: &str = "00000000-0000-0000-0000-000000000009";
const UNREAD: &str = "{ unread { total } }";

/// Answers as a counter and a dialog service. Other methods are unavailable.
fn fake_answer(method: &str, _: &[u8]) -> Result<Vec<u8>, Status> {
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

/// Fake service in which calls of some methods block until the test releases them.
struct GatedService {
    fake: FakeGrpc,
    gate: Arc<Semaphore>,
}

impl GatedService {
    fn new(gated: &'static [&'static str]) -> Self {
        let gate = Arc::new(Semaphore::new(0));
        let permits = gate.clone();
        let fake = FakeGrpc::new(move |request| {
            let permits = permits.clone();
            async move {
                if gated.contains(&&*request.method) {
                    permits.acquire().await.expect("the semaphore is never closed").forget();
                }
                fake_answer(&request.method, &request.message)
            }
        });
        Self { fake, gate }
    }

    /// Returns the service as a peer in this process.
    fn local(&self) -> Peer {
        let server = server_layer("gated").layer(self.fake.clone());
        BoxCloneSyncService::new(server.map_err(|never| match never {}))
    }

    /// Returns the service as a peer over the network.
    fn remote(&self) -> Peer {
        let incoming = TcpIncoming::bind(([127, 0, 0, 1], 0).into()).expect("a port");
        let address = incoming.local_addr().expect("an address");
        let server = Server::builder().layer(server_layer("gated")).add_routes(self.fake.routes());
        tokio::spawn(server.serve_with_incoming(incoming));
        let channel = Endpoint::from_shared(format!("http://{address}")).expect("an address").connect_lazy();
        BoxCloneSyncService::new(
            channel.map_err(|error| proto::TransportError::from(proto::BoxError::from(error))),
        )
    }
}

/// Serves the gateway on a port. The flag is set when a request has been answered or dropped.
async fn serve(fixture: &TestGateway) -> (String, Arc<AtomicBool>) {
    struct SetOnDrop(Arc<AtomicBool>);
    impl Drop for SetOnDrop {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let finished = Arc::new(AtomicBool::new(false));
    let flag = finished.clone();
    let router: Router = fixture.router.clone().layer(from_fn(move |request: HttpRequest, next: Next| {
        let guard = SetOnDrop(flag.clone());
        async move {
            let response = next.run(request).await;
            drop(guard);
            response
        }
    }));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    tokio::spawn(async move { axum::serve(listener, router).await });
    (address, finished)
}

/// Sends a query over a new connection and does not read the response.
async fn send_query(address: &str, fixture: &TestGateway, query: &str) -> TcpStream {
    let body = json!({ "query": query }).to_string();
    let head = format!(
        "POST /graphql HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        fixture.token(300),
        body.len()
    );
    let mut connection = TcpStream::connect(address).await.expect("a connection");
    connection.write_all(format!("{head}{body}").as_bytes()).await.expect("sent");
    connection
}

fn gateway_over(peers: Peers) -> TestGateway {
    TestGateway::over(true, peers, Arc::default())
}

#[tokio::test]
async fn a_client_that_disconnects_cancels_its_reads_at_the_service() {
    for remote in [false, true] {
        let service = GatedService::new(&["List"]);
        let peer = if remote { service.remote() } else { service.local() };
        let fixture = gateway_over(everywhere(&peer).resilient(RESILIENT));
        let (address, _) = serve(&fixture).await;
        let connection = send_query(&address, &fixture, "{ dialogs { nodes { id } } }").await;
        service.fake.wait_for("List", CallState::Running).await;
        assert!(!service.fake.has("List", CallState::Cancelled));
        drop(connection);
        service.fake.wait_for("List", CallState::Cancelled).await;
    }
}

#[tokio::test]
async fn a_write_completes_after_its_client_disconnects() {
    for remote in [false, true] {
        let service = GatedService::new(&["Send"]);
        let peer = if remote { service.remote() } else { service.local() };
        let fixture = gateway_over(everywhere(&peer).resilient(RESILIENT));
        let (address, finished) = serve(&fixture).await;
        let send = format!(
            "mutation {{ sendMessage(input: {{ dialogId: \"{DIALOG}\", text: \"hello\" }}) {{ id }} }}"
        );
        let connection = send_query(&address, &fixture, &send).await;
        service.fake.wait_for("Send", CallState::Running).await;
        drop(connection);
        eventually("the gateway has dropped the request", || async { finished.load(Ordering::SeqCst) }).await;
        service.gate.add_permits(1);
        service.fake.wait_for("Send", CallState::Answered).await;
        assert!(!service.fake.has("Send", CallState::Cancelled));
    }
}

#[tokio::test]
async fn completing_an_operation_cancels_its_reads() {
    let service = GatedService::new(&["List"]);
    let fixture = gateway_over(everywhere(&service.local()).resilient(RESILIENT));
    let (address, _) = serve(&fixture).await;
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
            let ack = socket.next().await.expect("an open socket").expect("a message");
            assert_eq!(ack, Message::text(json!({ "type": "connection_ack" }).to_string()));
        }
    }
    service.fake.wait_for("List", CallState::Running).await;
    assert!(!service.fake.has("List", CallState::Cancelled));
    socket.send(Message::text(json!({ "type": "complete", "id": "1" }).to_string())).await.expect("sent");
    service.fake.wait_for("List", CallState::Cancelled).await;
}

#[tokio::test(start_paused = true)]
async fn the_first_fatal_error_cancels_the_concurrent_reads() {
    let service = GatedService::new(&["Rows"]);
    let fixture = gateway_over(everywhere(&service.local()));
    let started = Instant::now();
    let query =
        format!("{{ dialog(id: \"{DIALOG}\") {{ unreadCount messages(first: 1) {{ nodes {{ text }} }} }} }}");
    let answer = fixture.ask(&query).await;
    assert_eq!(answer["data"], json!({ "dialog": null }), "{answer}");
    assert!(service.fake.has("Rows", CallState::Cancelled));
    assert_eq!(started.elapsed(), Duration::ZERO, "the response does not wait for the other read");
}

/// Returns a gateway over services of which some methods are unavailable, and the log of calls.
fn without_methods(unavailable_methods: &'static [&'static str]) -> (TestGateway, Arc<Mutex<Vec<String>>>) {
    let calls = Arc::default();
    let handler = move |method: &str, bytes: &[u8]| {
        if unavailable_methods.contains(&method) {
            unavailable(method, bytes)
        } else {
            fake_answer(method, bytes)
        }
    };
    let peer = || crate::testing::fake_service(handler, Arc::clone(&calls));
    let peers = Peers::new(peer(), peer(), peer()).resilient(RESILIENT);
    (TestGateway::over(true, peers, calls.clone()), calls)
}

fn count(calls: &Mutex<Vec<String>>, method: &str) -> usize {
    calls.lock().iter().filter(|called| *called == method).count()
}

#[tokio::test(start_paused = true)]
async fn reads_are_retried_and_writes_are_not() {
    let (fixture, calls) = without_methods(&["Unread", "Rows"]);
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
        // A separate gateway for each: together the failures would open the circuit breaker.
        let (fixture, calls) = without_methods(&[]);
        let answer = fixture.ask(&format!("mutation {{ {mutation} }}")).await;
        assert_eq!(answer["errors"][0]["extensions"]["code"], "UNAVAILABLE", "{answer}");
        assert_eq!(calls.lock().as_slice(), [method]);
    }
}

#[tokio::test(start_paused = true)]
async fn an_unavailable_dialog_service_does_not_affect_the_counts() {
    let (fixture, calls) = without_methods(&["List"]);
    for _ in 0..40 {
        let answer = fixture.ask("{ dialogs { nodes { id } } unread { total } }").await;
        assert_eq!(answer["data"], json!({ "dialogs": null, "unread": { "total": 7 } }), "{answer}");
        assert_eq!(answer["errors"][0]["extensions"]["code"], "UNAVAILABLE", "{answer}");
    }
    let started = Instant::now();
    for _ in 0..40 {
        let answer = fixture.ask("{ dialogs { nodes { id } } unread { total } }").await;
        assert_eq!(answer["data"]["unread"], json!({ "total": 7 }), "{answer}");
    }
    assert_eq!(started.elapsed(), Duration::ZERO, "the circuit breaker of dialog is open");
    assert_eq!((count(&calls, "List"), count(&calls, "Unread")), (10, 80));
}

#[tokio::test(start_paused = true)]
async fn each_call_carries_the_remaining_time_of_the_operation() {
    let recorded = Arc::new(Mutex::new(Vec::<(String, Duration)>::new()));
    let calls = recorded.clone();
    let fake = FakeGrpc::new(move |request| {
        let left = call::time_left(&request.headers).expect("every call has a deadline");
        calls.lock().push((request.method.clone(), left));
        async move {
            tokio::time::sleep(Duration::from_millis(1_500)).await;
            fake_answer(&request.method, &request.message)
        }
    });
    let peer: Peer = BoxCloneSyncService::new(fake.map_err(|never| match never {}));
    let fixture = gateway_over(everywhere(&peer).resilient(RESILIENT));
    let answer = fixture.ask(&format!("{{ dialog(id: \"{DIALOG}\") {{ unreadCount }} }}")).await;
    assert_eq!(answer, json!({ "data": { "dialog": { "unreadCount": Value::Null } } }));
    // 5 s, less the margin of 250 ms for the answer, less the 1.5 s of the first call.
    let expected =
        [("Get".to_owned(), Duration::from_millis(4_750)), ("Rows".to_owned(), Duration::from_millis(3_250))];
    assert_eq!(*recorded.lock(), expected);
}

#[tokio::test(start_paused = true)]
async fn an_operation_has_the_configured_deadline() {
    let hanging = FakeGrpc::new(|_| std::future::pending::<Result<Vec<u8>, Status>>());
    let hang: Peer = BoxCloneSyncService::new(hanging.map_err(|never| match never {}));
    let peers = everywhere(&hang);
    let rate_limiter = crate::client::rate_limits::RateLimiter::new(
        crate::client::rate_limits::RateLimits::default(),
        limit::Limiter::local(),
    );
    let pipeline = crate::operation::Pipeline::new(
        crate::hub::Service::new(peers, &access::ServiceToken::generate()),
        crate::seen_versions::SeenVersions::default(),
        rate_limiter,
        crate::client::revoked_sessions::RevokedSessions::default(),
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
    let request =
        crate::operation::request::OperationRequest { query: Some(UNREAD.to_owned()), ..Default::default() };
    let call = telemetry::Call::new();
    let client = crate::client::Client {
        caller: Some(caller),
        address: std::net::Ipv4Addr::LOCALHOST.into(),
        user_agent: crate::client::user_agent::UserAgent::default(),
    };
    let admitted = pipeline.admit(request, &client, &call).await.expect("a query");
    let started = Instant::now();
    let response = pipeline.execute(&admitted, client.caller, call).await;
    assert_eq!(started.elapsed(), Duration::from_millis(1_750));
    let shown = serde_json::to_value(&response.errors[0]).expect("JSON");
    assert_eq!(shown["extensions"]["code"], "DEADLINE_EXCEEDED");
}
