//! Streams over HTTP against a running gateway: what is on the wire, and everything that ends one.

use std::time::Duration;

use axum::{
    body::Body,
    http::{HeaderMap, Request, StatusCode},
    response::Response,
};
use http_body_util::BodyExt;
use proto::{
    DialogId, SessionId, UserId, counter,
    events::{ParticipantLeft, SessionRevoked, UnreadChanged, UnreadRow, event::Kind},
};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};
use tower::ServiceExt;

use crate::testing::{Gauges, RunningGateway};

const EVENTS: &str = "text/event-stream";
const PARTS: &str = "multipart/mixed;boundary=\"graphql\";subscriptionSpec=1.0,application/json";
const UNREAD: &str = "subscription($since: String) { unread(since: $since) { kind version } }";
/// Longer than the time between two signs of life, which passes at once where the clock stands still.
const PATIENCE: Duration = Duration::from_secs(20);

/// A stream as its client reads it.
struct Reader {
    status: StatusCode,
    headers: HeaderMap,
    body: Body,
    text: String,
}

impl Reader {
    async fn of(gateway: &RunningGateway, request: Request<Body>) -> Self {
        let response: Response = gateway.app.router().oneshot(request).await.expect("an answer");
        let (parts, body) = response.into_parts();
        Self { status: parts.status, headers: parts.headers, body, text: String::new() }
    }

    /// By POST, with more headers.
    async fn post(gateway: &RunningGateway, headers: &[(&str, &str)], body: Value) -> Self {
        let mut request = Request::post("/graphql").header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Self::of(gateway, request.body(Body::from(body.to_string())).expect("a request")).await
    }

    /// A subscription to the counters, with this token.
    async fn watch(gateway: &RunningGateway, accept: &str, token: &str) -> Self {
        let headers = [("accept", accept), ("authorization", token)];
        Self::post(gateway, &headers, json!({ "query": UNREAD })).await
    }

    /// The text up to this end; what follows is kept.
    async fn until(&mut self, end: &str) -> String {
        loop {
            if let Some(found) = self.text.find(end) {
                let rest = self.text.split_off(found + end.len());
                return std::mem::replace(&mut self.text, rest);
            }
            let frame = timeout(PATIENCE, self.body.frame()).await.expect("something comes");
            let frame =
                frame.unwrap_or_else(|| panic!("the stream has ended: {:?}", self.text)).expect("a frame");
            self.text.push_str(std::str::from_utf8(&frame.into_data().expect("data")).expect("text"));
        }
    }

    /// The next event that is no comment: its name, id and data.
    async fn event(&mut self) -> (String, Option<String>, Value) {
        loop {
            let text = self.until("\n\n").await;
            let field = |name: &str| {
                let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
                line.map(|value| value.trim().to_owned())
            };
            if let Some(event) = field("event") {
                let data = serde_json::from_str(&field("data").expect("data")).unwrap_or_default();
                return (event, field("id"), data);
            }
            assert!(text.starts_with(':'), "{text:?}");
        }
    }

    /// The next part that is no heartbeat.
    async fn part(&mut self) -> Value {
        loop {
            let text = self.until("\r\n--graphql").await;
            let (_, json) = text.split_once("\r\ncontent-type: application/json\r\n\r\n").expect("a part");
            let json: Value =
                serde_json::from_str(json.strip_suffix("\r\n--graphql").expect("its end")).expect("JSON");
            if json != json!({}) {
                return json;
            }
        }
    }

    /// All the rest, once the stream has ended.
    async fn rest(self) -> String {
        let rest = timeout(PATIENCE, self.body.collect()).await.expect("it ends").expect("frames").to_bytes();
        self.text + std::str::from_utf8(&rest).expect("text")
    }

    fn kind(&self) -> &str {
        self.headers["content-type"].to_str().expect("text")
    }
}

fn bearer(gateway: &RunningGateway, user: UserId, lifetime_s: i64) -> String {
    format!("Bearer {}", gateway.token(user, SessionId::now(), lifetime_s))
}

fn changed(user: UserId, version: i64, dialog: DialogId, rows: u128) -> UnreadChanged {
    let row = |number: u128| UnreadRow {
        dialog_id: DialogId::new(uuid::Uuid::from_u128(dialog.uuid().as_u128().wrapping_add(number))).bytes(),
        unread: version,
        was: version - 1,
        ..UnreadRow::default()
    };
    let rows = (0..rows).map(row).collect();
    UnreadChanged { user_id: user.bytes(), epoch: 1, version, previous: version - 1, rows }
}

/// Somebody with four messages to read, at version 4.
fn reader(gateway: &RunningGateway) -> (UserId, DialogId) {
    let (user, dialog) = (UserId::now(), DialogId::now());
    let row = counter::Row { dialog_id: dialog.bytes(), unread: 4, read_seq: 0, last_seq: 4 };
    gateway.services().unread.insert(user, (4, vec![row]));
    (user, dialog)
}

#[tokio::test]
async fn events_carry_results_and_the_cursor_to_resume_from() {
    let gateway = RunningGateway::start().await;
    let (user, dialog) = reader(&gateway);
    let token = bearer(&gateway, user, 300);
    let mut stream = Reader::watch(&gateway, EVENTS, &token).await;
    assert_eq!((stream.status.as_u16(), stream.kind()), (200, "text/event-stream; charset=utf-8"));
    assert_eq!(stream.headers["cache-control"], "no-store");
    assert_eq!(stream.headers["x-accel-buffering"], "no");
    assert_eq!(stream.until("\n\n").await, ":\n\n", "something comes at once");
    let snapshot = r#"{"data":{"unread":{"kind":"SNAPSHOT","version":"1-4"}},"extensions":{"cursor":"1-4"}}"#;
    assert_eq!(stream.until("\n\n").await, format!("event: next\nid: 1-4\ndata: {snapshot}\n\n"));
    gateway.emit(Kind::UnreadChanged(changed(user, 5, dialog, 1))).await;
    let (event, id, change) = stream.event().await;
    assert_eq!((event.as_str(), id.as_deref()), ("next", Some("1-5")));
    assert_eq!(change["data"]["unread"], json!({ "kind": "CHANGE", "version": "1-5" }));

    // A stream believes no snapshot that is older than what it was told.
    let row = counter::Row { dialog_id: dialog.bytes(), unread: 5, read_seq: 0, last_seq: 5 };
    gateway.services().unread.insert(user, (5, vec![row]));
    let query = format!("/graphql?query={}", "subscription%7Bunread%7Bkind%7D%7D");
    let get = Request::get(query).header("accept", EVENTS).header("authorization", &token);
    let mut get = Reader::of(&gateway, get.body(Body::empty()).expect("a request")).await;
    assert_eq!(get.event().await.2["data"]["unread"]["kind"], "SNAPSHOT");
}

#[tokio::test]
async fn a_stream_resumes_from_the_last_event_unless_the_operation_says_otherwise() {
    let gateway = RunningGateway::start().await;
    let (user, _) = reader(&gateway);
    let token = bearer(&gateway, user, 300);
    for (last, since, kind) in [
        ("1-4", Value::Null, "CURRENT"),
        ("1-3", Value::Null, "SNAPSHOT"),
        ("", Value::Null, "SNAPSHOT"),
        ("1-4", json!("1-3"), "SNAPSHOT"),
        ("1-3", json!("1-4"), "CURRENT"),
    ] {
        for accept in [EVENTS, PARTS] {
            let headers = [("accept", accept), ("authorization", &token), ("last-event-id", last)];
            let body = json!({ "query": UNREAD, "variables": { "since": since } });
            let mut stream = Reader::post(&gateway, &headers, body).await;
            let result =
                if accept == EVENTS { stream.event().await.2 } else { stream.part().await["payload"].take() };
            assert_eq!(result["data"]["unread"]["kind"], kind, "{last} {since} {accept}");
        }
    }
    let headers = [("accept", EVENTS), ("authorization", &token), ("last-event-id", "yesterday")];
    let mut strange = Reader::post(&gateway, &headers, json!({ "query": UNREAD })).await;
    assert_eq!(strange.event().await.2["errors"][0]["extensions"]["code"], "BAD_USER_INPUT");
    assert_eq!(strange.event().await.0, "complete");
}

#[tokio::test]
async fn a_query_as_events_is_one_result_and_its_end() {
    let gateway = RunningGateway::start().await;
    let expected =
        ":\n\nevent: next\ndata: {\"data\":{\"__typename\":\"Query\"}}\n\nevent: complete\ndata:\n\n";
    let answer = Reader::post(&gateway, &[("accept", EVENTS)], json!({ "query": "{ __typename }" })).await;
    assert_eq!(answer.rest().await, expected);
    let mixed = "application/json, text/event-stream, multipart/mixed";
    let answer = Reader::post(&gateway, &[("accept", mixed)], json!({ "query": "{ __typename }" })).await;
    assert_eq!(answer.rest().await, r#"{"data":{"__typename":"Query"}}"#, "who takes JSON gets JSON");
    let parts = [("accept", "multipart/mixed;subscriptionSpec=1.0")];
    let mut answer = Reader::post(&gateway, &parts, json!({ "query": "{ __typename }" })).await;
    assert_eq!(answer.part().await, json!({ "payload": { "data": { "__typename": "Query" } } }));
    assert_eq!(answer.rest().await, "--\r\n");
}

#[tokio::test]
async fn what_is_wrong_before_a_stream_is_a_status_or_its_only_result() {
    let gateway = RunningGateway::start().await;
    let token = bearer(&gateway, UserId::now(), 300);
    for (query, code) in [
        ("{ nonsense }", "GRAPHQL_VALIDATION_FAILED"),
        (r#"subscription { unread(since: "yesterday") { kind } }"#, "BAD_USER_INPUT"),
        (r#"subscription { messages(dialogId: "nonsense") { kind } }"#, "NOT_FOUND"),
        ("subscription { a: unread { kind } b: unread { kind } }", "GRAPHQL_VALIDATION_FAILED"),
    ] {
        let headers = [("accept", EVENTS), ("authorization", token.as_str())];
        let mut stream = Reader::post(&gateway, &headers, json!({ "query": query })).await;
        assert_eq!(stream.status, StatusCode::OK);
        assert_eq!(stream.event().await.2["errors"][0]["extensions"]["code"], code, "{query}");
        assert_eq!(stream.rest().await, "event: complete\ndata:\n\n");
    }
    let mut nobody = Reader::post(&gateway, &[("accept", PARTS)], json!({ "query": UNREAD })).await;
    assert_eq!(nobody.part().await["payload"]["errors"][0]["extensions"]["code"], "UNAUTHENTICATED");
    assert_eq!(nobody.rest().await, "--\r\n");
    for (headers, body, status, code) in [
        (&[][..], json!({ "query": "{" }), 400, "GRAPHQL_PARSE_FAILED"),
        (&[], json!({}), 400, "BAD_REQUEST"),
        (&[], json!([{ "query": "{ __typename }" }]), 406, "BAD_REQUEST"),
        (&[("authorization", "Bearer nonsense")], json!({ "query": UNREAD }), 401, "UNAUTHENTICATED"),
        (&[("x-graphql-event-stream-token", "x")], json!({ "query": UNREAD }), 400, "BAD_REQUEST"),
    ] {
        let headers = [&[("accept", EVENTS)], headers].concat();
        let answer = Reader::post(&gateway, &headers, body.clone()).await;
        assert_eq!(answer.status.as_u16(), status, "{body}");
        assert!(answer.kind().contains("json"), "{}", answer.kind());
        let json: Value = serde_json::from_str(&answer.rest().await).expect("JSON");
        assert_eq!(json["errors"][0]["extensions"]["code"], code, "{body}");
    }
    for method in ["PUT", "DELETE"] {
        let request = Request::builder().method(method).uri("/graphql").header("accept", EVENTS);
        let answer = Reader::of(&gateway, request.body(Body::empty()).expect("a request")).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.headers["allow"]),
            (405, &"GET, POST".parse().expect("text"))
        );
        assert!(answer.rest().await.contains("single connection mode is not offered"));
    }
    let mutation = Request::get("/graphql?query=mutation%7Blogout%7D").header("accept", EVENTS);
    let mutation = Reader::of(&gateway, mutation.body(Body::empty()).expect("a request")).await;
    assert_eq!(mutation.status.as_u16(), 405);
}

#[tokio::test]
async fn parts_are_wrapped_and_end_with_the_last_boundary() {
    let gateway = RunningGateway::start().await;
    let (user, dialog) = (UserId::now(), DialogId::now());
    {
        let mut services = gateway.services();
        services.caller = Some(user);
        services.members.insert(dialog, vec![(user, 0)]);
        services.dialogs.insert(dialog, (1, Vec::new()));
    }
    let token = bearer(&gateway, user, 300);
    for accept in [PARTS, "multipart/mixed;subscriptionSpec=1.0"] {
        let body = json!({ "query": "subscription($id: ID!) { messages(dialogId: $id) { kind } }",
            "variables": { "id": dialog.to_string() } });
        let headers = [("accept", accept), ("authorization", token.as_str())];
        let mut stream = Reader::post(&gateway, &headers, body).await;
        assert_eq!(stream.kind(), "multipart/mixed; boundary=\"graphql\"; subscriptionSpec=1.0");
        let first = "--graphql\r\ncontent-type: application/json\r\n\r\n{}\r\n--graphql";
        assert_eq!(stream.until("{}\r\n--graphql").await, first);
        let payload = stream.part().await["payload"].take();
        assert_eq!(payload["data"]["messages"]["kind"], "CURRENT");
        assert!(payload["extensions"]["cursor"].is_string(), "{payload}");
        if accept == PARTS {
            continue;
        }
        let (dialog_id, user_id) = (dialog.bytes(), user.bytes());
        gateway.services().members.insert(dialog, Vec::new());
        gateway.emit(Kind::ParticipantLeft(ParticipantLeft { dialog_id, version: 2, user_id })).await;
        assert_eq!(stream.rest().await, "--\r\n", "who has left is told that it is over");
    }
}

#[tokio::test]
async fn a_stream_ends_with_its_token() {
    let gateway = RunningGateway::start().await;
    let token = bearer(&gateway, UserId::now(), 2);
    let mut events = Reader::watch(&gateway, EVENTS, &token).await;
    let mut parts = Reader::watch(&gateway, PARTS, &token).await;
    events.event().await;
    parts.part().await;
    assert_eq!(
        events.rest().await,
        ": the access token has expired\n\n",
        "no complete: the client comes back"
    );
    let last = parts.part().await;
    assert_eq!(last["payload"], Value::Null);
    assert_eq!(last["errors"][0]["extensions"]["code"], "UNAUTHENTICATED");
    assert_eq!(parts.rest().await, "--\r\n");
}

#[tokio::test]
async fn a_revoked_session_ends_its_streams_and_no_others() {
    let gateway = RunningGateway::start().await;
    let (user, session) = (UserId::now(), SessionId::now());
    let token = format!("Bearer {}", gateway.token(user, session, 300));
    let mut events = Reader::watch(&gateway, EVENTS, &token).await;
    let mut parts = Reader::watch(&gateway, PARTS, &token).await;
    let mut other = Reader::watch(&gateway, EVENTS, &bearer(&gateway, user, 300)).await;
    for stream in [&mut events, &mut other] {
        stream.event().await;
    }
    parts.part().await;
    let session_ids = vec![session.bytes()];
    gateway.emit(Kind::SessionRevoked(SessionRevoked { user_id: user.bytes(), session_ids })).await;
    let begun = Instant::now();
    assert_eq!(events.rest().await, ": the session is over, sign in again\n\n");
    assert_eq!(parts.part().await["errors"][0]["extensions"]["code"], "UNAUTHENTICATED");
    assert!(begun.elapsed() < Duration::from_secs(1));
    gateway.emit(Kind::UnreadChanged(changed(user, 1, DialogId::now(), 1))).await;
    assert_eq!(other.event().await.1.as_deref(), Some("1-1"));
    assert_eq!(Reader::watch(&gateway, EVENTS, &token).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_gateway_that_stops_ends_every_stream_within_the_window() {
    let gateway = RunningGateway::start().await;
    let mut streams = Vec::new();
    for _ in 0..10 {
        let mut events = Reader::watch(&gateway, EVENTS, &bearer(&gateway, UserId::now(), 300)).await;
        events.event().await;
        let mut parts = Reader::watch(&gateway, PARTS, &bearer(&gateway, UserId::now(), 300)).await;
        parts.part().await;
        streams.push((events, parts));
    }
    let (app, token) = (gateway.app.clone(), bearer(&gateway, UserId::now(), 300));
    let stopped = tokio::spawn(gateway.stop());
    for (events, mut parts) in streams {
        assert_eq!(events.rest().await, ": the service restarts, subscribe again\n\n");
        assert_eq!(parts.part().await["errors"][0]["extensions"]["code"], "UNAVAILABLE");
        assert_eq!(parts.rest().await, "--\r\n");
    }
    stopped.await.expect("it stops");
    let late = Request::post("/graphql").header("content-type", "application/json").header("accept", EVENTS);
    let late = late.header("authorization", token).body(Body::from(json!({ "query": UNREAD }).to_string()));
    let late = app.router().oneshot(late.expect("a request")).await.expect("an answer");
    assert_eq!(late.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_stream_is_one_of_its_persons_sockets() {
    let gateway = RunningGateway::start().await;
    let user = UserId::now();
    let token = bearer(&gateway, user, 300);
    let socket = gateway.sign_in(user).await;
    let mut streams = Vec::new();
    for number in 1..20 {
        let accept = if number % 2 == 0 { EVENTS } else { PARTS };
        streams.push(Reader::watch(&gateway, accept, &token).await);
    }
    for accept in [EVENTS, PARTS] {
        let more = Reader::watch(&gateway, accept, &token).await;
        assert_eq!(more.status, StatusCode::TOO_MANY_REQUESTS);
        assert!(more.rest().await.contains("LIMIT_EXCEEDED"));
    }
    let other = Reader::watch(&gateway, EVENTS, &bearer(&gateway, UserId::now(), 300)).await;
    assert_eq!(other.status, StatusCode::OK, "everyone has seats");
    let query =
        Reader::post(&gateway, &[("authorization", &token)], json!({ "query": "{ __typename }" })).await;
    assert_eq!(query.status, StatusCode::OK, "what is answered at once needs none");
    streams.pop();
    testkit::eventually("the seat is free", || async {
        Reader::watch(&gateway, EVENTS, &token).await.status == StatusCode::OK
    })
    .await;
    drop((streams, socket, other));
}

#[tokio::test]
async fn a_quiet_stream_says_every_12_seconds_that_it_is_alive() {
    let gateway = RunningGateway::start().await;
    let token = bearer(&gateway, UserId::now(), 3600);
    let mut events = Reader::watch(&gateway, EVENTS, &token).await;
    let mut parts = Reader::watch(&gateway, PARTS, &token).await;
    events.event().await;
    parts.part().await;
    tokio::time::pause();
    let begun = Instant::now();
    for beat in 1..=3 {
        assert_eq!(events.until("\n\n").await, ":\n\n");
        assert_eq!(
            parts.until("--graphql").await,
            "\r\ncontent-type: application/json\r\n\r\n{}\r\n--graphql"
        );
        assert_eq!(begun.elapsed().as_secs(), beat * 12);
    }
}

#[tokio::test]
async fn a_stream_that_nobody_reads_costs_no_memory_and_is_let_go() {
    let gauges = Gauges::default();
    let _installed = metrics::set_default_local_recorder(&gauges);
    let gateway = RunningGateway::start().await;
    let (user, dialog) = (UserId::now(), DialogId::now());
    let token = bearer(&gateway, user, 3600);
    let query = "subscription { unread { version total changed { dialogId unread } } }";
    let headers = [("accept", EVENTS), ("authorization", token.as_str())];
    let mut stalled = Reader::post(&gateway, &headers, json!({ "query": query })).await;
    let mut reads = Reader::post(&gateway, &headers, json!({ "query": query })).await;
    for stream in [&mut stalled, &mut reads] {
        stream.event().await;
    }
    for version in 1..=50 {
        gateway.app.log_reader.hubs.unread.apply(&changed(user, version, dialog, 1000)).expect("an event");
        let (_, id, _) = reads.event().await;
        assert_eq!(id, Some(format!("1-{version}")), "nobody waits for the other");
    }
    assert_eq!(gauges.sum("gateway_streams"), 2.0);
    tokio::time::pause();
    let reading = async {
        loop {
            reads.until("\n\n").await;
        }
    };
    tokio::select! {
        () = reading => {}
        () = tokio::time::sleep(Duration::from_secs(31)) => {}
    }
    assert_eq!(gauges.sum("gateway_streams"), 1.0, "only who reads is left");
    let rest = stalled.rest().await;
    assert!(rest.matches("event: next").count() <= 2, "what waited for it was one result, not fifty");
}

#[tokio::test]
async fn a_document_is_known_by_its_hash_on_every_transport() {
    let gateway = RunningGateway::start().await;
    let user = UserId::now();
    let token = bearer(&gateway, user, 300);
    let hash = "b9cf7e0c9d9d8e1e2d36d1dbd3ce0f1a0d5b3a2c0a2bb1a0b4f7f0b7d7e6a5c4";
    let hashed = |hash: &str| json!({ "persistedQuery": { "version": 1, "sha256Hash": hash } });
    let mut client = gateway.sign_in(user).await;
    client.say(json!({ "id": "1", "type": "subscribe", "payload": { "extensions": hashed(hash) } })).await;
    let refused = client.hear().await;
    assert_eq!(refused["payload"][0]["extensions"]["code"], "PERSISTED_QUERY_NOT_FOUND", "{refused}");
    let mut stream =
        Reader::post(&gateway, &[("accept", EVENTS)], json!({ "extensions": hashed(hash) })).await;
    let refused = stream.event().await.2;
    assert_eq!(refused["errors"][0]["message"], "PersistedQueryNotFound", "{refused}");

    let hash = crate::operation::persisted_queries::hash(UNREAD);
    client
        .say(json!({ "id": "1", "type": "subscribe", "payload": { "query": UNREAD, "extensions": hashed(&hash) } }))
        .await;
    assert_eq!(client.result("1").await["data"]["unread"]["kind"], "SNAPSHOT");
    client.say(json!({ "id": "2", "type": "subscribe", "payload": { "extensions": hashed(&hash) } })).await;
    assert_eq!(client.result("2").await["data"]["unread"]["kind"], "SNAPSHOT");
    for accept in [EVENTS, PARTS] {
        let headers = [("accept", accept), ("authorization", token.as_str())];
        let mut stream = Reader::post(&gateway, &headers, json!({ "extensions": hashed(&hash) })).await;
        let result =
            if accept == EVENTS { stream.event().await.2 } else { stream.part().await["payload"].take() };
        assert_eq!(result["data"]["unread"]["kind"], "SNAPSHOT");
    }
}
