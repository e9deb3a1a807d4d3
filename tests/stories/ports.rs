//! Both ports of the program: security headers of every response, and limits of request heads and bodies.

use std::{net::TcpListener, process::Stdio, time::Duration};

use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};

use crate::{
    app::{App, program},
    caller::Caller,
    raw_http,
};

#[track_caller]
fn assert_security_headers(headers: &HeaderMap, of: &str) {
    assert_eq!(headers["x-content-type-options"], "nosniff", "{of}");
    assert_eq!(headers["referrer-policy"], "no-referrer", "{of}");
    assert!(headers["content-security-policy"].to_str().unwrap().starts_with("default-src 'none'"), "{of}");
    assert!(
        !headers.contains_key("strict-transport-security"),
        "the balancer, which terminates TLS, sets it: {of}"
    );
}

#[tokio::test]
async fn every_response_of_both_ports_has_security_headers() {
    let app = App::start().await;
    for path in ["/", "/healthz", "/readyz", "/nowhere", "/graphql?query=%7B__typename%7D", "/graphql"] {
        let answer = reqwest::get(format!("{}{path}", app.url)).await.unwrap();
        assert_security_headers(answer.headers(), path);
    }
    for path in ["/healthz", "/readyz", "/metrics", "/debug/pprof/profile", "/debug/pprof/heap", "/nowhere"] {
        let answer = reqwest::get(format!("{}{path}", app.ops)).await.unwrap();
        assert_security_headers(answer.headers(), path);
        assert_eq!(answer.headers()["cache-control"], "no-store", "{path}");
    }
    let ann = Caller::register(&app, "ann").await;
    let request = ann.http.post(format!("{}/graphql", app.url)).bearer_auth(&ann.token);
    let answer = request.json(&json!({"query": "{ me { id } }"})).send().await.unwrap();
    assert_eq!(answer.headers()["cache-control"], "no-store", "a user's data is not cached");
    assert_security_headers(answer.headers(), "a user's data");
}

#[tokio::test]
async fn serve_prints_its_addresses_in_the_format_of_the_log() {
    let app = App::start().await;
    let url = app.url.clone();
    let stdout = app.stdout.clone();
    let _folder = app.stop().await;
    // The whole output is one JSON object.
    let addresses: Value = serde_json::from_str(&stdout.lock()).unwrap();
    assert_eq!((&addresses["url"], &addresses["level"]), (&json!(url), &json!("INFO")));

    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(program());
    command.env("DATA_DIR", folder.path()).env("LISTEN", "127.0.0.1:0").env("OPS_LISTEN", "127.0.0.1:0");
    command.env("LOG_FORMAT", "text").stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let first = lines.next_line().await.unwrap().unwrap();
    assert!(
        first.starts_with("Tidings is running on ") && first.ends_with("press Ctrl-C to stop"),
        "{first}"
    );
}

/// Sends a request on a new connection and returns everything received until it is closed.
async fn response(address: &str, bytes: &[u8]) -> String {
    raw_http::send(address, [bytes]).await.text
}

#[tokio::test]
async fn heads_and_bodies_beyond_their_limits_are_rejected_on_both_ports() {
    const POST: &str = "POST /graphql HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n";
    let app = App::start().await;
    let many: String = (0..200).map(|number| format!("x-{number}: y\r\n")).collect();
    for address in [&app.url, &app.ops] {
        let rejected =
            response(address, format!("GET /healthz HTTP/1.1\r\nhost: a\r\n{many}\r\n").as_bytes()).await;
        assert!(rejected.starts_with("HTTP/1.1 431"), "{rejected}");
        let long = format!("GET /healthz HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(100_000));
        let rejected = response(address, long.as_bytes()).await;
        assert!(rejected.starts_with("HTTP/1.1 431"), "{rejected}");
    }
    let rejected = response(&app.url, format!("{POST}content-length: 60000000\r\n\r\n").as_bytes()).await;
    assert!(rejected.starts_with("HTTP/1.1 413"), "{rejected}");
    let mut chunked = format!("{POST}transfer-encoding: chunked\r\n\r\n").into_bytes();
    for _ in 0..20 {
        chunked.extend(format!("{:x}\r\n{}\r\n", 60_000, "x".repeat(60_000)).bytes());
    }
    let rejected = response(&app.url, &chunked).await;
    assert!(rejected.is_empty() || rejected.starts_with("HTTP/1.1 413"), "{rejected}");
}

#[tokio::test]
async fn the_public_port_says_only_whether_the_process_is_ready() {
    let app = App::start().await;
    // The program prints its addresses before every component is ready.
    testkit::eventually("the public port says ready", || async {
        let public = reqwest::get(format!("{}/readyz", app.url)).await.unwrap();
        let status = public.status().as_u16();
        let word = public.text().await.unwrap();
        assert!(["ready\n", "not_ready\n"].contains(&word.as_str()), "{word}");
        (status, word.as_str()) == (200, "ready\n")
    })
    .await;
    let private = reqwest::get(format!("{}/readyz", app.ops)).await.unwrap().text().await.unwrap();
    assert!(private.contains("counter database"), "{private}");
}

#[tokio::test]
async fn a_request_names_exactly_one_host_on_both_ports() {
    let app = App::start().await;
    for address in [&app.url, &app.ops] {
        for (hosts, status) in [
            ("host: a\r\n", "HTTP/1.1 200"),
            ("", "HTTP/1.1 400"),
            ("host: a\r\nhost: a\r\n", "HTTP/1.1 400"),
            ("host: a b\r\n", "HTTP/1.1 400"),
            ("host: ann@a\r\n", "HTTP/1.1 400"),
        ] {
            let head = format!("GET /healthz HTTP/1.1\r\n{hosts}connection: close\r\n\r\n");
            let answer = response(address, head.as_bytes()).await;
            assert!(answer.starts_with(status), "{address} {hosts:?}: {answer}");
        }
    }
}

#[tokio::test]
async fn a_port_that_is_taken_for_the_moment_is_waited_for() {
    let holders = [testkit::free_address(), testkit::free_address()].map(|it| TcpListener::bind(it).unwrap());
    let [listen, ops] = [&holders[0], &holders[1]].map(|it| it.local_addr().unwrap().to_string());
    let released = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        drop(holders);
    });
    let app = App::start_with(&[("LISTEN", &listen), ("OPS_LISTEN", &ops)]).await;
    assert!(released.is_finished());
    assert_eq!(reqwest::get(format!("{}/healthz", app.url)).await.unwrap().status(), 200);
}
