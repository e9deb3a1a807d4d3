//! Real sockets against a running gateway: the handshake, and every row of the WebSocket table that a machine alone cannot
//! show.

use std::time::Duration;

use futures_util::SinkExt;
use proto::{
    DialogId, SessionId, UserId,
    events::{SessionRevoked, UnreadChanged, UnreadRow, event::Kind},
};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use super::renewal_tests::now_s;
use crate::testing::{Gauges, RunningGateway};

const PROTOCOL: (&str, &str) = ("sec-websocket-protocol", "graphql-transport-ws");
const OLD_PROTOCOL: (&str, &str) = ("sec-websocket-protocol", "graphql-ws");

#[tokio::test]
async fn a_handshake_needs_our_subprotocol_and_an_origin_that_may_come() {
    let gateway = RunningGateway::start().await;
    for (headers, status) in [
        (&[][..], 400),
        (&[("sec-websocket-protocol", "graphql")], 400),
        (&[("sec-websocket-protocol", "mqtt, soap")], 400),
        (&[PROTOCOL, ("origin", "https://evil.example")], 403),
        (&[PROTOCOL, ("origin", "null")], 403),
        (&[OLD_PROTOCOL, ("origin", "https://evil.example")], 403),
    ] {
        assert_eq!(gateway.open(headers).await.err(), Some(status), "{headers:?}");
    }
    for headers in [
        &[PROTOCOL][..],
        &[PROTOCOL, ("origin", "https://app.example")],
        &[("sec-websocket-protocol", "other, graphql-transport-ws")],
        &[OLD_PROTOCOL],
    ] {
        assert!(gateway.open(headers).await.is_ok(), "{headers:?}");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn the_token_comes_with_connection_init_or_with_the_handshake() {
    let gateway = RunningGateway::start().await;
    let token = gateway.token(UserId::now(), SessionId::now(), 300);
    for payload in [
        json!({ "authorization": token }),
        json!({ "AUTHORIZATION": format!("Bearer {token}") }),
        json!({ "authToken": token }),
    ] {
        let mut client = gateway.connect().await;
        client.say(json!({ "type": "connection_init", "payload": payload })).await;
        assert_eq!(client.hear().await["type"], "connection_ack");
    }
    let header = format!("Bearer {token}");
    let mut client = gateway.open(&[PROTOCOL, ("authorization", header.as_str())]).await.expect("a socket");
    client.say(json!({ "type": "connection_init" })).await;
    assert_eq!(client.hear().await["type"], "connection_ack");
    client.subscribe("1", "{ me { name } }", json!({})).await;
    assert_eq!(client.result("1").await["data"]["me"]["name"], "somebody");
}

#[tokio::test]
async fn a_bad_token_closes_with_4403_and_nobody_at_all_may_come() {
    let gateway = RunningGateway::start().await;
    let expired = gateway.token(UserId::now(), SessionId::now(), -10);
    for token in [json!("nonsense"), json!(expired), json!(7), json!({}), json!("Bearer a.b.c")] {
        let mut client = gateway.connect().await;
        client.say(json!({ "type": "connection_init", "payload": { "authorization": token } })).await;
        assert_eq!(client.closed().await.0, 4403, "{token}");
    }
    let mut nobody = gateway.connect().await;
    nobody.say(json!({ "type": "connection_init" })).await;
    assert_eq!(nobody.hear().await["type"], "connection_ack");
    nobody.subscribe("1", "{ __typename }", json!({})).await;
    assert_eq!(nobody.result("1").await["data"]["__typename"], "Query");
    assert_eq!(nobody.hear().await, json!({ "id": "1", "type": "complete" }));
    nobody.subscribe("2", "subscription { unread { total } }", json!({})).await;
    let refused = nobody.hear().await;
    assert_eq!(
        (&refused["type"], &refused["payload"][0]["extensions"]["code"]),
        (&json!("error"), &json!("UNAUTHENTICATED"))
    );
}

#[tokio::test]
async fn no_connection_init_closes_with_4408_and_what_comes_too_soon_with_4401() {
    let gateway = RunningGateway::start().await;
    let mut silent = gateway.connect().await;
    let mut hasty = gateway.connect().await;
    hasty.subscribe("1", "{ __typename }", json!({})).await;
    assert_eq!(hasty.closed().await.0, 4401);
    let begun = std::time::Instant::now();
    assert_eq!(silent.closed().await.0, 4408);
    assert!(begun.elapsed() < Duration::from_secs(4));
}

#[tokio::test]
async fn frames_that_are_no_messages_close_with_their_codes() {
    let gateway = RunningGateway::start().await;
    let big = "x".repeat(64 * 1024 + 1);
    for (frame, code) in [
        (Message::text("hello"), 4400),
        (Message::binary(vec![1, 2, 3]), 4400),
        (Message::text(big.clone()), 1009),
        (Message::binary(big.into_bytes()), 1009),
        (Message::text(r#"{"type":"connection_init"}"#), 4429),
    ] {
        let mut client = gateway.sign_in(UserId::now()).await;
        client.socket.send(frame).await.expect("sent");
        let (told, reason) = client.closed().await;
        assert_eq!(told, code, "{reason}");
        assert!(reason.len() < 100);
    }
}

#[tokio::test]
async fn a_document_that_is_refused_is_an_error_with_an_array() {
    let gateway = RunningGateway::start().await;
    let mut client = gateway.sign_in(UserId::now()).await;
    for (query, code) in [
        ("{", "GRAPHQL_PARSE_FAILED"),
        ("{ nonsense }", "GRAPHQL_VALIDATION_FAILED"),
        ("subscription { unread { nonsense } }", "GRAPHQL_VALIDATION_FAILED"),
        ("subscription { a: unread { total } b: unread { total } }", "GRAPHQL_VALIDATION_FAILED"),
        ("subscription { unread @skip(if: true) { total } }", "GRAPHQL_VALIDATION_FAILED"),
        (r#"subscription { unread(since: "yesterday") { total } }"#, "BAD_USER_INPUT"),
        (r#"subscription { messages(dialogId: "nonsense") { version } }"#, "NOT_FOUND"),
        (r#"subscription { readStates(dialogId: "nonsense") { readSeq } }"#, "NOT_FOUND"),
    ] {
        client.subscribe("1", query, json!({})).await;
        let refused = client.hear().await;
        assert_eq!((&refused["id"], &refused["type"]), (&json!("1"), &json!("error")), "{refused}");
        assert_eq!(refused["payload"][0]["extensions"]["code"], code, "{refused}");
    }
}

#[tokio::test]
async fn after_complete_nothing_comes_and_an_id_in_use_closes_with_4409() {
    let gateway = RunningGateway::start().await;
    let user = UserId::now();
    let mut client = gateway.sign_in(user).await;
    client.subscribe("1", "subscription { unread { kind } }", json!({})).await;
    assert_eq!(client.result("1").await["data"]["unread"]["kind"], "SNAPSHOT");
    client.say(json!({ "id": "1", "type": "complete" })).await;
    client.is_quiet().await;
    client.subscribe("1", "subscription { unread { kind } }", json!({})).await;
    client.result("1").await;
    client.subscribe("1", "{ __typename }", json!({})).await;
    assert_eq!(client.closed().await.0, 4409);
}

#[tokio::test]
async fn the_users_21st_socket_closes_with_4429_and_a_seat_is_given_back() {
    let gateway = RunningGateway::start().await;
    let user = UserId::now();
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(gateway.sign_in(user).await);
    }
    let token = gateway.token(user, SessionId::now(), 300);
    let mut more = gateway.connect().await;
    more.say(json!({ "type": "connection_init", "payload": { "authToken": token } })).await;
    assert_eq!(more.closed().await.0, 4429);
    gateway.sign_in(UserId::now()).await;
    let mut last = clients.pop().expect("twenty");
    last.socket.close(None).await.expect("closed");
    testkit::eventually("the seat is free", || async {
        let mut client = gateway.connect().await;
        client.say(json!({ "type": "connection_init", "payload": { "authToken": token } })).await;
        client.is_acknowledged().await
    })
    .await;
}

#[tokio::test]
async fn the_51st_operation_is_refused_and_the_socket_lives() {
    let gateway = RunningGateway::start().await;
    let mut client = gateway.sign_in(UserId::now()).await;
    for number in 0..50 {
        let id = number.to_string();
        client.subscribe(&id, "subscription { unread { kind } }", json!({})).await;
        client.result(&id).await;
    }
    client.subscribe("more", "{ __typename }", json!({})).await;
    let refused = client.hear().await;
    assert_eq!(
        (&refused["id"], &refused["payload"][0]["extensions"]["code"]),
        (&json!("more"), &json!("LIMIT_EXCEEDED"))
    );
    client.say(json!({ "type": "ping" })).await;
    assert_eq!(client.hear().await, json!({ "type": "pong" }));
}

#[tokio::test]
async fn a_token_that_expires_is_announced_and_closes_with_4403() {
    let gateway = RunningGateway::start().await;
    let (token, ends_s) = gateway.token_and_its_end(UserId::now(), SessionId::now(), 2);
    let mut client = gateway.sign_in_with(&token).await;
    let notice = client.hear().await;
    assert_eq!(notice["type"], "ping");
    assert!((1..=2).contains(&notice["payload"]["expiresIn"].as_i64().expect("seconds")), "{notice}");
    assert_eq!(client.closed().await.0, 4403);
    let late_s = now_s() - ends_s;
    assert!(late_s.abs() < 1.0, "a second early or late at most: {late_s}");
}

#[tokio::test]
async fn a_revoked_session_closes_its_sockets_with_4401_and_no_others() {
    let gateway = RunningGateway::start().await;
    let (user, session) = (UserId::now(), SessionId::now());
    let token = gateway.token(user, session, 300);
    let mut clients = [gateway.sign_in_with(&token).await, gateway.sign_in_with(&token).await];
    let mut other = gateway.sign_in(user).await;
    gateway
        .emit(Kind::SessionRevoked(SessionRevoked {
            user_id: user.bytes(),
            session_ids: vec![session.bytes()],
        }))
        .await;
    for client in &mut clients {
        assert_eq!(client.closed().await.0, 4401);
    }
    other.is_quiet().await;
    let mut late = gateway.connect().await;
    late.say(json!({ "type": "connection_init", "payload": { "authToken": token } })).await;
    assert_eq!(late.closed().await.0, 4403, "its token is not valid any more");
}

#[tokio::test]
async fn sessions_revoked_before_the_start_are_known_when_the_gateway_is_ready() {
    let session = SessionId::now();
    let gateway = RunningGateway::start_with(crate::testing::FakeServices {
        revoked: vec![session],
        ..Default::default()
    })
    .await;
    let token = gateway.token(UserId::now(), session, 300);
    let mut client = gateway.connect().await;
    client.say(json!({ "type": "connection_init", "payload": { "authToken": token } })).await;
    assert_eq!(client.closed().await.0, 4403);
}

#[tokio::test]
async fn a_gateway_that_stops_closes_every_socket_with_1012_within_the_window() {
    let gateway = RunningGateway::start().await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = gateway.sign_in(UserId::now()).await;
        client.subscribe("1", "subscription { unread { kind } }", json!({})).await;
        client.result("1").await;
        clients.push(client);
    }
    clients.push(gateway.connect().await);
    let stopped = tokio::spawn(gateway.stop());
    let begun = std::time::Instant::now();
    let closes = clients.iter_mut().map(|client| async move { (client.closed().await.0, begun.elapsed()) });
    let closes = futures_util::future::join_all(closes).await;
    assert!(closes.iter().all(|(code, _)| *code == 1012), "{closes:?}");
    // Each has a moment of its own: that all 21 fall into one half of the window happens once in a million runs.
    let early = closes.iter().filter(|(_, after)| *after < Duration::from_millis(150)).count();
    assert!((1..=20).contains(&early), "spread over the window: {closes:?}");
    drop(clients);
    stopped.await.expect("it stops");
}

#[tokio::test]
async fn everything_is_back_to_zero_when_the_last_socket_is_gone() {
    let gauges = Gauges::default();
    let _installed = metrics::set_default_local_recorder(&gauges);
    let gateway = RunningGateway::start().await;
    let (user, dialog) = (UserId::now(), DialogId::now());
    {
        let mut services = gateway.services();
        services.caller = Some(user);
        services.members.insert(dialog, vec![(user, 0)]);
        services.dialogs.insert(dialog, (1, Vec::new()));
    }
    let mut clients = Vec::new();
    for _ in 0..5 {
        let mut client = gateway.sign_in(user).await;
        let id = json!({ "id": dialog.to_string() });
        client.subscribe("u", "subscription { unread { total } }", json!({})).await;
        client.result("u").await;
        client
            .subscribe("m", "subscription($id: ID!) { messages(dialogId: $id) { kind } }", id.clone())
            .await;
        client.result("m").await;
        client.subscribe("r", "subscription($id: ID!) { readStates(dialogId: $id) { readSeq } }", id).await;
        client.result("r").await;
        clients.push(client);
    }
    let names = ["gateway_sockets", "gateway_subscriptions", "gateway_hub_users", "gateway_hub_dialogs"];
    assert_eq!(names.map(|name| gauges.sum(name)), [5.0, 15.0, 1.0, 1.0]);
    clients[0].say(json!({ "id": "u", "type": "complete" })).await;
    testkit::eventually("a stream is gone", || async { gauges.sum("gateway_subscriptions") == 14.0 }).await;
    let abrupt = clients.pop().expect("a client");
    drop(abrupt);
    for client in &mut clients {
        client.socket.close(None).await.expect("closed");
    }
    testkit::eventually("nothing is left", || async { names.iter().all(|name| gauges.sum(name) == 0.0) })
        .await;
    gateway.stop().await;
}

/// A change of a thousand rows: about 80 kB on the wire.
fn large(user: UserId, version: i64) -> UnreadChanged {
    let row = |number: u128| UnreadRow {
        dialog_id: DialogId::new(uuid::Uuid::from_u128(number)).bytes(),
        unread: version,
        was: version - 1,
        ..UnreadRow::default()
    };
    let rows = (0..1000).map(row).collect();
    UnreadChanged { user_id: user.bytes(), epoch: 1, version, previous: version - 1, rows }
}

#[tokio::test]
async fn a_client_that_does_not_read_delays_nobody_and_is_let_go() {
    let gauges = Gauges::default();
    let _installed = metrics::set_default_local_recorder(&gauges);
    let gateway = RunningGateway::start().await;
    let user = UserId::now();
    let query = "subscription { unread { version total changed { dialogId unread } } }";
    let token = gateway.token(user, SessionId::now(), 3600);
    let mut stalled = gateway.sign_in_with(&token).await;
    let mut reader = gateway.sign_in_with(&token).await;
    for client in [&mut stalled, &mut reader] {
        client.subscribe("u", query, json!({})).await;
        client.result("u").await;
    }
    let mut version = 0;
    // Until what lies between the two ends is full; frames are merged meanwhile, so nobody can say when that is.
    while gauges.sum("gateway_sockets") == 2.0 {
        assert!(version < 20_000, "it is never let go");
        for _ in 0..200 {
            version += 1;
            gateway.app.log_reader.hubs.unread.apply(&large(user, version)).expect("an event");
            let frame = reader.result("u").await;
            assert_eq!(frame["data"]["unread"]["total"], version * 1000, "nobody waits for the other");
            // Both are heard all the time, so that silence is not what ends them, however slow the machine is. One that
            // is let go just now hears nothing more.
            for client in [&mut stalled, &mut reader] {
                drop(client.socket.send(Message::text(r#"{"type":"pong"}"#)).await);
            }
        }
        reader.say(json!({ "type": "ping" })).await;
        while reader.hear().await != json!({ "type": "pong" }) {}
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(31)).await;
        tokio::time::resume();
        // It may take a moment to notice.
        for _ in 0..20 {
            if gauges.sum("gateway_sockets") == 2.0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
    assert_eq!(stalled.closed().await.0, 1013, "should it read again at once, it hears why");
    gateway.stop().await;
}

#[tokio::test]
async fn sockets_of_nobody_have_a_bound_and_those_who_sign_in_make_room() {
    let gateway = RunningGateway::start().await;
    let mut waiting = Vec::new();
    for _ in 0..100 {
        waiting.push(gateway.connect().await);
    }
    assert_eq!(gateway.open(&[PROTOCOL]).await.err(), Some(503), "the 101st");
    let token = gateway.token(UserId::now(), SessionId::now(), 300);
    let mut known = waiting.pop().expect("a socket");
    known.say(json!({ "type": "connection_init", "payload": { "authToken": token } })).await;
    assert_eq!(known.hear().await["type"], "connection_ack");
    let mut nobody = gateway.connect().await;
    nobody.say(json!({ "type": "connection_init" })).await;
    assert_eq!(nobody.hear().await["type"], "connection_ack");
    assert_eq!(gateway.open(&[PROTOCOL]).await.err(), Some(503), "one who stays nobody keeps the place");
    drop(nobody);
    testkit::eventually("a place is free", || async { gateway.open(&[PROTOCOL]).await.is_ok() }).await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_header_of_the_handshake_that_holds_no_token_of_ours_closes_with_4403() {
    let gateway = RunningGateway::start().await;
    for header in ["Basic YW5uOng=", "Token x", "Bearer x", "Bearer a b"] {
        let mut client = gateway.open(&[PROTOCOL, ("authorization", header)]).await.expect("a socket");
        client.say(json!({ "type": "connection_init" })).await;
        assert_eq!(client.closed().await.0, 4403, "{header}");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn a_panic_ends_its_operation_and_not_the_socket() {
    let gateway = RunningGateway::start().await;
    gateway.services().broken.insert("Users");
    let mut client = gateway.sign_in(UserId::now()).await;
    client.subscribe("1", "{ me { name } }", json!({})).await;
    let result = client.result("1").await;
    assert_eq!(result["errors"][0]["extensions"]["code"], "INTERNAL", "{result}");
    assert!(
        result["errors"][0]["extensions"]["requestId"].is_string() && !result.to_string().contains("secret")
    );
    assert_eq!(client.hear().await, json!({ "id": "1", "type": "complete" }));
    gateway.services().broken.clear();
    client.subscribe("1", "{ me { name } }", json!({})).await;
    assert_eq!(client.result("1").await["data"]["me"]["name"], "somebody");
    gateway.stop().await;
}
