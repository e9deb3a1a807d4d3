//! The bounds of what operations come in: bodies, batches, variables, addresses, frames, ids, sockets, connections.

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
    device::{Device, UNREAD},
    person::Person,
};

const KIND: &str = "{ __typename }";
const SUBPROTOCOL: &str = "graphql-transport-ws";

/// Posts bytes; the status and the code of the first error.
async fn post(person: &Person, body: String) -> (u16, String) {
    let request = person.http.post(format!("{}/graphql", person.url)).bearer_auth(&person.token);
    let request = request
        .header("content-type", "application/json")
        .header("accept", "application/graphql-response+json");
    let answer = request.body(body).send().await.unwrap();
    let (status, body) = (answer.status().as_u16(), answer.json::<Value>().await.unwrap());
    let first = if body.is_array() { &body[0] } else { &body };
    (status, first["errors"][0]["extensions"]["code"].as_str().unwrap_or("none").to_owned())
}

/// Asks for an address on a connection of its own; how the answer begins, and the connection.
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

/// A request whose variables have so many bytes.
fn with_variables(bytes: usize) -> String {
    format!(r#"{{"query": "{KIND}", "variables": {{"x":"{}"}}}}"#, "y".repeat(bytes - 8))
}

#[tokio::test]
async fn bodies_batches_and_variables_have_their_bounds_alone_and_in_a_batch() {
    let app = App::start().await;
    let person = Person::register(&app, "ann").await;
    let (one, many) = (json!({"query": KIND}).to_string(), |count: usize| {
        json!(vec![json!({"query": KIND}); count]).to_string()
    });
    let costly = |messages: usize| {
        let document = format!(
            "{{ dialogs(first: 100) {{ nodes {{ messages(first: {messages}) {{ nodes {{ seq }} }} }} }} }}"
        );
        json!({"query": document})
    };
    let cells = [
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
            "a batch whose costs are within together",
            json!([costly(49), costly(48)]).to_string(),
            (200, "none"),
        ),
        ("a batch whose costs are not", json!([costly(49), costly(49)]).to_string(), (400, "LIMIT_EXCEEDED")),
    ];
    for (what, body, (status, code)) in &cells {
        let calls = app.metric("grpc_client_calls_total").await;
        assert_eq!(post(&person, body.clone()).await, (*status, (*code).to_owned()), "{what}");
        if *status != 200 {
            assert_eq!(app.metric("grpc_client_calls_total").await, calls, "{what}: nothing was executed");
        }
    }
    for (bytes, status) in [(60_000, "HTTP/1.1 200"), (66_000, "HTTP/1.1 431")] {
        let (told, _) = get(&app, &format!("/graphql?query=%7B__typename%7D%23{}", "x".repeat(bytes))).await;
        assert_eq!(told, status, "a head of {bytes} bytes, where 64 kB are the bound");
    }
    println!("bounds of requests: {} cells tried", cells.len() + 2);
}

#[tokio::test]
async fn frames_ids_and_operations_of_a_socket_have_their_bounds() {
    let app = App::start().await;
    let person = Person::register(&app, "ann").await;
    let frame = |bytes: usize| {
        let head = r#"{"type":"subscribe","id":"1","payload":{"query":"{__typename}","operationName":null}}"#;
        padded(head, bytes)
    };
    let mut device = Device::connect(&person).await;
    device.say_raw(Message::text(frame(64 * 1024))).await;
    assert_eq!(device.hear().await["payload"]["data"]["__typename"], "Query", "a frame of 64 kB");
    device.say_raw(Message::text(frame(64 * 1024 + 1))).await;
    assert_eq!(device.closed().await.0, 1009, "a frame of a byte more");

    let mut device = Device::connect(&person).await;
    device.subscribe(&"i".repeat(256), KIND, json!({})).await;
    assert_eq!(device.hear().await["type"], "next", "an id of 256 bytes");
    device.subscribe(&"i".repeat(257), KIND, json!({})).await;
    assert_eq!(device.closed().await.0, 4400, "an id of a byte more");

    let mut device = Device::connect(&person).await;
    for number in 0..50 {
        device.subscribe(&format!("{number}"), UNREAD, json!({})).await;
        device.frame(&format!("{number}"), "unread").await;
    }
    device.subscribe("50", UNREAD, json!({})).await;
    let refused = device.hear_of("50").await;
    assert_eq!(
        (&refused["type"], &refused["payload"][0]["extensions"]["code"]),
        (&json!("error"), &json!("LIMIT_EXCEEDED"))
    );
    device.say(json!({"id": "7", "type": "complete"})).await;
    device.subscribe("50", UNREAD, json!({})).await;
    device.frame("50", "unread").await;
    println!("bounds of a socket: 6 cells tried");
}

#[tokio::test]
async fn sockets_of_a_person_and_of_nobody_have_their_bounds() {
    let app = App::start_with(&[("MAX_SOCKETS_PER_USER", "20"), ("MAX_ANONYMOUS_SOCKETS", "5")]).await;
    let person = Person::register(&app, "ann").await;
    let mut devices = Vec::new();
    for _ in 0..20 {
        devices.push(Device::connect(&person).await);
    }
    let mut beyond = Device::open(&person.url).await;
    beyond.say(json!({"type": "connection_init", "payload": {"authToken": person.token}})).await;
    assert_eq!(beyond.closed().await.0, 4429, "the 21st socket of a person");

    let begun = Instant::now();
    let mut silent = Vec::new();
    let refused = loop {
        match Device::try_open(&app.url, SUBPROTOCOL).await {
            Ok(device) => silent.push(device),
            Err(refused) => break refused,
        }
        assert!(silent.len() <= 5, "the sixth is refused");
    };
    assert!(matches!(refused, Error::Http(answer) if answer.status() == 503), "with a clear error");
    // Who was let in before goes on.
    devices[0].subscribe("u", UNREAD, json!({})).await;
    devices[0].frame("u", "unread").await;
    for mut device in silent {
        assert_eq!(device.closed().await.0, 4408, "no connection_init for three seconds");
    }
    assert!(begun.elapsed() >= Duration::from_secs(3));
    eventually("there is room again", || async { Device::try_open(&app.url, SUBPROTOCOL).await.is_ok() })
        .await;
    println!("bounds of sockets: 4 cells tried");
}

#[tokio::test]
async fn connections_have_a_bound_and_what_comes_beyond_is_told_so() {
    let app = App::start_with(&[("MAX_CONNECTIONS", "10")]).await;
    let ask = || get(&app, "/healthz");
    let mut open = Vec::new();
    for _ in 0..10 {
        let (status, stream) = ask().await;
        assert_eq!(status, "HTTP/1.1 200");
        open.push(stream);
    }
    for _ in 0..100 {
        assert_eq!(ask().await.0, "HTTP/1.1 503");
    }
    open.pop();
    eventually("a place is free", || async { ask().await.0 == "HTTP/1.1 200" }).await;
    assert_eq!(app.metric("http_connections_refused_total").await as u64 / 100, 1);
    println!("bounds of connections: 2 cells tried");
}

#[tokio::test]
async fn settings_out_of_their_bounds_are_one_line_and_exit_2() {
    for (setting, value, told) in [
        ("ACCESS_TOKEN_TTL", "999ms", "a token lives a second at least"),
        ("ACCESS_TOKEN_TTL", "0s", "a duration is a number from 1"),
        ("REFRESH_TOKEN_TTL", "1ms", "a token lives a second at least"),
        ("MAX_SOCKETS_PER_USER", "0", "1..=10000"),
        ("MAX_ANONYMOUS_SOCKETS", "0", "1..=100000"),
        ("MAX_CONNECTIONS", "0", "1..=1000000"),
        ("SAGA_DEADLINE", "9999999d", "ten years at most"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidings"));
        command.env("DATA_DIR", folder.path()).env("LISTEN", "127.0.0.1:0").env("OPS_LISTEN", "127.0.0.1:0");
        let output = command.env(setting, value).stdin(Stdio::null()).kill_on_drop(true).output();
        let output =
            tokio::time::timeout(Duration::from_secs(10), output).await.expect("it ends at once").unwrap();
        let line = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), line.lines().count()), (Some(2), 1), "{setting}={value}: {line}");
        assert!(line.contains(told), "{setting}={value}: {line}");
    }
}
