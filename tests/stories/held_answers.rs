//! Answers that their clients do not read: what the process holds for them is bounded for each client and for
//! all together, on every transport, and it is freed while their connections live on.

use std::time::{Duration, Instant};

use hyper::{body::Incoming, client::conn::http2::SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use testkit::eventually;
use tokio::{io::AsyncWriteExt, net::TcpStream, task::JoinSet};

use crate::{app::App, bad_input::ADD, caller::Caller, socket_client::SocketClient};

/// Largest text: 4,000 characters of four bytes.
const TEXT: &str = "🐎";
/// Four pages of 100 texts: 6.4 MB, the most that the complexity limit admits.
const PAGES: usize = 4;
/// Resident memory that a client with unread answers may add: its budget of 8 MiB, three copies of an answer
/// while it is executed and serialized, and what the allocator keeps.
const CLIENT_GROWTH_MAX: f64 = 60e6;

/// A program, and a dialog with the largest page of messages.
struct Fixture {
    app: App,
    ann: Caller,
    dialog: String,
}

impl Fixture {
    async fn start(settings: &[(&str, &str)]) -> Self {
        let app = App::start_with(settings).await;
        let ann = Caller::register(&app, "ann").await;
        let bob = Caller::register(&app, "bob").await;
        let dialog = ann.create_group(&[&bob], "long").await;
        let text = TEXT.repeat(4_000);
        for _ in 0..100 {
            ann.send(&dialog, &text).await;
        }
        // The first execution: memory that every process needs is not counted.
        let fixture = Self { app, ann, dialog };
        let answer = fixture.ann.data(&fixture.document(PAGES), json!({})).await;
        assert_eq!(answer["a3"]["messages"]["nodes"].as_array().unwrap().len(), 100);
        fixture
    }

    fn document(&self, pages: usize) -> String {
        let page =
            format!("dialog(id: \"{}\") {{ messages(first: 100) {{ nodes {{ text }} }} }}", self.dialog);
        format!("{{ {} }}", (0..pages).map(|n| format!("a{n}: {page} ")).collect::<String>())
    }

    fn body(&self) -> String {
        json!({ "query": self.document(PAGES) }).to_string()
    }

    /// Opens a connection by HTTP/2 on which the server may send no byte of a body. It answers pings.
    async fn http2_without_window(&self) -> SendRequest<String> {
        let address = self.app.url.strip_prefix("http://").unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        let (client, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(0)
            .handshake::<_, String>(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        client
    }

    fn request(&self, token: Option<&str>, body: String) -> hyper::Request<String> {
        let request = hyper::Request::post(format!("{}/graphql", self.app.url))
            .header("content-type", "application/json")
            .header("accept", "application/graphql-response+json");
        let request = match token {
            Some(token) => request.header("authorization", format!("Bearer {token}")),
            None => request,
        };
        request.body(body).unwrap()
    }

    async fn held_bytes(&self) -> f64 {
        self.app.metric("gateway_answer_bytes").await
    }

    fn growth_since(&self, before: u64) -> f64 {
        self.app.resident_bytes() as f64 - before as f64
    }
}

/// Sends requests at once and returns their responses. No byte of their bodies is read.
async fn send_all(
    client: &SendRequest<String>,
    requests: impl IntoIterator<Item = hyper::Request<String>>,
) -> Vec<hyper::Response<Incoming>> {
    let mut sending = JoinSet::new();
    for request in requests {
        let mut client = client.clone();
        sending.spawn(async move { client.send_request(request).await.unwrap() });
    }
    sending.join_all().await
}

fn count(responses: &[hyper::Response<Incoming>], status: u16) -> usize {
    responses.iter().filter(|response| response.status().as_u16() == status).count()
}

#[tokio::test]
async fn a_client_that_opens_no_window_holds_at_most_its_budget() {
    let fixture = Fixture::start(&[]).await;
    let before = fixture.app.resident_bytes();
    let client = fixture.http2_without_window().await;
    let started = Instant::now();
    let requests = (0..60).map(|_| fixture.request(Some(&fixture.ann.token), fixture.body()));
    let responses = send_all(&client, requests).await;
    let took = started.elapsed();
    let growth = fixture.growth_since(before);
    let held = fixture.held_bytes().await;
    println!(
        "HTTP/2, window 0, 60 streams: {} answers, {} refused in {took:?}; {held} bytes reserved, \
         resident {growth:+.0}",
        count(&responses, 200),
        count(&responses, 503)
    );
    assert_eq!((count(&responses, 200), count(&responses, 503)), (1, 59));
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert!(held <= f64::from(8 << 20), "{held}");
    assert!(growth < CLIENT_GROWTH_MAX, "{growth}");
    // Everyone else is served.
    let other = Caller::login(&fixture.app, "bob").await;
    assert_eq!(other.data("{ unread { total } }", json!({})).await["unread"]["total"], 100);
    let started = Instant::now();
    eventually("the answer is dropped", || async { fixture.held_bytes().await == 0.0 }).await;
    println!("freed {:?} later, with the connection open", started.elapsed());
    drop((responses, client));
}

#[tokio::test]
async fn an_anonymous_address_without_a_window_holds_at_most_its_budget() {
    let fixture = Fixture::start(&[]).await;
    let introspection = "{ __schema { types { name description fields { name description args { name \
        description type { name } } type { name } } enumValues { name description } } } }";
    let body = json!({ "query": introspection }).to_string();
    let before = fixture.app.resident_bytes();
    let mut clients = Vec::new();
    let mut answers = 0;
    let mut refused = 0;
    for _ in 0..8 {
        let client = fixture.http2_without_window().await;
        let responses = send_all(&client, (0..100).map(|_| fixture.request(None, body.clone()))).await;
        answers += count(&responses, 200);
        refused += count(&responses, 503);
        clients.push((client, responses));
    }
    let growth = fixture.growth_since(before);
    let held = fixture.held_bytes().await;
    println!("introspection, 800 streams: {answers} answers, {refused} refused, {held} bytes, {growth:+.0}");
    assert!(answers > 10 && refused > 100 && answers + refused == 800, "{answers} {refused}");
    assert!(held <= f64::from(8 << 20) && growth < CLIENT_GROWTH_MAX, "{held} {growth}");
}

#[tokio::test]
async fn connections_by_http1_that_do_not_read_share_the_budget_of_their_user() {
    let fixture = Fixture::start(&[]).await;
    let before = fixture.app.resident_bytes();
    let body = fixture.body();
    let address = fixture.app.url.strip_prefix("http://").unwrap();
    let mut connections = Vec::new();
    for _ in 0..40 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!(
            "POST /graphql HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n",
            fixture.ann.token,
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body.as_bytes()).await.unwrap();
        connections.push(stream);
    }
    eventually("39 are refused", || async {
        fixture.app.metric("gateway_answers_refused_total").await >= 39.0
    })
    .await;
    let growth = fixture.growth_since(before);
    println!("HTTP/1, 40 connections: resident {growth:+.0}");
    assert!(growth < CLIENT_GROWTH_MAX, "{growth}");
}

#[tokio::test]
async fn sockets_and_streams_that_do_not_read_share_the_budget_of_their_user() {
    let fixture = Fixture::start(&[]).await;
    let before = fixture.app.resident_bytes();
    let document = fixture.document(PAGES);
    let mut sockets = Vec::new();
    for _ in 0..10 {
        let mut socket = SocketClient::connect(&fixture.ann).await;
        for number in 0..20 {
            socket.subscribe(&number.to_string(), &document, json!({})).await;
        }
        sockets.push(socket);
    }
    eventually("most are refused", || async {
        fixture.app.metric("gateway_answers_refused_total").await >= 9.0
    })
    .await;
    let growth = fixture.growth_since(before);
    let held = fixture.held_bytes().await;
    println!("10 sockets with 200 operations: {held} bytes reserved, resident {growth:+.0}");
    assert!(held <= f64::from(8 << 20) && growth < CLIENT_GROWTH_MAX, "{held} {growth}");
    // A socket that reads receives its answer, or the error.
    let mut reading = sockets.pop().unwrap();
    let first: Value = reading.receive().await;
    assert!(first["type"] == "next" || first["type"] == "error", "{}", first["type"]);
}

#[tokio::test]
async fn many_clients_hold_at_most_the_budget_of_the_process_and_do_not_keep_others_out() {
    let fixture = Fixture::start(&[("ANSWER_MEMORY_MIB", "16")]).await;
    let before = fixture.app.resident_bytes();
    let mut held = Vec::new();
    let mut most: f64 = 0.0;
    for number in 0..12 {
        let member = Caller::register(&fixture.app, &format!("member{number}")).await;
        fixture.ann.data(ADD, json!({"id": fixture.dialog, "u": [member.id]})).await;
        let client = fixture.http2_without_window().await;
        let started = Instant::now();
        let responses = send_all(&client, [fixture.request(Some(&member.token), fixture.body())]).await;
        assert_eq!(count(&responses, 200), 1, "answers that make no progress give way to client {number}");
        assert!(started.elapsed() < Duration::from_secs(6), "{:?}", started.elapsed());
        most = most.max(fixture.held_bytes().await);
        held.push((client, responses));
    }
    let growth = fixture.growth_since(before);
    println!("12 clients, budget 16 MiB: at most {most} bytes reserved, resident {growth:+.0}");
    assert!(most <= f64::from(16 << 20), "{most}");
    assert!(growth < 16e6 + CLIENT_GROWTH_MAX, "{growth}");
}
