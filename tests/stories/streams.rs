//! Subscriptions over HTTP: the same story as over a socket, as server-sent events and as parts.

use std::time::{Duration, Instant};

use reqwest::Response;
use serde_json::{Value, json};

use crate::{app::App, device::UNREAD, person::Person};

/// Server-sent events, and nothing else.
pub const EVENTS: &str = "text/event-stream";
const PARTS: &str = "multipart/mixed;boundary=\"graphql\";subscriptionSpec=1.0,application/json";
const PATIENCE: Duration = Duration::from_secs(10);

/// An answer as it comes.
pub struct Stream {
    answer: Response,
    text: String,
}

impl Stream {
    fn of(answer: Response) -> Self {
        Self { answer, text: String::new() }
    }

    /// The first result, as an event, a part or the whole body; null where there is none. Nothing more is read.
    pub async fn first(answer: Response) -> Value {
        let kind = answer.headers().get("content-type").map_or("", |kind| kind.to_str().unwrap()).to_owned();
        let mut stream = Self::of(answer);
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

    /// A stream of a person's counters.
    async fn open(person: &Person, accept: &str, last: Option<&str>) -> Self {
        let mut request = person.http.post(format!("{}/graphql", person.url)).bearer_auth(&person.token);
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let answer = request.header("accept", accept).json(&json!({ "query": UNREAD })).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        Self::of(answer)
    }

    /// The next line that begins so, without it; `None` where the stream has ended.
    async fn line(&mut self, prefix: &str) -> Option<String> {
        loop {
            while let Some((line, rest)) = self.text.split_once('\n') {
                let (line, rest) = (line.trim_end().to_owned(), rest.to_owned());
                self.text = rest;
                if let Some(found) = line.strip_prefix(prefix) {
                    return Some(found.to_owned());
                }
            }
            let chunk = tokio::time::timeout(PATIENCE, self.answer.chunk())
                .await
                .expect("something within ten seconds");
            self.text += std::str::from_utf8(&chunk.unwrap()?).unwrap();
        }
    }

    /// The next frame, with the cursor to resume from.
    async fn frame(&mut self) -> (Value, String) {
        let id = self.line("id: ").await.expect("an id");
        let result: Value = serde_json::from_str(&self.line("data: ").await.expect("a result")).unwrap();
        assert_eq!(result["extensions"]["cursor"], id, "{result}");
        (result["data"]["unread"].clone(), id)
    }

    /// The next part that is no heartbeat.
    async fn part(&mut self) -> Option<Value> {
        loop {
            let part: Value = serde_json::from_str(&format!("{{{}", self.line("{").await?)).unwrap();
            if part != json!({}) {
                return Some(part);
            }
        }
    }

    /// Frames until the total is this one; the last cursor.
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
async fn counts_are_live_as_events_and_resume_where_they_broke_off() {
    let app = App::start().await;
    let (a, b) = (Person::register(&app, "ann").await, Person::register(&app, "bob").await);
    let dialog = a.create_group(&[&b], "two").await;
    let mut stream = Stream::open(&b, EVENTS, None).await;
    let (first, _) = stream.frame().await;
    assert_eq!((&first["kind"], &first["total"]), (&json!("SNAPSHOT"), &json!(0)));
    for total in 1..=3 {
        a.send(&dialog, "hello").await;
        stream.until_total(total).await;
    }
    b.read(&dialog, None).await;
    let cursor = stream.until_total(0).await;
    drop(stream);
    let (frame, _) = Stream::open(&b, EVENTS, Some(&cursor)).await.frame().await;
    assert_eq!((&frame["kind"], &frame["version"]), (&json!("CURRENT"), &json!(cursor)));
    a.send(&dialog, "while nobody watched").await;
    Stream::open(&b, EVENTS, Some(&cursor)).await.until_total(1).await;
}

#[tokio::test]
async fn counts_are_live_as_parts() {
    let app = App::start().await;
    let (a, b) = (Person::register(&app, "ann").await, Person::register(&app, "bob").await);
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
async fn a_log_out_ends_the_sessions_streams_within_a_second() {
    let app = App::start().await;
    let phone = Person::register(&app, "ann").await;
    let laptop = Person::login(&app, "ann").await;
    let mut events = Stream::open(&phone, EVENTS, None).await;
    let mut parts = Stream::open(&phone, PARTS, None).await;
    let mut other = Stream::open(&laptop, EVENTS, None).await;
    events.frame().await;
    parts.part().await;
    other.frame().await;
    let begun = Instant::now();
    phone.data("mutation { logout }", json!({})).await;
    assert_eq!(events.line("event").await, None, "it ends without `complete`");
    assert_eq!(parts.part().await.unwrap()["errors"][0]["extensions"]["code"], "UNAUTHENTICATED");
    assert_eq!(parts.part().await, None);
    let took = begun.elapsed();
    println!("streams of a session that was logged out ended after {took:?}");
    assert!(took < Duration::from_secs(1), "{took:?}");
    let dialog = laptop.create_group(&[&Person::register(&app, "bob").await], "two").await;
    laptop.send(&dialog, "still here").await;
    assert_eq!(app.metric("gateway_streams").await, 1.0);
    drop(other);
}

#[tokio::test]
async fn a_stream_ends_when_its_token_does() {
    let app = App::start_with(&[("ACCESS_TOKEN_TTL", "2s")]).await;
    let a = Person::register(&app, "ann").await;
    let mut events = Stream::open(&a, EVENTS, None).await;
    events.frame().await;
    let begun = Instant::now();
    assert_eq!(events.line("event").await, None, "it ends without `complete`");
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    let late = a.http.post(format!("{}/graphql", a.url)).bearer_auth(&a.token).header("accept", EVENTS);
    assert_eq!(late.json(&json!({ "query": UNREAD })).send().await.unwrap().status(), 401);
}

#[tokio::test]
async fn a_stop_ends_streams_within_the_window() {
    let app = App::start_with(&[("DRAIN_WINDOW", "300ms")]).await;
    let a = Person::register(&app, "ann").await;
    let (mut events, mut parts) = (Stream::open(&a, EVENTS, None).await, Stream::open(&a, PARTS, None).await);
    events.frame().await;
    parts.part().await;
    let stopping = tokio::spawn(app.stop());
    assert_eq!(events.line("event").await, None, "it ends without `complete`");
    assert_eq!(parts.part().await.unwrap()["errors"][0]["extensions"]["code"], "UNAVAILABLE");
    let (_, took) = stopping.await.unwrap();
    println!("a program with two streams stopped after {took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
}
