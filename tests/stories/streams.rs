//! Subscriptions over HTTP, as server-sent events and as multipart responses: live counts, resuming, and
//! ends.

use std::time::{Duration, Instant};

use reqwest::Response;
use serde_json::{Value, json};

use crate::{app::App, caller::Caller, socket_client::UNREAD};

/// `Accept` header for server-sent events.
pub const EVENTS: &str = "text/event-stream";
/// `Accept` header for multipart responses.
const PARTS: &str = "multipart/mixed;boundary=\"graphql\";subscriptionSpec=1.0,application/json";
const TIMEOUT: Duration = Duration::from_secs(10);

/// A response that is read incrementally.
pub struct Stream {
    answer: Response,
    text: String,
}

impl Stream {
    fn new(answer: Response) -> Self {
        Self { answer, text: String::new() }
    }

    /// Returns the first result: of an event, of a part or the whole body; null without one. Reads
    /// nothing after it.
    pub async fn first(answer: Response) -> Value {
        let kind = answer.headers().get("content-type").map_or("", |kind| kind.to_str().unwrap()).to_owned();
        let mut stream = Self::new(answer);
        if kind.starts_with(EVENTS) {
            assert_eq!(stream.line("event: ").await.as_deref(), Some("next"));
            return serde_json::from_str(&stream.line("data: ").await.expect("a result")).unwrap();
        }
        if kind.starts_with("multipart/mixed") {
            assert_eq!(stream.line("{").await.as_deref(), Some("}"), "a heartbeat comes first");
            return stream.part().await.expect("a result")["payload"].take();
        }
        stream.answer.json().await.unwrap_or_default()
    }

    /// Subscribes to the caller's counters, after the event `last` if there is one.
    async fn open(caller: &Caller, accept: &str, last: Option<&str>) -> Self {
        let mut request = caller.http.post(format!("{}/graphql", caller.url)).bearer_auth(&caller.token);
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let answer = request.header("accept", accept).json(&json!({ "query": UNREAD })).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        Self::new(answer)
    }

    /// Returns the rest of the next line with this prefix; `None` at the end of the stream.
    async fn line(&mut self, prefix: &str) -> Option<String> {
        loop {
            while let Some((line, rest)) = self.text.split_once('\n') {
                let line = line.trim_end().to_owned();
                self.text = rest.to_owned();
                if let Some(found) = line.strip_prefix(prefix) {
                    return Some(found.to_owned());
                }
            }
            let chunk =
                tokio::time::timeout(TIMEOUT, self.answer.chunk()).await.expect("data within ten seconds");
            self.text += std::str::from_utf8(&chunk.unwrap()?).unwrap();
        }
    }

    /// Returns the next frame and its cursor, from which a stream resumes.
    async fn frame(&mut self) -> (Value, String) {
        let id = self.line("id: ").await.expect("an id");
        let result: Value = serde_json::from_str(&self.line("data: ").await.expect("a result")).unwrap();
        assert_eq!(result["extensions"]["cursor"], id, "{result}");
        (result["data"]["unread"].clone(), id)
    }

    /// Returns the next part other than heartbeats.
    async fn part(&mut self) -> Option<Value> {
        loop {
            let part: Value = serde_json::from_str(&format!("{{{}", self.line("{").await?)).unwrap();
            if part != json!({}) {
                return Some(part);
            }
        }
    }

    /// Receives frames until the total has this value. Returns the last cursor.
    async fn until_total(&mut self, total: i64) -> String {
        loop {
            let (frame, cursor) = self.frame().await;
            if frame["total"] == total {
                return cursor;
            }
        }
    }
}

#[tokio::test]
async fn counts_are_live_as_events_and_resume_after_a_disconnect() {
    let app = App::start().await;
    let a = Caller::register(&app, "ann").await;
    let b = Caller::register(&app, "bob").await;
    let dialog = a.create_group(&[&b], "two").await;
    let mut stream = Stream::open(&b, EVENTS, None).await;
    let (first, _) = stream.frame().await;
    assert_eq!((&first["kind"], &first["total"]), (&json!("SNAPSHOT"), &json!(0)));
    for total in 1..=3 {
        a.send(&dialog, "hello").await;
        stream.until_total(total).await;
    }
    b.mark_read(&dialog, None).await;
    let cursor = stream.until_total(0).await;
    drop(stream);
    let (frame, _) = Stream::open(&b, EVENTS, Some(&cursor)).await.frame().await;
    assert_eq!((&frame["kind"], &frame["version"]), (&json!("CURRENT"), &json!(cursor)));
    a.send(&dialog, "while disconnected").await;
    Stream::open(&b, EVENTS, Some(&cursor)).await.until_total(1).await;
}

#[tokio::test]
async fn counts_are_live_in_a_multipart_response() {
    let app = App::start().await;
    let a = Caller::register(&app, "ann").await;
    let b = Caller::register(&app, "bob").await;
    let dialog = a.create_group(&[&b], "two").await;
    let mut stream = Stream::open(&b, PARTS, None).await;
    let first = stream.part().await.unwrap();
    assert_eq!(first["payload"]["data"]["unread"]["kind"], "SNAPSHOT");
    a.send(&dialog, "hello").await;
    let second = stream.part().await.unwrap();
    let frame = &second["payload"]["data"]["unread"];
    assert_eq!((&frame["kind"], &frame["total"]), (&json!("CHANGE"), &json!(1)));
    assert_eq!(second["payload"]["extensions"]["cursor"], frame["version"]);
}

#[tokio::test]
async fn logging_out_ends_the_sessions_streams_within_a_second() {
    let app = App::start().await;
    let phone = Caller::register(&app, "ann").await;
    let laptop = Caller::login(&app, "ann").await;
    let mut events = Stream::open(&phone, EVENTS, None).await;
    let mut parts = Stream::open(&phone, PARTS, None).await;
    let mut other = Stream::open(&laptop, EVENTS, None).await;
    events.frame().await;
    parts.part().await;
    other.frame().await;
    let started = Instant::now();
    phone.data("mutation { logout }", json!({})).await;
    assert_eq!(events.line("event").await, None, "the stream ends without `complete`");
    assert_eq!(parts.part().await.unwrap()["errors"][0]["extensions"]["code"], "UNAUTHENTICATED");
    assert_eq!(parts.part().await, None);
    let took = started.elapsed();
    println!("streams ended {took:?} after their session was logged out");
    assert!(took < Duration::from_secs(1), "{took:?}");
    let dialog = laptop.create_group(&[&Caller::register(&app, "bob").await], "two").await;
    laptop.send(&dialog, "still here").await;
    assert_eq!(app.metric("gateway_streams").await, 1.0);
    drop(other);
}

#[tokio::test]
async fn a_stream_ends_when_its_token_expires() {
    let app = App::start_with(&[("ACCESS_TOKEN_TTL", "2s")]).await;
    let a = Caller::register(&app, "ann").await;
    let mut events = Stream::open(&a, EVENTS, None).await;
    events.frame().await;
    let started = Instant::now();
    assert_eq!(events.line("event").await, None, "the stream ends without `complete`");
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    let late = a.http.post(format!("{}/graphql", a.url)).bearer_auth(&a.token).header("accept", EVENTS);
    assert_eq!(late.json(&json!({ "query": UNREAD })).send().await.unwrap().status(), 401);
}

#[tokio::test]
async fn shutdown_ends_streams_within_the_drain_window() {
    let app = App::start_with(&[("DRAIN_WINDOW", "300ms")]).await;
    let a = Caller::register(&app, "ann").await;
    let mut events = Stream::open(&a, EVENTS, None).await;
    let mut parts = Stream::open(&a, PARTS, None).await;
    events.frame().await;
    parts.part().await;
    let stopping = tokio::spawn(app.stop());
    assert_eq!(events.line("event").await, None, "the stream ends without `complete`");
    assert_eq!(parts.part().await.unwrap()["errors"][0]["extensions"]["code"], "UNAVAILABLE");
    let (_, took) = stopping.await.unwrap();
    println!("the program stopped after {took:?} with two open streams");
    assert!(took < Duration::from_secs(5), "{took:?}");
}
