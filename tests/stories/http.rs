//! GraphQL over HTTP: persisted queries, trusted documents, the schema's text, compression, HTTP/2, CORS
//! and request ids.

use std::{path::Path, process::Stdio};

use base64::{Engine, engine::general_purpose::STANDARD};
use http_body_util::BodyExt;
use hyper::{
    body::Incoming,
    client::conn::http2::{SendRequest, handshake},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
use tokio::{net::TcpStream, process::Command};

use crate::{app::App, caller::Caller, socket_client::SocketClient};

/// A small named query.
pub const ME: &str = "query Me { me { id login } }";
const JSON: &str = "application/json";

type Http2 = SendRequest<String>;

fn persisted_query(hash: &str) -> Value {
    json!({ "persistedQuery": { "version": 1, "sha256Hash": hash } })
}

async fn post(caller: &Caller, accept: &str, body: &Value) -> (StatusCode, Value) {
    let request = caller.http.post(format!("{}/graphql", caller.url)).bearer_auth(&caller.token);
    let answer = request.header("accept", accept).json(body).send().await.unwrap();
    let status = answer.status();
    let text = answer.text().await.unwrap();
    let json = text.lines().find_map(|line| serde_json::from_str(line.trim_start_matches("data: ")).ok());
    (status, json.unwrap_or_else(|| panic!("{text}")))
}

fn code(answer: &Value) -> &str {
    answer["errors"][0]["extensions"]["code"].as_str().unwrap_or("none")
}

#[tokio::test]
async fn a_persisted_query_is_available_to_every_user() {
    let app = App::start().await;
    let a = Caller::register(&app, "ann").await;
    let b = Caller::register(&app, "bob").await;
    // Any other hash than the document's.
    let hash = "a56e1e9d1bd01d3f0b9b9f1e1ba2ae7b9d29d6d9f1f7b3c2e6e4f5a6b7c8d9e0";
    let wrong = post(&a, JSON, &json!({ "query": ME, "extensions": persisted_query(hash) })).await;
    assert_eq!((wrong.0.as_u16(), code(&wrong.1)), (400, "BAD_REQUEST"));
    let hash = sha256(ME).await;
    let unknown = post(&a, JSON, &json!({ "extensions": persisted_query(&hash) })).await;
    assert_eq!((unknown.0.as_u16(), code(&unknown.1)), (200, "PERSISTED_QUERY_NOT_FOUND"));
    let sent = post(&a, JSON, &json!({ "query": ME, "extensions": persisted_query(&hash) })).await;
    assert_eq!(sent.1["data"]["me"]["id"], a.id);
    let known = post(&b, JSON, &json!({ "extensions": persisted_query(&hash) })).await;
    assert_eq!(known.1["data"]["me"]["id"], b.id, "the document is shared, the response is not");
    let url = format!("{}/graphql", b.url);
    let by_get =
        b.http.get(url).query(&[("extensions", persisted_query(&hash).to_string())]).bearer_auth(&b.token);
    let by_get: Value = by_get.send().await.unwrap().json().await.unwrap();
    assert_eq!(by_get["data"]["me"]["id"], b.id);
    let mut phone = SocketClient::connect(&a).await;
    phone
        .send(json!({ "id": "h", "type": "subscribe", "payload": { "extensions": persisted_query(&hash) } }))
        .await;
    assert_eq!(phone.frame("h", "me").await["id"], a.id);
}

/// Computes a SHA-256 hash with `sha256sum`, independently of the program.
pub async fn sha256(text: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("text");
    std::fs::write(&path, text).unwrap();
    let output = Command::new("sha256sum").arg(path).output().await.unwrap();
    String::from_utf8(output.stdout).unwrap()[..64].to_owned()
}

#[tokio::test]
async fn only_trusted_documents_run_by_text_id_or_hash() {
    const UNREAD: &str = "subscription { unread { total } }";
    const REGISTER: &str = "mutation($input: RegisterInput!) {
            register(input: $input) { accessToken refreshToken user { id } } }";
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("documents.json");
    std::fs::write(&list, json!({ "me": ME, "unread": UNREAD, "register": REGISTER }).to_string()).unwrap();
    let app = App::start_with(&[("TRUSTED_DOCUMENTS", list.to_str().unwrap())]).await;
    let a = Caller::register(&app, "ann").await;
    for listed in [
        json!({ "query": ME }),
        json!({ "documentId": "me" }),
        json!({ "extensions": persisted_query("me") }),
        json!({ "extensions": persisted_query(&sha256(ME).await) }),
    ] {
        assert_eq!(post(&a, JSON, &listed).await.1["data"]["me"]["id"], a.id, "{listed}");
    }
    let other = json!({ "query": "{ me { id } }" });
    let (status, answer) = post(&a, JSON, &other).await;
    assert_eq!((status.as_u16(), code(&answer)), (400, "PERSISTED_QUERY_REQUIRED"));
    let (_, batch) = post(&a, JSON, &json!([{ "documentId": "me" }, other])).await;
    assert_eq!((&batch[0]["data"]["me"]["id"], code(&batch[1])), (&json!(a.id), "PERSISTED_QUERY_REQUIRED"));
    let introspection = post(&a, JSON, &json!({ "query": "{ __schema { queryType { name } } }" })).await;
    assert_eq!(code(&introspection.1), "PERSISTED_QUERY_REQUIRED", "including introspection by the IDE");
    let mut phone = SocketClient::connect(&a).await;
    phone.send(json!({ "id": "u", "type": "subscribe", "payload": { "documentId": "unread" } })).await;
    assert_eq!(phone.frame("u", "unread").await["total"], 0);
    let stream =
        a.http.post(format!("{}/graphql", a.url)).bearer_auth(&a.token).header("accept", "text/event-stream");
    let mut stream = stream.json(&json!({ "documentId": "unread" })).send().await.unwrap();
    let mut text = String::new();
    while !text.contains("\"total\":0") {
        text += std::str::from_utf8(&stream.chunk().await.unwrap().expect("a result")).unwrap();
    }
}

#[tokio::test]
async fn an_invalid_list_of_documents_is_one_line_and_exit_status_2() {
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("documents.json");
    for (text, message) in [
        (None, "No such file"),
        (Some("[1]"), "expected a JSON object of ids and documents"),
        (Some(r#"{"me": "{ me {"}"#), "the document of id \"me\" is not GraphQL"),
        (Some(r#"{"format": "other", "version": 1, "operations": []}"#), "apollo-persisted-query-manifest"),
    ] {
        if let Some(text) = text {
            std::fs::write(&list, text).unwrap();
        }
        let (exit, line) = exit_and_stderr(folder.path(), &list).await;
        assert_eq!(exit, Some(2), "{line}");
        assert!(line.starts_with("tidings: TRUSTED_DOCUMENTS /") && line.contains(message), "{line}");
        assert_eq!(line.trim_end().lines().count(), 1, "{line}");
    }
}

async fn exit_and_stderr(folder: &Path, list: &Path) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidings"));
    command
        .env("DATA_DIR", folder.join("data"))
        .env("LISTEN", "127.0.0.1:0")
        .env("OPS_LISTEN", "127.0.0.1:0");
    command.arg("serve").arg("--trusted-documents").arg(list).stdout(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[tokio::test]
async fn the_schema_is_served_only_with_introspection() {
    let app = App::start().await;
    let url = format!("{}/graphql/schema", app.url);
    let first = reqwest::get(&url).await.unwrap();
    assert_eq!(first.headers()["content-type"], "text/plain; charset=utf-8");
    let tag = first.headers()["etag"].clone();
    let own = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("schema.graphql")).unwrap();
    assert_eq!(first.text().await.unwrap(), own, "the response is schema.graphql, byte for byte");
    let again = Client::new().get(&url).header("if-none-match", tag).send().await.unwrap();
    assert_eq!(again.status(), 304);
    let closed = App::start_with(&[("INTROSPECTION", "off")]).await;
    assert_eq!(reqwest::get(format!("{}/graphql/schema", closed.url)).await.unwrap().status(), 404);
}

#[tokio::test]
async fn only_large_responses_are_compressed() {
    let app = App::start().await;
    let a = Caller::register(&app, "ann").await;
    let post = async |accept: &str, query: &str| -> Response {
        let request =
            a.http.post(format!("{}/graphql", a.url)).bearer_auth(&a.token).header("accept", accept);
        let request = request.header("accept-encoding", "gzip, br, zstd").json(&json!({ "query": query }));
        request.send().await.unwrap()
    };
    let large =
        post(JSON, "{ __schema { types { name kind description fields { name description } } } }").await;
    assert_eq!(large.headers()["content-encoding"], "gzip");
    assert!(
        large
            .headers()
            .get_all("vary")
            .iter()
            .any(|value| value.to_str().unwrap().contains("accept-encoding"))
    );
    assert!(large.bytes().await.unwrap().starts_with(&[0x1f, 0x8b]), "the body is gzip");
    let small = post(JSON, "{ __typename }").await;
    assert!(!small.headers().contains_key("content-encoding"));
    for accept in ["text/event-stream", "multipart/mixed;subscriptionSpec=1.0"] {
        let stream = post(accept, "subscription { unread { total } }").await;
        assert_eq!(stream.status(), 200);
        assert!(!stream.headers().contains_key("content-encoding"), "{accept}");
    }
}

/// Posts an operation over HTTP/2 and reads the response until it contains `expected`. Returns the text
/// so far and the rest of the body.
async fn post_until(
    http: &mut Http2,
    caller: &Caller,
    accept: &str,
    body: &Value,
    expected: &str,
) -> (String, Incoming) {
    let request = http::Request::post(format!("{}/graphql", caller.url)).header("accept", accept);
    let request =
        request.header("content-type", JSON).header("authorization", format!("Bearer {}", caller.token));
    let answer = http.send_request(request.body(body.to_string()).unwrap()).await.unwrap();
    assert_eq!((answer.version(), answer.status().as_u16()), (http::Version::HTTP_2, 200));
    let mut text = String::new();
    let mut body = answer.into_body();
    while !text.contains(expected) {
        let frame = body.frame().await.expect("the body continues").unwrap();
        text += std::str::from_utf8(&frame.into_data().unwrap()).unwrap();
    }
    (text, body)
}

#[tokio::test]
async fn http_2_with_prior_knowledge_carries_many_streams() {
    let app = App::start().await;
    let a = Caller::register(&app, "ann").await;
    let connection = TcpStream::connect(app.url.trim_start_matches("http://")).await.unwrap();
    let (mut http, connection) = handshake(TokioExecutor::new(), TokioIo::new(connection)).await.unwrap();
    let driver = tokio::spawn(connection);
    let mut streams = Vec::new();
    let unread = json!({ "query": "subscription { unread { total } }" });
    for _ in 0..10 {
        streams.push(post_until(&mut http, &a, "text/event-stream", &unread, "\"total\":0").await);
    }
    let (me, _) = post_until(&mut http, &a, JSON, &json!({ "query": ME }), "}}}").await;
    assert!(me.contains(&a.id), "{me}");
    assert_eq!(app.metric("gateway_streams").await, 10.0);
    driver.abort();
}

#[tokio::test]
async fn a_page_of_another_origin_can_neither_send_nor_read() {
    let app = App::start_with(&[("ALLOWED_ORIGINS", "https://app.example")]).await;
    let http = Client::new();
    let url = format!("{}/graphql", app.url);
    for (origin, allowed) in [("https://app.example", true), ("https://evil.example", false), ("null", false)]
    {
        let preflight = http.request(reqwest::Method::OPTIONS, &url).header("origin", origin);
        let preflight = preflight.header("access-control-request-method", "POST");
        let preflight =
            preflight.header("access-control-request-headers", "authorization,content-type,last-event-id");
        let answer = preflight.send().await.unwrap();
        assert_eq!(answer.headers().contains_key("access-control-allow-origin"), allowed, "{origin}");
        let read = http.post(&url).header("origin", origin).json(&json!({ "query": "{ __typename }" }));
        let read = read.send().await.unwrap();
        assert_eq!(read.headers().contains_key("access-control-allow-origin"), allowed, "{origin}");
        assert!(!read.headers().contains_key("access-control-allow-credentials"));
        assert!(!read.headers().contains_key("set-cookie"));
    }
    let body = json!({ "query": "{ __typename }" }).to_string();
    for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"] {
        let unpreflighted =
            http.post(&url).header("content-type", kind).body(body.clone()).send().await.unwrap();
        assert_eq!(unpreflighted.status(), 415, "{kind}");
    }
    let link = http.get(format!("{url}?query=mutation%7Blogout%7D")).send().await.unwrap();
    assert_eq!((link.status().as_u16(), &link.headers()["allow"]), (405, &"POST".parse().unwrap()));
    assert_eq!(
        http.post(&url)
            .json(&json!({"query": "{"}))
            .header("accept", "text/html")
            .send()
            .await
            .unwrap()
            .status(),
        406
    );
}

#[tokio::test]
async fn a_valid_request_id_is_kept_and_an_invalid_one_replaced() {
    let app = App::start().await;
    let echoed = async |id: &str| -> String {
        let request = Client::new().post(format!("{}/graphql", app.url)).header("x-request-id", id);
        let answer = request.json(&json!({ "query": "{ __typename }" })).send().await.unwrap();
        answer.headers()["x-request-id"].to_str().unwrap().to_owned()
    };
    let longest = STANDARD.encode([7_u8; 48]);
    assert_eq!((longest.len(), echoed(&longest).await), (64, longest.clone()));
    for bad in ["", "two words", &format!("{longest}x")] {
        let id = echoed(bad).await;
        assert!(id != bad && id.len() == 36, "{bad}: {id}");
    }
}
