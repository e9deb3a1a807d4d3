//! Tests with real sockets against a running gateway: the handshake, and the rows of the table in
//! docs/protocol.md#websocket that the state machine does not decide.

use std::time::Duration;

use futures_util::SinkExt;
use proto::{
    DialogId, SessionId, UserId,
    events::{SessionRevoked, UnreadChanged, UnreadRow, event::Kind},
};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use super::renewal_tests::{StoppedClock, advance};
use crate::testing::{Gauges, RunningGateway};

const GRAPHQL_TRANSPORT_WS: (&str, &str) = ("sec-websocket-protocol", "graphql-transport-ws");
const GRAPHQL_WS: (&str, &str) = ("sec-websocket-protocol", "graphql-ws");

#[tokio::test]
async fn a_handshake_needs_a_supported_subprotocol_and_an_allowed_origin() {
    let gateway = RunningGateway::start().await;
    for (headers, status) in [
        (&[][..], 400),
        (&[("sec-websocket-protocol", "graphql")], 400),
        (&[("sec-websocket-protocol", "mqtt, soap")], 400),
        (&[GRAPHQL_TRANSPORT_WS, ("origin", "https://evil.example")], 403),
        (&[GRAPHQL_TRANSPORT_WS, ("origin", "null")], 403),
        (&[GRAPHQL_WS, ("origin", "https://evil.example")], 403),
    ] {
        assert_eq!(gateway.open(headers).await.err(), Some(status), "{headers:?}");
    }
    for headers in [
        &[GRAPHQL_TRANSPORT_WS][..],
        &[GRAPHQL_TRANSPORT_WS, ("origin", "https://app.example")],
        &[("sec-websocket-protocol", "other, graphql-transport-ws")],
        &[GRAPHQL_WS],
    ] {
        assert!(gateway.open(headers).await.is_ok(), "{headers:?}");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn the_token_is_in_connection_init_or_in_the_handshake() {
    let gateway = RunningGateway::start().await;
    let token = gateway.token(UserId::now(), SessionId::now(), 300);
    for payload in [
        json!({ "authorization": token }),
        json!({ "AUTHORIZATION": format!("Bearer {token}") }),
        json!({ "authToken": token }),
    ] {
        let mut client = gateway.connect().await;
        client.send(json!({ "type": "connection_init", "payload": payload })).await;
        assert_eq!(client.receive().await["type"], "connection_ack");
    }
    let header = format!("Bearer {token}");
    let mut client =
        gateway.open(&[GRAPHQL_TRANSPORT_WS, ("authorization", header.as_str())]).await.expect("a socket");
    client.send(json!({ "type": "connection_init" })).await;
    assert_eq!(client.receive().await["type"], "connection_ack");
    client.subscribe("1", "{ me { name } }", json!({})).await;
    assert_eq!(client.result("1").await["data"]["me"]["name"], "Ann");
}

#[tokio::test]
async fn an_invalid_token_closes_with_4403_and_anonymous_clients_are_accepted() {
    let gateway = RunningGateway::start().await;
    let expired = gateway.token(UserId::now(), SessionId::now(), -10);
    for token in [
        json!("nonsense"),
        json!(expired),
        json!(7),
        json!({}),
        json!("Bearer a.b.c"),
        json!("Bearer "),
        json!(" "),
    ] {
        let mut client = gateway.connect().await;
        client.send(json!({ "type": "connection_init", "payload": { "authorization": token } })).await;
        assert_eq!(client.closed().await.0, 4403, "{token}");
    }
    let mut anonymous = gateway.connect().await;
    anonymous.send(json!({ "type": "connection_init" })).await;
    assert_eq!(anonymous.receive().await["type"], "connection_ack");
    anonymous.subscribe("1", "{ __typename }", json!({})).await;
    assert_eq!(anonymous.result("1").await["data"]["__typename"], "Query");
    assert_eq!(anonymous.receive().await, json!({ "id": "1", "type": "complete" }));
    anonymous.subscribe("2", "subscription { unread { total } }", json!({})).await;
    let rejected = anonymous.receive().await;
    assert_eq!(
        (&rejected["type"], &rejected["payload"][0]["extensions"]["code"]),
        (&json!("error"), &json!("UNAUTHENTICATED"))
    );
}

#[tokio::test]
async fn a_missing_connection_init_closes_with_4408_and_an_early_operation_with_4401() {
    let gateway = RunningGateway::start().await;
    let mut silent = gateway.connect().await;
    let mut early = gateway.connect().await;
    early.subscribe("1", "{ __typename }", json!({})).await;
    assert_eq!(early.closed().await.0, 4401);
    assert_eq!(silent.closed().await.0, 4408);
}

#[tokio::test]
async fn malformed_frames_close_with_their_codes() {
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
        let (close_code, reason) = client.closed().await;
        assert_eq!(close_code, code, "{reason}");
        assert!(reason.len() < 100);
    }
}

#[tokio::test]
async fn a_rejected_document_is_an_error_with_an_array() {
    let gateway = RunningGateway::start().await;
    let mut client = gateway.sign_in(UserId::now()).await;
    for (query, code) in [
        ("{", "GRAPHQL_PARSE_FAILED"),
        ("{ nonsense }", "GRAPHQL_VALIDATION_FAILED"),
        ("subscription { unread { nonsense } }", "GRAPHQL_VALIDATION_FAILED"),
        ("subscription { a: unread { total } b: unread { total } }", "GRAPHQL_VALIDATION_FAILED"),
        ("subscription { unread @skip(if: true) { total } }", "GRAPHQL_VALIDATION_FAILED"),
        (
            r#"subscription{messages(since: "x", dialogId: "0192f0c1-2b3c-7d4e-8f50-616263646566"){kind}}"#,
            "BAD_USER_INPUT",
        ),
        (r#"subscription { messages(dialogId: "nonsense") { version } }"#, "NOT_FOUND"),
        (r#"subscription { readStates(dialogId: "nonsense") { readSeq } }"#, "NOT_FOUND"),
    ] {
        client.subscribe("1", query, json!({})).await;
        let rejected = client.receive().await;
        assert_eq!((&rejected["id"], &rejected["type"]), (&json!("1"), &json!("error")), "{rejected}");
        assert_eq!(rejected["payload"][0]["extensions"]["code"], code, "{rejected}");
    }
}

#[tokio::test]
async fn complete_ends_an_operation_and_an_id_in_use_closes_with_4409() {
    let gateway = RunningGateway::start().await;
    let user = UserId::now();
    let mut client = gateway.sign_in(user).await;
    client.subscribe("1", "subscription { unread { kind } }", json!({})).await;
    assert_eq!(client.result("1").await["data"]["unread"]["kind"], "SNAPSHOT");
    client.send(json!({ "id": "1", "type": "complete" })).await;
    client.is_quiet().await;
    client.subscribe("1", "subscription { unread { kind } }", json!({})).await;
    client.result("1").await;
    client.subscribe("1", "{ __typename }", json!({})).await;
    assert_eq!(client.closed().await.0, 4409);
}

#[tokio::test]
async fn the_21st_socket_of_a_user_closes_with_4429_and_a_closed_one_returns_its_permit() {
    let gateway = RunningGateway::start().await;
    let user = UserId::now();
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(gateway.sign_in(user).await);
    }
    let token = gateway.token(user, SessionId::now(), 300);
    let mut more = gateway.connect().await;
    more.send(json!({ "type": "connection_init", "payload": { "authToken": token } })).await;
    assert_eq!(more.closed().await.0, 4429);
    gateway.sign_in(UserId::now()).await;
    let mut last = clients.pop().expect("twenty");
    last.socket.close(None).await.expect("closed");
    testkit::eventually("the permit is returned", || async {
        let mut client = gateway.connect().await;
        client.send(json!({ "type": "connection_init", "payload": { "authToken": token } })).await;
        client.is_acknowledged().await
    })
    .await;
}

#[tokio::test]
async fn the_51st_operation_is_rejected_and_the_socket_stays_open() {
    let gateway = RunningGateway::start().await;
    let mut client = gateway.sign_in(UserId::now()).await;
    for number in 0..50 {
        let id = number.to_string();
        client.subscribe(&id, "subscription { unread { kind } }", json!({})).await;
        client.result(&id).await;
    }
    client.subscribe("more", "{ __typename }", json!({})).await;
    let rejected = client.receive().await;
    assert_eq!(
        (&rejected["id"], &rejected["payload"][0]["extensions"]["code"]),
        (&json!("more"), &json!("LIMIT_EXCEEDED"))
    );
    client.is_alive().await;
}

#[tokio::test]
async fn a_token_that_expires_is_announced_and_closes_with_4403() {
    let gateway = RunningGateway::start().await;
    let mut client = gateway.sign_in_with(&gateway.token(UserId::now(), SessionId::now(), 60)).await;
    advance(31).await;
    assert!((1..=30).contains(&client.expiry_notice().await));
    client.is_alive().await;
    advance(20).await;
    client.is_alive().await;
    advance(10).await;
    assert_eq!(client.closed().await.0, 4403);
}

#[tokio::test]
async fn a_revoked_session_closes_its_sockets_with_4401_and_no_others() {
    let gateway = RunningGateway::start().await;
    let user = UserId::now();
    let session = SessionId::now();
    let token = gateway.token(user, session, 300);
    let mut clients = [gateway.sign_in_with(&token).await, gateway.sign_in_with(&token).await];
    let mut other = gateway.sign_in(user).await;
    gateway
        .emit(Kind::SessionRevoked(SessionRevoked {
            user_id: user.bytes(),
            session_ids: vec![session.bytes()],
            expires_at_us: 0,
        }))
        .await;
    for client in &mut clients {
        assert_eq!(client.closed().await.0, 4401);
    }
    other.is_quiet().await;
    let mut late = gateway.connect().await;
    late.send(json!({ "type": "connection_init", "payload": { "authToken": token } })).await;
    assert_eq!(late.closed().await.0, 4403, "the token of a revoked session is not valid");
}

#[tokio::test]
async fn a_ready_gateway_knows_the_sessions_revoked_before_its_start() {
    let session = SessionId::now();
    let gateway = RunningGateway::start_with(crate::testing::FakeServices {
        revoked: vec![session],
        ..Default::default()
    })
    .await;
    let token = gateway.token(UserId::now(), session, 300);
    let mut client = gateway.connect().await;
    client.send(json!({ "type": "connection_init", "payload": { "authToken": token } })).await;
    assert_eq!(client.closed().await.0, 4403);
}

/// Runs all tasks that can make progress while the clock is paused.
async fn run_ready_tasks() {
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_stopping_gateway_closes_every_socket_with_1012_spread_over_the_window() {
    let gauges = Gauges::default();
    let _installed = metrics::set_default_local_recorder(&gauges);
    let open = || gauges.sum("gateway_sockets");
    let gateway = RunningGateway::start().await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = gateway.sign_in(UserId::now()).await;
        client.subscribe("1", "subscription { unread { kind } }", json!({})).await;
        client.result("1").await;
        clients.push(client);
    }
    clients.push(gateway.connect().await);
    testkit::eventually("all sockets are open", || async { open() == 21.0 }).await;
    // A paused clock advances by itself when the runtime is idle, unless a blocking task runs.
    let (release, released) = std::sync::mpsc::channel::<()>();
    let blocking = tokio::task::spawn_blocking(move || released.recv().is_err());
    tokio::time::pause();
    let stopped = tokio::spawn(gateway.stop());
    run_ready_tasks().await;
    assert!(open() >= 20.0, "no more than one is closed immediately: {}", open());
    tokio::time::advance(Duration::from_millis(150)).await;
    run_ready_tasks().await;
    assert!((8.0..=13.0).contains(&open()), "half of them in half of the window: {}", open());
    tokio::time::advance(Duration::from_millis(151)).await;
    run_ready_tasks().await;
    assert_eq!(open(), 0.0, "all of them within the window");
    tokio::time::resume();
    drop(release);
    assert!(blocking.await.expect("no panic"), "the sender is dropped");
    for client in &mut clients {
        assert_eq!(client.closed().await.0, 1012);
    }
    drop(clients);
    stopped.await.expect("the gateway stops");
}

#[tokio::test]
async fn all_gauges_return_to_zero_after_the_last_socket() {
    let gauges = Gauges::default();
    let _installed = metrics::set_default_local_recorder(&gauges);
    let gateway = RunningGateway::start().await;
    let user = UserId::now();
    let dialog = DialogId::now();
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
    clients[0].send(json!({ "id": "u", "type": "complete" })).await;
    testkit::eventually("one subscription has ended", || async {
        gauges.sum("gateway_subscriptions") == 14.0
    })
    .await;
    let abrupt = clients.pop().expect("a client");
    drop(abrupt);
    for client in &mut clients {
        client.socket.close(None).await.expect("closed");
    }
    testkit::eventually("all gauges are zero", || async { names.iter().all(|name| gauges.sum(name) == 0.0) })
        .await;
    gateway.stop().await;
}

/// Returns a change of a thousand rows, about 80 kB on the wire.
fn large_change(user: UserId, version: i64) -> UnreadChanged {
    let row = |number: u128| UnreadRow {
        dialog_id: DialogId::new(uuid::Uuid::from_u128(number)).bytes(),
        unread: version,
        was: version - 1,
        ..UnreadRow::default()
    };
    let rows = (0..1000).map(row).collect();
    UnreadChanged { user_id: user.bytes(), epoch: 1, version, previous: version - 1, rows, stale: false }
}

#[tokio::test]
async fn a_client_that_does_not_read_is_disconnected_and_delays_no_other() {
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
    // Repeats until the buffers between both ends are full. Pending frames are merged, so the number of
    // changes that this takes is unknown.
    let stopped_clock = loop {
        assert!(version < 20_000, "the stalled client is never disconnected");
        for _ in 0..200 {
            version += 1;
            gateway.app.log_reader.hubs.unread.apply(&large_change(user, version), None).expect("an event");
            let frame = reader.result("u").await;
            assert_eq!(
                frame["data"]["unread"]["total"],
                version * 1000,
                "the reader does not wait for the stalled client"
            );
            // Both clients send frames now and then, so neither is closed for silence on a slow machine. The
            // send fails once the stalled client is disconnected.
            if version % 200 == 0 {
                for client in [&mut stalled, &mut reader] {
                    drop(client.socket.send(Message::text(r#"{"type":"pong"}"#)).await);
                }
            }
        }
        reader.send(json!({ "type": "ping" })).await;
        while reader.receive().await != json!({ "type": "pong" }) {}
        // The close handshake has 2 s. A slow machine needs longer to read what is buffered.
        let clock = StoppedClock::stop();
        tokio::time::advance(Duration::from_secs(31)).await;
        // Gives the gateway time to close the socket.
        for _ in 0..20 {
            if gauges.sum("gateway_sockets") == 2.0 {
                run_ready_tasks().await;
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        if gauges.sum("gateway_sockets") < 2.0 {
            break clock;
        }
    };
    assert_eq!(stalled.closed().await.0, 1013, "a client that reads again receives the reason");
    drop(stopped_clock);
    gateway.stop().await;
}

#[tokio::test]
async fn anonymous_sockets_have_a_quota_and_authentication_returns_the_permit() {
    let gateway = RunningGateway::start().await;
    // On a slow machine the first sockets would be closed for silence before the last one is open.
    let stopped_clock = StoppedClock::stop();
    let mut waiting = Vec::new();
    for number in 0..100 {
        let address = format!("192.0.2.{}", number / 10);
        waiting.push(gateway.connect_from(&address).await.expect("a socket"));
    }
    assert_eq!(gateway.open(&[GRAPHQL_TRANSPORT_WS]).await.err(), Some(503), "the 101st socket");
    drop(stopped_clock);
    let token = gateway.token(UserId::now(), SessionId::now(), 300);
    let mut authenticated = waiting.pop().expect("a socket");
    authenticated.send(json!({ "type": "connection_init", "payload": { "authToken": token } })).await;
    assert_eq!(authenticated.receive().await["type"], "connection_ack");
    let mut anonymous = gateway.connect().await;
    anonymous.send(json!({ "type": "connection_init" })).await;
    assert_eq!(anonymous.receive().await["type"], "connection_ack");
    assert_eq!(
        gateway.open(&[GRAPHQL_TRANSPORT_WS]).await.err(),
        Some(503),
        "an anonymous client keeps its permit after the ack"
    );
    drop(anonymous);
    testkit::eventually("the permit is returned", || async {
        gateway.open(&[GRAPHQL_TRANSPORT_WS]).await.is_ok()
    })
    .await;
    gateway.stop().await;
}

#[tokio::test]
async fn an_invalid_token_in_the_handshake_closes_with_4403() {
    let gateway = RunningGateway::start().await;
    for header in ["Basic YW5uOng=", "Token x", "Bearer x", "Bearer a b"] {
        let mut client =
            gateway.open(&[GRAPHQL_TRANSPORT_WS, ("authorization", header)]).await.expect("a socket");
        client.send(json!({ "type": "connection_init" })).await;
        assert_eq!(client.closed().await.0, 4403, "{header}");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn a_panic_ends_its_operation_but_not_the_socket() {
    let gateway = RunningGateway::start().await;
    gateway.services().panicking.insert("Users");
    let mut client = gateway.sign_in(UserId::now()).await;
    client.subscribe("1", "{ me { name } }", json!({})).await;
    let result = client.result("1").await;
    assert_eq!(result["errors"][0]["extensions"]["code"], "INTERNAL", "{result}");
    assert!(
        result["errors"][0]["extensions"]["requestId"].is_string() && !result.to_string().contains("secret")
    );
    assert_eq!(client.receive().await, json!({ "id": "1", "type": "complete" }));
    gateway.services().panicking.clear();
    client.subscribe("1", "{ me { name } }", json!({})).await;
    assert_eq!(client.result("1").await["data"]["me"]["name"], "Ann");
    gateway.stop().await;
}
