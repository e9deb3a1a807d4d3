//! Limits of transports: bodies, batches, variables, request heads, frames, operation ids, sockets and
//! connections.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use testkit::eventually;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::Command,
};
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::{
    app::App,
    caller::Caller,
    socket_client::{SocketClient, UNREAD},
};

const KIND: &str = "{ __typename }";
const SUBPROTOCOL: &str = "graphql-transport-ws";

/// Posts a body. Returns the status and the code of the first error.
async fn post(caller: &Caller, body: String) -> (u16, String) {
    let request = caller.http.post(format!("{}/graphql", caller.url)).bearer_auth(&caller.token);
    let request = request
        .header("content-type", "application/json")
        .header("accept", "application/graphql-response+json");
    let answer = request.body(body).send().await.unwrap();
    let status = answer.status().as_u16();
    let body = answer.json::<Value>().await.unwrap();
    let first = if body.is_array() { &body[0] } else { &body };
    (status, first["errors"][0]["extensions"]["code"].as_str().unwrap_or("none").to_owned())
}

/// Sends a GET on a new connection. Returns the start of the status line, and the open connection.
async fn get(app: &App, path: &str) -> (String, TcpStream) {
    let address = app.url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    (String::from_utf8(answer.to_vec()).unwrap(), stream)
}

fn padded(body: &str, bytes: usize) -> String {
    format!("{body}{}", " ".repeat(bytes - body.len()))
}

/// Returns a request with this many bytes of variables.
fn with_variables(bytes: usize) -> String {
    format!(r#"{{"query": "{KIND}", "variables": {{"x":"{}"}}}}"#, "y".repeat(bytes - 8))
}

#[tokio::test]
async fn bodies_batches_and_variables_have_limits() {
    let app = App::start().await;
    let caller = Caller::register(&app, "ann").await;
    let one = json!({"query": KIND}).to_string();
    let many = |count: usize| json!(vec![json!({"query": KIND}); count]).to_string();
    let costly = |messages: usize| {
        let document = format!(
            "{{ dialogs(first: 100) {{ nodes {{ messages(first: {messages}) {{ nodes {{ seq }} }} }} }} }}"
        );
        json!({"query": document})
    };
    let cases = [
        ("a body of a megabyte", padded(&one, 1_000_000), (200, "none")),
        ("a body of a byte more", padded(&one, 1_000_001), (413, "LIMIT_EXCEEDED")),
        ("a batch of a megabyte", padded(&many(2), 1_000_000), (200, "none")),
        ("a batch of a byte more", padded(&many(2), 1_000_001), (413, "LIMIT_EXCEEDED")),
        ("a batch of ten", many(10), (200, "none")),
        ("a batch of eleven", many(11), (400, "LIMIT_EXCEEDED")),
        ("a batch of a hundred", many(100), (400, "LIMIT_EXCEEDED")),
        ("variables of 256 kB", with_variables(256 * 1024), (200, "none")),
        ("variables of a byte more", with_variables(256 * 1024 + 1), (400, "LIMIT_EXCEEDED")),
        ("variables of 256 kB in a batch", format!("[{}]", with_variables(256 * 1024)), (200, "none")),
        (
            "variables of a byte more in a batch",
            format!("[{}]", with_variables(256 * 1024 + 1)),
            (400, "LIMIT_EXCEEDED"),
        ),
        (
            "a batch whose total cost is within the limit",
            json!([costly(49), costly(48)]).to_string(),
            (200, "none"),
        ),
        (
            "a batch whose total cost is not",
            json!([costly(49), costly(49)]).to_string(),
            (400, "LIMIT_EXCEEDED"),
        ),
    ];
    for (description, body, (status, code)) in &cases {
        let calls = app.metric("grpc_client_calls_total").await;
        assert_eq!(post(&caller, body.clone()).await, (*status, (*code).to_owned()), "{description}");
        if *status != 200 {
            assert_eq!(
                app.metric("grpc_client_calls_total").await,
                calls,
                "{description}: no service was called"
            );
        }
    }
    for (bytes, status) in [(60_000, "HTTP/1.1 200"), (66_000, "HTTP/1.1 431")] {
        let (status_line, _) =
            get(&app, &format!("/graphql?query=%7B__typename%7D%23{}", "x".repeat(bytes))).await;
        assert_eq!(status_line, status, "a head of {bytes} bytes with a limit of 64 kB");
    }
    println!("limits of requests: {} cases", cases.len() + 2);
}

#[tokio::test]
async fn frames_ids_and_operations_of_a_socket_have_limits() {
    let app = App::start().await;
    let caller = Caller::register(&app, "ann").await;
    let frame = |bytes: usize| {
        let head = r#"{"type":"subscribe","id":"1","payload":{"query":"{__typename}","operationName":null}}"#;
        padded(head, bytes)
    };
    let mut socket = SocketClient::connect(&caller).await;
    socket.send_raw(Message::text(frame(64 * 1024))).await;
    assert_eq!(socket.receive().await["payload"]["data"]["__typename"], "Query", "a frame of 64 kB");
    socket.send_raw(Message::text(frame(64 * 1024 + 1))).await;
    assert_eq!(socket.wait_for_close().await.0, 1009, "a frame of a byte more");

    let mut socket = SocketClient::connect(&caller).await;
    socket.subscribe(&"i".repeat(256), KIND, json!({})).await;
    assert_eq!(socket.receive().await["type"], "next", "an id of 256 bytes");
    socket.subscribe(&"i".repeat(257), KIND, json!({})).await;
    assert_eq!(socket.wait_for_close().await.0, 4400, "an id of a byte more");

    let mut socket = SocketClient::connect(&caller).await;
    for number in 0..50 {
        socket.subscribe(&format!("{number}"), UNREAD, json!({})).await;
        socket.frame(&format!("{number}"), "unread").await;
    }
    socket.subscribe("50", UNREAD, json!({})).await;
    let rejected = socket.receive_for("50").await;
    assert_eq!(
        (&rejected["type"], &rejected["payload"][0]["extensions"]["code"]),
        (&json!("error"), &json!("LIMIT_EXCEEDED"))
    );
    socket.send(json!({"id": "7", "type": "complete"})).await;
    socket.subscribe("50", UNREAD, json!({})).await;
    socket.frame("50", "unread").await;
    println!("limits of a socket: 6 cases");
}

#[tokio::test]
async fn sockets_of_a_user_and_anonymous_sockets_have_limits() {
    let app = App::start_with(&[("MAX_SOCKETS_PER_USER", "20"), ("MAX_ANONYMOUS_SOCKETS", "5")]).await;
    let caller = Caller::register(&app, "ann").await;
    let mut sockets = Vec::new();
    for _ in 0..20 {
        sockets.push(SocketClient::connect(&caller).await);
    }
    let mut beyond = SocketClient::open(&caller.url).await;
    beyond.send(json!({"type": "connection_init", "payload": {"authToken": caller.token}})).await;
    assert_eq!(beyond.wait_for_close().await.0, 4429, "the user's 21st socket");

    let started = Instant::now();
    let mut silent = Vec::new();
    let rejection = loop {
        match SocketClient::try_open(&app.url, SUBPROTOCOL).await {
            Ok(socket) => silent.push(socket),
            Err(error) => break error,
        }
        assert!(silent.len() <= 5, "the sixth is rejected");
    };
    assert!(matches!(rejection, Error::Http(answer) if answer.status() == 503), "rejected with 503");
    // Open sockets are not affected.
    sockets[0].subscribe("u", UNREAD, json!({})).await;
    sockets[0].frame("u", "unread").await;
    for mut socket in silent {
        assert_eq!(socket.wait_for_close().await.0, 4408, "no connection_init for three seconds");
    }
    assert!(started.elapsed() >= Duration::from_secs(3));
    eventually("a new socket is accepted", || async {
        SocketClient::try_open(&app.url, SUBPROTOCOL).await.is_ok()
    })
    .await;
    println!("limits of sockets: 4 cases");
}

#[tokio::test]
async fn one_address_cannot_use_up_the_anonymous_sockets_of_all() {
    let app = App::start_with(&[("MAX_ANONYMOUS_SOCKETS", "200")]).await;
    let mut waiting = Vec::new();
    let rejection = loop {
        match SocketClient::try_open(&app.url, SUBPROTOCOL).await {
            Ok(socket) => waiting.push(socket),
            Err(error) => break error,
        }
    };
    assert!(matches!(&rejection, Error::Http(answer) if answer.status() == 429), "{rejection}");
    println!("{} sockets of one address, of 200", waiting.len());
    // Sockets that are closed while others are opened make room for more.
    assert!(waiting.len() < 100, "{}", waiting.len());
    SocketClient::try_open_from("127.0.0.2", &app.url, SUBPROTOCOL).await.expect("another address");
}

#[tokio::test]
async fn frames_without_a_message_are_limited() {
    /// A ping, a pong and an empty fragment, each with a masking key of zeros.
    const FRAMES: [[u8; 6]; 3] =
        [[0x89, 0x80, 0, 0, 0, 0], [0x8a, 0x80, 0, 0, 0, 0], [0x00, 0x80, 0, 0, 0, 0]];
    let app = App::start().await;
    let caller = Caller::register(&app, "ann").await;
    for frame in FRAMES {
        let mut socket = SocketClient::connect(&caller).await;
        // The first fragment of a text.
        socket.send_bytes(&[0x01, 0x80, 0, 0, 0, 0]).await;
        socket.send_bytes(&frame.repeat(10_000)).await;
        assert_eq!(socket.wait_for_close().await.0, 4429, "{frame:x?}");
    }
}

#[tokio::test]
async fn connections_beyond_the_limit_are_rejected_with_503() {
    let app = App::start_with(&[("MAX_CONNECTIONS", "10")]).await;
    let connect = || get(&app, "/healthz");
    let mut open = Vec::new();
    for _ in 0..10 {
        let (status, stream) = connect().await;
        assert_eq!(status, "HTTP/1.1 200");
        open.push(stream);
    }
    for _ in 0..100 {
        assert_eq!(connect().await.0, "HTTP/1.1 503");
    }
    open.pop();
    eventually("a connection is free", || async { connect().await.0 == "HTTP/1.1 200" }).await;
    assert_eq!(app.metric("http_connections_refused_total").await as u64 / 100, 1);
    println!("limits of connections: 2 cases");
}

#[tokio::test]
async fn settings_beyond_their_limits_are_one_line_and_exit_status_2() {
    for (setting, value, message) in [
        ("ACCESS_TOKEN_TTL", "999ms", "the lifetime of a token is at least 1s"),
        ("ACCESS_TOKEN_TTL", "0s", "a duration is a number from 1"),
        ("REFRESH_TOKEN_TTL", "1ms", "the lifetime of a token is at least 1s"),
        ("MAX_SOCKETS_PER_USER", "0", "1..=10000"),
        ("MAX_ANONYMOUS_SOCKETS", "0", "1..=100000"),
        ("MAX_CONNECTIONS", "0", "1..=1000000"),
        ("SAGA_DEADLINE", "9999999d", "at most ten years"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidings"));
        command.env("DATA_DIR", folder.path()).env("LISTEN", "127.0.0.1:0").env("OPS_LISTEN", "127.0.0.1:0");
        let output = command.env(setting, value).stdin(Stdio::null()).kill_on_drop(true).output();
        let output = tokio::time::timeout(Duration::from_secs(10), output)
            .await
            .expect("the process exits immediately")
            .unwrap();
        let line = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), line.lines().count()), (Some(2), 1), "{setting}={value}: {line}");
        assert!(line.contains(message), "{setting}={value}: {line}");
    }
}
