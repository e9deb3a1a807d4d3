//! A newer token on a socket that is open, and how fast clients may speak: the machine, and real sockets.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proto::{
    DialogId, SessionId, UserId,
    events::{SessionRevoked, UnreadChanged, UnreadRow, event::Kind},
};
use serde_json::{Value, json};

use super::{
    protocol::{Action, Input},
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
fn over_20_messages_a_second_and_100_at_once_close_with_4429() {
    for subprotocol in Subprotocol::ALL {
        let mut socket = Socket::open(subprotocol);
        let stop = complete(subprotocol, "nothing");
        for _ in 0..100 {
            assert!(socket.text(&stop).is_empty());
        }
        let mut patient = Socket::open(subprotocol);
        for _ in 0..100 {
            patient.text(&stop);
        }
        for _ in 0..200 {
            patient.now += Duration::from_millis(50);
            assert!(patient.text(&stop).is_empty(), "20 a second are allowed for ever");
        }
        let closed = |actions: &[Action]| match actions {
            [Action::Close(close)] => close.code,
            other => panic!("not closed: {other:?}"),
        };
        assert_eq!(closed(&socket.text(&stop)), 4429);
        assert_eq!(closed(&patient.text(&subscribe(subprotocol, "1"))), 4429, "whatever is said counts");
    }
}

#[test]
fn what_is_said_before_the_acknowledgement_counts_too_and_pongs_and_the_first_word_do_not() {
    let mut eager = Socket::new(Subprotocol::New);
    for _ in 0..100 {
        assert_eq!(eager.text(PING).len(), 1);
    }
    for _ in 0..1000 {
        assert!(eager.text(r#"{"type":"pong"}"#).is_empty());
        assert!(eager.handle(Input::Control).is_empty());
    }
    assert!(matches!(eager.text(INIT)[..], [Action::Authenticate(None)]));
    assert!(matches!(&eager.text(PING)[..], [Action::Close(close)] if close.code == 4429));
}

impl SocketClient {
    async fn ask_with(&mut self, query: &str, token: Value) {
        let payload = json!({ "query": query, "extensions": { "authorization": token } });
        self.say(json!({ "id": "1", "type": "subscribe", "payload": payload })).await;
    }
}

impl RunningGateway {
    /// A token, and when it ends in seconds since the epoch.
    pub(super) fn token_and_its_end(
        &self,
        user: UserId,
        session: SessionId,
        lifetime_s: i64,
    ) -> (String, f64) {
        loop {
            let (before_s, token) = (crate::client::caller::now_s(), self.token(user, session, lifetime_s));
            if crate::client::caller::now_s() == before_s {
                return (token, (before_s + lifetime_s) as f64);
            }
        }
    }
}

/// Seconds since the epoch.
pub(super) fn now_s() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after the epoch").as_secs_f64()
}

/// The first message that this person has not read.
fn one_more(user: UserId) -> UnreadChanged {
    let row = UnreadRow { dialog_id: DialogId::now().bytes(), unread: 1, ..UnreadRow::default() };
    UnreadChanged { user_id: user.bytes(), epoch: 1, version: 1, previous: 0, rows: vec![row] }
}

#[tokio::test]
async fn a_flood_closes_a_real_socket_with_4429() {
    let gateway = RunningGateway::start().await;
    let mut client = gateway.sign_in(UserId::now()).await;
    for _ in 0..150 {
        client.say(json!({ "id": "x", "type": "complete" })).await;
    }
    assert_eq!(client.closed().await.0, 4429);
    gateway.stop().await;
}

#[tokio::test]
async fn a_socket_lives_on_with_a_newer_token_and_so_do_its_subscriptions() {
    let gateway = RunningGateway::start().await;
    let (user, session) = (UserId::now(), SessionId::now());
    let mut client = gateway.sign_in_with(&gateway.token(user, session, 3)).await;
    let told = client.hear().await;
    assert!(told["payload"]["expiresIn"].as_u64().is_some_and(|left_s| (2..=3).contains(&left_s)), "{told}");
    client.subscribe("u", UNREAD, json!({})).await;
    assert_eq!(client.result("u").await["data"]["unread"]["total"], 0);
    let (newer, ends_s) = gateway.token_and_its_end(user, session, 6);
    client.ask_with(NAME, json!(format!("Bearer {newer}"))).await;
    assert_eq!(client.result("1").await["data"]["me"]["name"], "somebody");
    assert_eq!(client.hear().await, json!({ "id": "1", "type": "complete" }));
    // When the old one ends the new end is announced: it is less than 30 seconds away too.
    let told = client.hear().await;
    assert!(told["payload"]["expiresIn"].as_u64().is_some_and(|left_s| (2..=4).contains(&left_s)), "{told}");
    gateway.app.log_reader.hubs.unread.apply(&one_more(user)).expect("an event");
    assert_eq!(client.result("u").await["data"]["unread"]["total"], 1);
    assert_eq!(client.closed().await.0, 4403);
    let late_s = now_s() - ends_s;
    assert!(late_s.abs() < 1.0, "a second early or late at most: {late_s}");
    gateway.stop().await;
}

#[tokio::test]
async fn a_token_that_is_no_newer_one_of_this_session_is_refused_and_the_socket_lives() {
    let over = SessionId::now();
    let gateway =
        RunningGateway::start_with(FakeServices { revoked: vec![over], ..FakeServices::default() }).await;
    let (user, session) = (UserId::now(), SessionId::now());
    let own = gateway.token(user, session, 300);
    let mut client = gateway.sign_in_with(&own).await;
    for token in [
        json!("nonsense"),
        json!("Bearer a.b.c"),
        json!(7),
        json!(gateway.token(UserId::now(), session, 600)),
        json!(gateway.token(user, SessionId::now(), 600)),
        json!(gateway.token(user, over, 600)),
        json!(gateway.token(user, session, 200)),
        json!(gateway.token(user, session, -10)),
    ] {
        client.ask_with(NAME, token.clone()).await;
        let refused = client.hear().await;
        assert_eq!((&refused["id"], &refused["type"]), (&json!("1"), &json!("error")), "{token}: {refused}");
        assert_eq!(refused["payload"][0]["extensions"]["code"], "UNAUTHENTICATED", "{token}: {refused}");
    }
    for token in [json!(own), json!(null), json!(""), json!(gateway.token(user, session, 600))] {
        client.ask_with(NAME, token).await;
        assert_eq!(client.result("1").await["data"]["me"]["name"], "somebody");
        client.hear().await;
    }
    client.ask_with(NAME, json!(own)).await;
    assert_eq!(client.hear().await["type"], "error", "the first one is older now");
    let session_ids = vec![session.bytes()];
    gateway.emit(Kind::SessionRevoked(SessionRevoked { user_id: user.bytes(), session_ids })).await;
    assert_eq!(client.closed().await.0, 4401, "the session is the same as before");
    let mut nobody = gateway.connect().await;
    nobody.say(json!({ "type": "connection_init" })).await;
    nobody.hear().await;
    nobody.ask_with(NAME, json!(gateway.token(user, SessionId::now(), 300))).await;
    assert_eq!(nobody.hear().await["payload"][0]["extensions"]["code"], "UNAUTHENTICATED");
    gateway.stop().await;
}

#[tokio::test]
async fn the_calls_of_a_subscription_carry_the_newest_token() {
    let gateway = RunningGateway::start().await;
    let (user, session) = (UserId::now(), SessionId::now());
    let mut client = gateway.sign_in_with(&gateway.token(user, session, 300)).await;
    client.subscribe("u", "subscription { unread { changed { dialog { id } } } }", json!({})).await;
    client.hear().await;
    let newer = gateway.token(user, session, 600);
    client.ask_with(NAME, json!(newer)).await;
    client.result("1").await;
    assert_eq!(gateway.shown().as_deref(), Some(format!("Bearer {newer}").as_str()));
    client.hear().await;
    gateway.calls.lock().clear();
    gateway.app.log_reader.hubs.unread.apply(&one_more(user)).expect("an event");
    client.result("u").await;
    assert_eq!((gateway.called("Get"), gateway.shown()), (1, Some(format!("Bearer {newer}"))));
    gateway.stop().await;
}

#[tokio::test]
async fn operations_that_come_too_soon_are_an_error_of_their_own_and_the_socket_lives() {
    let limits = RateLimits {
        requests: "1/h:5".parse().expect("a limit"),
        sign_in_login: "1/h:2".parse().expect("a limit"),
        ..RateLimits::default()
    };
    let gateway = RunningGateway::start_with(FakeServices { limits, ..FakeServices::default() }).await;
    let user = UserId::now();
    let mut client = gateway.sign_in(user).await;
    for (login, kind, code) in [
        ("ann", "next", "UNAVAILABLE"),
        ("ann", "next", "UNAVAILABLE"),
        ("ann", "error", "RATE_LIMITED"),
        ("bob", "next", "UNAVAILABLE"),
    ] {
        let login = format!(
            "mutation {{ login(input: {{ login: \"{login}\", password: \"x\" }}) {{ accessToken }} }}"
        );
        client.subscribe("1", &login, json!({})).await;
        let answer = client.hear().await;
        assert_eq!(answer["type"], kind, "{answer}");
        let errors = if kind == "error" { &answer["payload"] } else { &answer["payload"]["errors"] };
        assert_eq!(errors[0]["extensions"]["code"], code, "{answer}");
        if kind == "next" {
            assert_eq!(client.hear().await["type"], "complete");
        }
    }
    assert_eq!(gateway.called("Login"), 3, "ann twice, and bob");
    client.subscribe("2", UNREAD, json!({})).await;
    client.result("2").await;
    for query in ["{ __typename }", UNREAD, "{"] {
        client.subscribe("3", query, json!({})).await;
        let refused = client.hear().await;
        assert_eq!((&refused["id"], &refused["type"]), (&json!("3"), &json!("error")), "{refused}");
        let extensions = &refused["payload"][0]["extensions"];
        assert_eq!(extensions["code"], "RATE_LIMITED", "before it is parsed: {refused}");
        assert!(extensions["retryAfterMs"].as_u64().is_some_and(|wait_ms| wait_ms > 3_000_000), "{refused}");
    }
    let mut other = gateway.sign_in(user).await;
    other.subscribe("1", "{ __typename }", json!({})).await;
    assert_eq!(other.hear().await["type"], "error", "one limit for all sockets of a person");
    client.say(json!({ "type": "ping" })).await;
    assert_eq!(client.hear().await, json!({ "type": "pong" }));
    gateway.stop().await;
}
