//! Tests of token renewal on an open socket and of the rate limits, against the state machine and real
//! sockets.

use std::time::Duration;

use proto::{
    DialogId, SessionId, UserId,
    events::{SessionRevoked, UnreadChanged, UnreadRow, event::Kind},
};
use serde_json::{Value, json};

use super::{
    protocol::Action,
    protocol_tests::{INIT, PING, Socket, complete, subscribe},
    subprotocol::Subprotocol,
};
use crate::{
    client::rate_limits::RateLimits,
    testing::{FakeServices, RunningGateway, SocketClient},
};

const NAME: &str = "{ me { name } }";
const UNREAD: &str = "subscription { unread { total } }";

#[test]
fn over_20_messages_per_second_or_a_burst_of_100_close_with_4429() {
    for subprotocol in Subprotocol::ALL {
        let mut socket = Socket::open(subprotocol);
        let stop = complete(subprotocol, "nothing");
        for _ in 0..100 {
            assert!(socket.text(&stop).is_empty());
        }
        let mut steady = Socket::open(subprotocol);
        for _ in 0..100 {
            steady.text(&stop);
        }
        for _ in 0..200 {
            steady.now += Duration::from_millis(50);
            assert!(steady.text(&stop).is_empty(), "20 per second are allowed without end");
        }
        let closed = |actions: &[Action]| match actions {
            [Action::Close(close)] => close.code,
            other => panic!("expected a close: {other:?}"),
        };
        assert_eq!(closed(&socket.text(&stop)), 4429);
        assert_eq!(closed(&steady.text(&subscribe(subprotocol, "1"))), 4429, "every message type counts");
    }
}

#[test]
fn messages_before_the_ack_count_but_connection_init_does_not() {
    let mut early = Socket::new(Subprotocol::GraphqlTransportWs);
    for _ in 0..100 {
        assert_eq!(early.text(PING).len(), 1);
    }
    assert!(matches!(early.text(INIT)[..], [Action::Authenticate(None)]));
    assert!(matches!(&early.text(PING)[..], [Action::Close(close)] if close.code == 4429));
}

impl SocketClient {
    async fn query_with_token(&mut self, query: &str, token: Value) {
        let payload = json!({ "query": query, "extensions": { "authorization": token } });
        self.send(json!({ "id": "1", "type": "subscribe", "payload": payload })).await;
    }

    /// Receives the notice before the expiry of the token and returns the seconds until then.
    pub(super) async fn expiry_notice(&mut self) -> u64 {
        let notice = self.receive().await;
        assert_eq!(notice["type"], "ping", "{notice}");
        notice["payload"]["expiresIn"].as_u64().expect("seconds")
    }

    /// Sends a ping and receives the pong.
    pub(super) async fn is_alive(&mut self) {
        self.send(json!({ "type": "ping" })).await;
        assert_eq!(self.receive().await, json!({ "type": "pong" }));
    }
}

/// Advances the clock of the runtime. Tokens are verified against the system clock, which does not advance.
pub(super) async fn advance(seconds: u64) {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(seconds)).await;
    tokio::time::resume();
}

/// Stops the clock of the runtime until the guard is dropped, for at most 60 s of real time.
pub(super) struct StoppedClock {
    _release: std::sync::mpsc::Sender<()>,
}

impl StoppedClock {
    pub(super) fn stop() -> Self {
        let (release, released) = std::sync::mpsc::channel::<()>();
        tokio::time::pause();
        // A paused clock advances by itself when the runtime is idle, but not while a blocking task runs.
        tokio::task::spawn_blocking(move || released.recv_timeout(Duration::from_secs(60)).ok());
        Self { _release: release }
    }
}

impl Drop for StoppedClock {
    fn drop(&mut self) {
        tokio::time::resume();
    }
}

/// Returns a user's first change: one unread message.
fn first_unread(user: UserId) -> UnreadChanged {
    let row = UnreadRow { dialog_id: DialogId::now().bytes(), unread: 1, ..UnreadRow::default() };
    UnreadChanged { user_id: user.bytes(), epoch: 1, version: 1, previous: 0, rows: vec![row], stale: false }
}

#[tokio::test]
async fn a_flood_closes_a_real_socket_with_4429() {
    let gateway = RunningGateway::start().await;
    let mut client = gateway.sign_in(UserId::now()).await;
    for _ in 0..150 {
        client.send(json!({ "id": "x", "type": "complete" })).await;
    }
    assert_eq!(client.closed().await.0, 4429);
    gateway.stop().await;
}

#[tokio::test]
async fn a_socket_and_its_subscriptions_continue_with_a_newer_token() {
    let gateway = RunningGateway::start().await;
    let user = UserId::now();
    let session = SessionId::now();
    let mut client = gateway.sign_in_with(&gateway.token(user, session, 25)).await;
    assert!((1..=25).contains(&client.expiry_notice().await));
    client.subscribe("u", UNREAD, json!({})).await;
    assert_eq!(client.result("u").await["data"]["unread"]["total"], 0);
    let newer = gateway.token(user, session, 28);
    client.query_with_token(NAME, json!(format!("Bearer {newer}"))).await;
    assert_eq!(client.result("1").await["data"]["me"]["name"], "Ann");
    assert_eq!(client.receive().await, json!({ "id": "1", "type": "complete" }));
    // At the expiry of the old token the new expiry is announced, because it is less than 30 s away too.
    advance(26).await;
    assert!((1..=28).contains(&client.expiry_notice().await));
    gateway.app.log_reader.hubs.unread.apply(&first_unread(user), None).expect("an event");
    assert_eq!(client.result("u").await["data"]["unread"]["total"], 1);
    client.is_alive().await;
    advance(29).await;
    assert_eq!(client.closed().await.0, 4403);
    gateway.stop().await;
}

#[tokio::test]
async fn a_token_that_does_not_renew_the_session_is_rejected_and_the_socket_stays_open() {
    let revoked = SessionId::now();
    let gateway =
        RunningGateway::start_with(FakeServices { revoked: vec![revoked], ..FakeServices::default() }).await;
    let user = UserId::now();
    let session = SessionId::now();
    let current = gateway.token(user, session, 300);
    let mut client = gateway.sign_in_with(&current).await;
    for token in [
        json!("nonsense"),
        json!("Bearer a.b.c"),
        json!(7),
        json!(gateway.token(UserId::now(), session, 600)),
        json!(gateway.token(user, SessionId::now(), 600)),
        json!(gateway.token(user, revoked, 600)),
        json!(gateway.token(user, session, 200)),
        json!(gateway.token(user, session, -10)),
    ] {
        client.query_with_token(NAME, token.clone()).await;
        let rejected = client.receive().await;
        assert_eq!(
            (&rejected["id"], &rejected["type"]),
            (&json!("1"), &json!("error")),
            "{token}: {rejected}"
        );
        assert_eq!(rejected["payload"][0]["extensions"]["code"], "UNAUTHENTICATED", "{token}: {rejected}");
    }
    for token in [json!(current), json!(null), json!(""), json!(gateway.token(user, session, 600))] {
        client.query_with_token(NAME, token).await;
        assert_eq!(client.result("1").await["data"]["me"]["name"], "Ann");
        client.receive().await;
    }
    client.query_with_token(NAME, json!(current)).await;
    assert_eq!(client.receive().await["type"], "error", "the first token is older than the current one now");
    let session_ids = vec![session.bytes()];
    let revoked = SessionRevoked { user_id: user.bytes(), session_ids, expires_at_us: 0 };
    gateway.emit(Kind::SessionRevoked(revoked)).await;
    assert_eq!(client.closed().await.0, 4401, "the renewed token belongs to the revoked session");
    let mut anonymous = gateway.connect().await;
    anonymous.send(json!({ "type": "connection_init" })).await;
    anonymous.receive().await;
    anonymous.query_with_token(NAME, json!(gateway.token(user, SessionId::now(), 300))).await;
    assert_eq!(anonymous.receive().await["payload"][0]["extensions"]["code"], "UNAUTHENTICATED");
    gateway.stop().await;
}

#[tokio::test]
async fn the_calls_of_a_subscription_carry_the_newest_token() {
    let gateway = RunningGateway::start().await;
    let user = UserId::now();
    let session = SessionId::now();
    let mut client = gateway.sign_in_with(&gateway.token(user, session, 300)).await;
    client.subscribe("u", "subscription { unread { changed { dialog { id } } } }", json!({})).await;
    client.receive().await;
    let newer = gateway.token(user, session, 600);
    client.query_with_token(NAME, json!(newer)).await;
    client.result("1").await;
    assert_eq!(gateway.last_authorization().as_deref(), Some(format!("Bearer {newer}").as_str()));
    client.receive().await;
    gateway.calls.lock().clear();
    gateway.app.log_reader.hubs.unread.apply(&first_unread(user), None).expect("an event");
    client.result("u").await;
    assert_eq!((gateway.called("Get"), gateway.last_authorization()), (1, Some(format!("Bearer {newer}"))));
    gateway.stop().await;
}

#[tokio::test]
async fn operations_over_the_rate_limit_are_errors_and_the_socket_stays_open() {
    let limits = RateLimits {
        requests: "1/h:5".parse().expect("valid limit"),
        sign_in_address: "1/h:2".parse().expect("valid limit"),
        ..RateLimits::default()
    };
    let gateway = RunningGateway::start_with(FakeServices { limits, ..FakeServices::default() }).await;
    let user = UserId::now();
    let mut client = gateway.sign_in(user).await;
    for (login, kind, code) in [
        ("ann", "next", "UNAVAILABLE"),
        ("ann", "next", "UNAVAILABLE"),
        ("ann", "error", "RATE_LIMITED"),
        ("bob", "error", "RATE_LIMITED"),
    ] {
        let login = format!(
            "mutation {{ login(input: {{ login: \"{login}\", password: \"x\" }}) {{ accessToken }} }}"
        );
        client.subscribe("1", &login, json!({})).await;
        let answer = client.receive().await;
        assert_eq!(answer["type"], kind, "{answer}");
        let errors = if kind == "error" { &answer["payload"] } else { &answer["payload"]["errors"] };
        assert_eq!(errors[0]["extensions"]["code"], code, "{answer}");
        if kind == "next" {
            assert_eq!(client.receive().await["type"], "complete");
        }
    }
    assert_eq!(gateway.called("Login"), 2, "the limit of the address");
    client.subscribe("2", UNREAD, json!({})).await;
    client.result("2").await;
    for query in ["{ __typename }", UNREAD, "{"] {
        client.subscribe("3", query, json!({})).await;
        let rejected = client.receive().await;
        assert_eq!((&rejected["id"], &rejected["type"]), (&json!("3"), &json!("error")), "{rejected}");
        let extensions = &rejected["payload"][0]["extensions"];
        assert_eq!(extensions["code"], "RATE_LIMITED", "rejected before parsing: {rejected}");
        assert!(extensions["retryAfterMs"].as_u64().is_some_and(|wait_ms| wait_ms > 3_000_000), "{rejected}");
    }
    let mut other = gateway.sign_in(user).await;
    other.subscribe("1", "{ __typename }", json!({})).await;
    assert_eq!(other.receive().await["type"], "error", "all sockets of a user share one limit");
    client.is_alive().await;
    gateway.stop().await;
}
