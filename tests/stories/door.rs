//! The ports of the real program: what every answer carries, and what they do with more than they take.

use reqwest::header::HeaderMap;
use serde_json::json;

use crate::{app::App, person::Person, raw};

#[track_caller]
fn guarded(headers: &HeaderMap, of: &str) {
    assert_eq!(headers["x-content-type-options"], "nosniff", "{of}");
    assert_eq!(headers["referrer-policy"], "no-referrer", "{of}");
    assert!(headers["content-security-policy"].to_str().unwrap().starts_with("default-src 'none'"), "{of}");
    assert!(!headers.contains_key("strict-transport-security"), "the balancer that speaks TLS says it: {of}");
}

#[tokio::test]
async fn every_answer_of_both_ports_says_how_it_is_to_be_handled() {
    let app = App::start().await;
    for path in ["/", "/healthz", "/readyz", "/nowhere", "/graphql?query=%7B__typename%7D", "/graphql"] {
        let answer = reqwest::get(format!("{}{path}", app.url)).await.unwrap();
        guarded(answer.headers(), path);
    }
    for path in ["/healthz", "/readyz", "/metrics", "/nowhere"] {
        let answer = reqwest::get(format!("{}{path}", app.ops)).await.unwrap();
        guarded(answer.headers(), path);
        assert_eq!(answer.headers()["cache-control"], "no-store", "{path}");
    }
    let ann = Person::register(&app, "ann").await;
    let request = ann.http.post(format!("{}/graphql", app.url)).bearer_auth(&ann.token);
    let answer = request.json(&json!({"query": "{ me { id } }"})).send().await.unwrap();
    assert_eq!(answer.headers()["cache-control"], "no-store", "what is a person's own is kept nowhere");
    guarded(answer.headers(), "a person's data");
}

/// What comes back on a connection of its own until it is closed.
async fn answer(address: &str, bytes: &[u8]) -> String {
    raw::say(address, [bytes]).await.text
}

#[tokio::test]
async fn heads_and_bodies_over_their_bounds_are_refused_on_both_ports() {
    let app = App::start().await;
    let many: String = (0..200).map(|number| format!("x-{number}: y\r\n")).collect();
    for address in [&app.url, &app.ops] {
        let refused =
            answer(address, format!("GET /healthz HTTP/1.1\r\nhost: a\r\n{many}\r\n").as_bytes()).await;
        assert!(refused.starts_with("HTTP/1.1 431"), "{refused}");
        let long = format!("GET /healthz HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(100_000));
        let refused = answer(address, long.as_bytes()).await;
        assert!(refused.starts_with("HTTP/1.1 431"), "{refused}");
    }
    let announced = "POST /graphql HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 60000000\r\n\r\n";
    let refused = answer(&app.url, announced.as_bytes()).await;
    assert!(refused.starts_with("HTTP/1.1 413"), "{refused}");
    let mut chunked =
        b"POST /graphql HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
            .to_vec();
    for _ in 0..20 {
        chunked.extend(format!("{:x}\r\n{}\r\n", 60_000, "x".repeat(60_000)).bytes());
    }
    let refused = answer(&app.url, &chunked).await;
    assert!(refused.is_empty() || refused.starts_with("HTTP/1.1 413"), "{refused}");
}
