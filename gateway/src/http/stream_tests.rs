//! Tests of streams over HTTP against a running gateway: the bytes on the wire, and each reason to end one.

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
const MULTIPART: &str = "multipart/mixed;boundary=\"graphql\";subscriptionSpec=1.0,application/json";
const UNREAD: &str = "subscription($since: String) { unread(since: $since) { kind version } }";
/// Longest wait for a chunk. Longer than the heartbeat interval; with the paused clock both pass immediately.
const READ_TIMEOUT: Duration = Duration::from_secs(20);

/// Client of one stream.
struct StreamClient {
    status: StatusCode,
    headers: HeaderMap,
    body: Body,
    text: String,
}

impl StreamClient {
    async fn send(gateway: &RunningGateway, request: Request<Body>) -> Self {
        let response: Response = gateway.app.router().oneshot(request).await.expect("response");
        let (parts, body) = response.into_parts();
        Self { status: parts.status, headers: parts.headers, body, text: String::new() }
    }

    /// Sends a POST request with these additional headers.
    async fn post(gateway: &RunningGateway, headers: &[(&str, &str)], body: Value) -> Self {
        let mut request = Request::post("/graphql").header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Self::send(gateway, request.body(Body::from(body.to_string())).expect("request")).await
    }

    /// Subscribes to the unread counts with this token.
    async fn subscribe(gateway: &RunningGateway, accept: &str, token: &str) -> Self {
        let headers = [("accept", accept), ("authorization", token)];
        Self::post(gateway, &headers, json!({ "query": UNREAD })).await
    }

    /// Reads up to and including this delimiter. The text after it stays buffered.
    async fn until(&mut self, delimiter: &str) -> String {
        loop {
            if let Some(found) = self.text.find(delimiter) {
                let rest = self.text.split_off(found + delimiter.len());
                return std::mem::replace(&mut self.text, rest);
            }
            let frame = timeout(READ_TIMEOUT, self.body.frame()).await.expect("chunk before the timeout");
            let frame =
                frame.unwrap_or_else(|| panic!("the stream has ended: {:?}", self.text)).expect("body frame");
            self.text.push_str(std::str::from_utf8(&frame.into_data().expect("data frame")).expect("UTF-8"));
        }
    }

    /// Reads the next event, skipping comments. Returns its name, id and data.
    async fn event(&mut self) -> (String, Option<String>, Value) {
        loop {
            let text = self.until("\n\n").await;
            let field = |name: &str| {
                let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
                line.map(|value| value.trim().to_owned())
            };
            if let Some(event) = field("event") {
                let data = serde_json::from_str(&field("data").expect("data field")).unwrap_or_default();
                return (event, field("id"), data);
            }
            assert!(text.starts_with(':'), "{text:?}");
        }
    }

    /// Reads the next part, skipping heartbeats.
    async fn part(&mut self) -> Value {
        loop {
            let text = self.until("\r\n--graphql").await;
            let (_, json) =
                text.split_once("\r\ncontent-type: application/json\r\n\r\n").expect("part header");
            let json: Value =
                serde_json::from_str(json.strip_suffix("\r\n--graphql").expect("boundary")).expect("JSON");
            if json != json!({}) {
                return json;
            }
        }
    }

    /// Reads the stream to its end.
    async fn rest(self) -> String {
        let rest = timeout(READ_TIMEOUT, self.body.collect()).await.expect("end of the stream");
        let rest = rest.expect("body").to_bytes();
        self.text + std::str::from_utf8(&rest).expect("UTF-8")
    }

    fn content_type(&self) -> &str {
        self.headers["content-type"].to_str().expect("ASCII header")
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
    UnreadChanged { user_id: user.bytes(), epoch: 1, version, previous: version - 1, rows, stale: false }
}

/// Creates a user with four unread messages in a dialog, at version 4.
fn user_with_unread_messages(gateway: &RunningGateway) -> (UserId, DialogId) {
    let user = UserId::now();
    let dialog = DialogId::now();
    let row = counter::Row { dialog_id: dialog.bytes(), unread: 4, read_seq: 0, last_seq: 4, stale: false };
    gateway.services().unread.insert(user, (4, vec![row]));
    (user, dialog)
}

#[tokio::test]
async fn events_carry_results_and_the_cursor_to_resume_from() {
    let gateway = RunningGateway::start().await;
    let (user, dialog) = user_with_unread_messages(&gateway);
    let token = bearer(&gateway, user, 300);
    let mut stream = StreamClient::subscribe(&gateway, EVENTS, &token).await;
    assert_eq!((stream.status.as_u16(), stream.content_type()), (200, "text/event-stream; charset=utf-8"));
    assert_eq!(stream.headers["cache-control"], "no-store");
    assert_eq!(stream.headers["x-accel-buffering"], "no");
    assert_eq!(stream.until("\n\n").await, ":\n\n", "the first chunk is sent immediately");
    let snapshot = r#"{"data":{"unread":{"kind":"SNAPSHOT","version":"1-4"}},"extensions":{"cursor":"1-4"}}"#;
    assert_eq!(stream.until("\n\n").await, format!("event: next\nid: 1-4\ndata: {snapshot}\n\n"));
    gateway.emit(Kind::UnreadChanged(changed(user, 5, dialog, 1))).await;
    let (event, id, change) = stream.event().await;
    assert_eq!((event.as_str(), id.as_deref()), ("next", Some("1-5")));
    assert_eq!(change["data"]["unread"], json!({ "kind": "CHANGE", "version": "1-5" }));

    // The gateway has seen version 5 and accepts no older snapshot, so the fake counter must have it too.
    let row = counter::Row { dialog_id: dialog.bytes(), unread: 5, read_seq: 0, last_seq: 5, stale: false };
    gateway.services().unread.insert(user, (5, vec![row]));
    let query = format!("/graphql?query={}", "subscription%7Bunread%7Bkind%7D%7D");
    let get = Request::get(query).header("accept", EVENTS).header("authorization", &token);
    let mut get = StreamClient::send(&gateway, get.body(Body::empty()).expect("request")).await;
    assert_eq!(get.event().await.2["data"]["unread"]["kind"], "SNAPSHOT");
}

#[tokio::test]
async fn a_stream_resumes_from_last_event_id_unless_the_operation_has_a_cursor() {
    let gateway = RunningGateway::start().await;
    let (user, _) = user_with_unread_messages(&gateway);
    let token = bearer(&gateway, user, 300);
    for (last, since, kind) in [
        ("1-4", Value::Null, "CURRENT"),
        ("1-3", Value::Null, "SNAPSHOT"),
        ("", Value::Null, "SNAPSHOT"),
        ("1-4", json!("1-3"), "SNAPSHOT"),
        ("1-3", json!("1-4"), "CURRENT"),
        // No version at all is not the newest one.
        ("yesterday", Value::Null, "SNAPSHOT"),
        ("01-4", Value::Null, "SNAPSHOT"),
        ("", json!(""), "SNAPSHOT"),
        ("", json!("0"), "SNAPSHOT"),
        ("", json!("abc"), "SNAPSHOT"),
        ("", json!("01-0"), "SNAPSHOT"),
    ] {
        for accept in [EVENTS, MULTIPART] {
            let headers = [("accept", accept), ("authorization", &token), ("last-event-id", last)];
            let body = json!({ "query": UNREAD, "variables": { "since": since } });
            let mut stream = StreamClient::post(&gateway, &headers, body).await;
            let result =
                if accept == EVENTS { stream.event().await.2 } else { stream.part().await["payload"].take() };
            assert_eq!(result["data"]["unread"]["kind"], kind, "{last} {since} {accept}");
        }
    }
    let headers = [("accept", EVENTS), ("authorization", &token), ("last-event-id", "yesterday")];
    let messages = format!("subscription {{ messages(dialogId: \"{}\") {{ kind }} }}", DialogId::now());
    let mut malformed = StreamClient::post(&gateway, &headers, json!({ "query": messages })).await;
    assert_eq!(malformed.event().await.2["errors"][0]["extensions"]["code"], "BAD_USER_INPUT");
    assert_eq!(malformed.event().await.0, "complete");
}

#[tokio::test]
async fn a_query_as_a_stream_is_one_result_and_the_end() {
    let gateway = RunningGateway::start().await;
    let expected =
        ":\n\nevent: next\ndata: {\"data\":{\"__typename\":\"Query\"}}\n\nevent: complete\ndata:\n\n";
    let answer =
        StreamClient::post(&gateway, &[("accept", EVENTS)], json!({ "query": "{ __typename }" })).await;
    assert_eq!(answer.rest().await, expected);
    let mixed = "application/json, text/event-stream, multipart/mixed";
    let answer =
        StreamClient::post(&gateway, &[("accept", mixed)], json!({ "query": "{ __typename }" })).await;
    assert_eq!(
        answer.rest().await,
        r#"{"data":{"__typename":"Query"}}"#,
        "JSON is preferred if the client accepts it"
    );
    let parts = [("accept", "multipart/mixed;subscriptionSpec=1.0")];
    let mut answer = StreamClient::post(&gateway, &parts, json!({ "query": "{ __typename }" })).await;
    assert_eq!(answer.part().await, json!({ "payload": { "data": { "__typename": "Query" } } }));
    assert_eq!(answer.rest().await, "--\r\n");
}

#[tokio::test]
async fn errors_before_a_stream_are_an_error_status_or_its_only_result() {
    let gateway = RunningGateway::start().await;
    let token = bearer(&gateway, UserId::now(), 300);
    for (query, code) in [
        ("{ nonsense }", "GRAPHQL_VALIDATION_FAILED"),
        (
            r#"subscription{messages(since: "x", dialogId: "0192f0c1-2b3c-7d4e-8f50-616263646566"){kind}}"#,
            "BAD_USER_INPUT",
        ),
        (r#"subscription { messages(dialogId: "nonsense") { kind } }"#, "NOT_FOUND"),
        ("subscription { a: unread { kind } b: unread { kind } }", "GRAPHQL_VALIDATION_FAILED"),
    ] {
        let headers = [("accept", EVENTS), ("authorization", token.as_str())];
        let mut stream = StreamClient::post(&gateway, &headers, json!({ "query": query })).await;
        assert_eq!(stream.status, StatusCode::OK);
        assert_eq!(stream.event().await.2["errors"][0]["extensions"]["code"], code, "{query}");
        assert_eq!(stream.rest().await, "event: complete\ndata:\n\n");
    }
    let mut anonymous =
        StreamClient::post(&gateway, &[("accept", MULTIPART)], json!({ "query": UNREAD })).await;
    assert_eq!(anonymous.part().await["payload"]["errors"][0]["extensions"]["code"], "UNAUTHENTICATED");
    assert_eq!(anonymous.rest().await, "--\r\n");
    for (headers, body, status, code) in [
        (&[][..], json!({ "query": "{" }), 400, "GRAPHQL_PARSE_FAILED"),
        (&[], json!({}), 400, "BAD_REQUEST"),
        (&[], json!([{ "query": "{ __typename }" }]), 406, "BAD_REQUEST"),
        (&[("authorization", "Bearer nonsense")], json!({ "query": UNREAD }), 401, "UNAUTHENTICATED"),
        (&[("x-graphql-event-stream-token", "x")], json!({ "query": UNREAD }), 400, "BAD_REQUEST"),
    ] {
        let headers = [&[("accept", EVENTS)], headers].concat();
        let answer = StreamClient::post(&gateway, &headers, body.clone()).await;
        assert_eq!(answer.status.as_u16(), status, "{body}");
        assert!(answer.content_type().contains("json"), "{}", answer.content_type());
        let json: Value = serde_json::from_str(&answer.rest().await).expect("JSON");
        assert_eq!(json["errors"][0]["extensions"]["code"], code, "{body}");
    }
    for method in ["PUT", "DELETE"] {
        let request = Request::builder().method(method).uri("/graphql").header("accept", EVENTS);
        let answer = StreamClient::send(&gateway, request.body(Body::empty()).expect("request")).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.headers["allow"]),
            (405, &"GET, POST".parse().expect("header value"))
        );
        assert!(answer.rest().await.contains("single connection mode is not supported"));
    }
    let mutation = Request::get("/graphql?query=mutation%7Blogout%7D").header("accept", EVENTS);
    let mutation = StreamClient::send(&gateway, mutation.body(Body::empty()).expect("request")).await;
    assert_eq!(mutation.status.as_u16(), 405);
}

#[tokio::test]
async fn multipart_results_are_wrapped_and_end_with_the_closing_boundary() {
    let gateway = RunningGateway::start().await;
    let user = UserId::now();
    let dialog = DialogId::now();
    {
        let mut services = gateway.services();
        services.caller = Some(user);
        services.members.insert(dialog, vec![(user, 0)]);
        services.dialogs.insert(dialog, (1, Vec::new()));
    }
    let token = bearer(&gateway, user, 300);
    for accept in [MULTIPART, "multipart/mixed;subscriptionSpec=1.0"] {
        let body = json!({ "query": "subscription($id: ID!) { messages(dialogId: $id) { kind } }",
            "variables": { "id": dialog.to_string() } });
        let headers = [("accept", accept), ("authorization", token.as_str())];
        let mut stream = StreamClient::post(&gateway, &headers, body).await;
        assert_eq!(stream.content_type(), "multipart/mixed; boundary=\"graphql\"; subscriptionSpec=1.0");
        let first = "--graphql\r\ncontent-type: application/json\r\n\r\n{}\r\n--graphql";
        assert_eq!(stream.until("{}\r\n--graphql").await, first);
        let payload = stream.part().await["payload"].take();
        assert_eq!(payload["data"]["messages"]["kind"], "CURRENT");
        assert!(payload["extensions"]["cursor"].is_string(), "{payload}");
        if accept == MULTIPART {
            continue;
        }
        let dialog_id = dialog.bytes();
        let user_id = user.bytes();
        gateway.services().members.insert(dialog, Vec::new());
        gateway.emit(Kind::ParticipantLeft(ParticipantLeft { dialog_id, version: 2, user_id })).await;
        assert_eq!(stream.rest().await, "--\r\n", "the stream of a participant who left completes");
    }
}

#[tokio::test]
async fn a_stream_ends_when_its_token_expires() {
    let gateway = RunningGateway::start().await;
    let token = bearer(&gateway, UserId::now(), 2);
    let mut events = StreamClient::subscribe(&gateway, EVENTS, &token).await;
    let mut parts = StreamClient::subscribe(&gateway, MULTIPART, &token).await;
    events.event().await;
    parts.part().await;
    assert_eq!(
        events.rest().await,
        ": the access token has expired\n\n",
        "without `complete`, so the client reconnects"
    );
    let last = parts.part().await;
    assert_eq!(last["payload"], Value::Null);
    assert_eq!(last["errors"][0]["extensions"]["code"], "UNAUTHENTICATED");
    assert_eq!(parts.rest().await, "--\r\n");
}

#[tokio::test]
async fn a_revoked_session_ends_only_its_streams() {
    let gateway = RunningGateway::start().await;
    let user = UserId::now();
    let session = SessionId::now();
    let token = format!("Bearer {}", gateway.token(user, session, 300));
    let mut events = StreamClient::subscribe(&gateway, EVENTS, &token).await;
    let mut parts = StreamClient::subscribe(&gateway, MULTIPART, &token).await;
    let mut other = StreamClient::subscribe(&gateway, EVENTS, &bearer(&gateway, user, 300)).await;
    for stream in [&mut events, &mut other] {
        stream.event().await;
    }
    parts.part().await;
    let session_ids = vec![session.bytes()];
    let revoked = SessionRevoked { user_id: user.bytes(), session_ids, expires_at_us: 0 };
    gateway.emit(Kind::SessionRevoked(revoked)).await;
    assert_eq!(events.rest().await, ": the session has ended, sign in again\n\n");
    assert_eq!(parts.part().await["errors"][0]["extensions"]["code"], "UNAUTHENTICATED");
    gateway.emit(Kind::UnreadChanged(changed(user, 1, DialogId::now(), 1))).await;
    assert_eq!(other.event().await.1.as_deref(), Some("1-1"));
    assert_eq!(StreamClient::subscribe(&gateway, EVENTS, &token).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_stopping_gateway_ends_every_stream_and_rejects_new_ones() {
    let gateway = RunningGateway::start().await;
    let mut streams = Vec::new();
    for _ in 0..10 {
        let mut events =
            StreamClient::subscribe(&gateway, EVENTS, &bearer(&gateway, UserId::now(), 300)).await;
        events.event().await;
        let mut parts =
            StreamClient::subscribe(&gateway, MULTIPART, &bearer(&gateway, UserId::now(), 300)).await;
        parts.part().await;
        streams.push((events, parts));
    }
    let app = gateway.app.clone();
    let token = bearer(&gateway, UserId::now(), 300);
    let stopped = tokio::spawn(gateway.stop());
    for (events, mut parts) in streams {
        assert_eq!(events.rest().await, ": the service is restarting, subscribe again\n\n");
        assert_eq!(parts.part().await["errors"][0]["extensions"]["code"], "UNAVAILABLE");
        assert_eq!(parts.rest().await, "--\r\n");
    }
    stopped.await.expect("stop");
    let late = Request::post("/graphql").header("content-type", "application/json").header("accept", EVENTS);
    let late = late.header("authorization", token).body(Body::from(json!({ "query": UNREAD }).to_string()));
    let late = app.router().oneshot(late.expect("request")).await.expect("response");
    assert_eq!(late.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn streams_count_against_the_socket_quota_of_their_user() {
    let gateway = RunningGateway::start().await;
    let user = UserId::now();
    let token = bearer(&gateway, user, 300);
    let socket = gateway.sign_in(user).await;
    let mut streams = Vec::new();
    for number in 1..20 {
        let accept = if number % 2 == 0 { EVENTS } else { MULTIPART };
        streams.push(StreamClient::subscribe(&gateway, accept, &token).await);
    }
    for accept in [EVENTS, MULTIPART] {
        let more = StreamClient::subscribe(&gateway, accept, &token).await;
        assert_eq!(more.status, StatusCode::TOO_MANY_REQUESTS);
        assert!(more.rest().await.contains("LIMIT_EXCEEDED"));
    }
    let other = StreamClient::subscribe(&gateway, EVENTS, &bearer(&gateway, UserId::now(), 300)).await;
    assert_eq!(other.status, StatusCode::OK, "each user has a separate quota");
    let query =
        StreamClient::post(&gateway, &[("authorization", &token)], json!({ "query": "{ __typename }" }))
            .await;
    assert_eq!(query.status, StatusCode::OK, "a query needs no permit");
    streams.pop();
    testkit::eventually("the permit of the closed stream is released", || async {
        StreamClient::subscribe(&gateway, EVENTS, &token).await.status == StatusCode::OK
    })
    .await;
    drop((streams, socket, other));
}

#[tokio::test]
async fn an_idle_stream_sends_a_heartbeat_every_12_seconds() {
    let gateway = RunningGateway::start().await;
    let token = bearer(&gateway, UserId::now(), 3600);
    let mut events = StreamClient::subscribe(&gateway, EVENTS, &token).await;
    let mut parts = StreamClient::subscribe(&gateway, MULTIPART, &token).await;
    events.event().await;
    parts.part().await;
    tokio::time::pause();
    // The first beat is due 12 s after the result, which was sent before the clock was paused.
    let mut started = None;
    for beat in 0..=3 {
        assert_eq!(events.until("\n\n").await, ":\n\n");
        assert_eq!(
            parts.until("--graphql").await,
            "\r\ncontent-type: application/json\r\n\r\n{}\r\n--graphql"
        );
        let started = started.get_or_insert_with(Instant::now);
        assert_eq!(started.elapsed().as_secs(), beat * 12);
    }
}

#[tokio::test]
async fn a_stalled_stream_is_reset_after_30_seconds_and_delays_no_other() {
    let gauges = Gauges::default();
    let _installed = metrics::set_default_local_recorder(&gauges);
    let gateway = RunningGateway::start().await;
    let user = UserId::now();
    let dialog = DialogId::now();
    let token = bearer(&gateway, user, 3600);
    let query = "subscription { unread { version total changed { dialogId unread } } }";
    let headers = [("accept", EVENTS), ("authorization", token.as_str())];
    let mut stalled = StreamClient::post(&gateway, &headers, json!({ "query": query })).await;
    let mut active = StreamClient::post(&gateway, &headers, json!({ "query": query })).await;
    for stream in [&mut stalled, &mut active] {
        stream.event().await;
    }
    for version in 1..=50 {
        gateway
            .app
            .log_reader
            .hubs
            .unread
            .apply(&changed(user, version, dialog, 1000), None)
            .expect("valid event");
        let (_, id, _) = active.event().await;
        assert_eq!(id, Some(format!("1-{version}")), "a stalled stream does not delay another one");
    }
    assert_eq!(gauges.sum("gateway_streams"), 2.0);
    tokio::time::pause();
    let reading = async {
        loop {
            active.until("\n\n").await;
        }
    };
    tokio::select! {
        () = reading => {}
        () = tokio::time::sleep(Duration::from_secs(31)) => {}
    }
    assert_eq!(gauges.sum("gateway_streams"), 1.0, "only the active stream is left");
    let rest = timeout(READ_TIMEOUT, stalled.body.collect()).await.expect("the end of the stream");
    assert!(rest.is_err(), "the results that it did not read are dropped, and the stream is reset");
}

#[tokio::test]
async fn persisted_queries_work_on_every_transport() {
    let gateway = RunningGateway::start().await;
    let user = UserId::now();
    let token = bearer(&gateway, user, 300);
    let hash = "b9cf7e0c9d9d8e1e2d36d1dbd3ce0f1a0d5b3a2c0a2bb1a0b4f7f0b7d7e6a5c4";
    let hashed = |hash: &str| json!({ "persistedQuery": { "version": 1, "sha256Hash": hash } });
    let mut client = gateway.sign_in(user).await;
    client.send(json!({ "id": "1", "type": "subscribe", "payload": { "extensions": hashed(hash) } })).await;
    let rejected = client.receive().await;
    assert_eq!(rejected["payload"][0]["extensions"]["code"], "PERSISTED_QUERY_NOT_FOUND", "{rejected}");
    let mut stream =
        StreamClient::post(&gateway, &[("accept", EVENTS)], json!({ "extensions": hashed(hash) })).await;
    let rejected = stream.event().await.2;
    assert_eq!(rejected["errors"][0]["message"], "PersistedQueryNotFound", "{rejected}");

    let hash = crate::operation::persisted_queries::hash(UNREAD);
    let payload = json!({ "query": UNREAD, "extensions": hashed(&hash) });
    client.send(json!({ "id": "1", "type": "subscribe", "payload": payload })).await;
    assert_eq!(client.result("1").await["data"]["unread"]["kind"], "SNAPSHOT");
    client.send(json!({ "id": "2", "type": "subscribe", "payload": { "extensions": hashed(&hash) } })).await;
    assert_eq!(client.result("2").await["data"]["unread"]["kind"], "SNAPSHOT");
    for accept in [EVENTS, MULTIPART] {
        let headers = [("accept", accept), ("authorization", token.as_str())];
        let mut stream = StreamClient::post(&gateway, &headers, json!({ "extensions": hashed(&hash) })).await;
        let result =
            if accept == EVENTS { stream.event().await.2 } else { stream.part().await["payload"].take() };
        assert_eq!(result["data"]["unread"]["kind"], "SNAPSHOT");
    }
}
