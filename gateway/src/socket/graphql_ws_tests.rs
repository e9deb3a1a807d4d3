//! Tests of the subprotocol `graphql-ws` over real sockets: the behaviour that its clients rely on.

use futures_util::SinkExt;
use proto::{SessionId, UserId};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use super::renewal_tests::advance;
use crate::testing::{Gauges, RunningGateway, SocketClient};

const GRAPHQL_WS: &str = "graphql-ws";
const WATCH: &str = "subscription { unread { kind } }";

impl SocketClient {
    async fn start(&mut self, id: &str, query: &str) {
        self.send(json!({ "id": id, "type": "start", "payload": { "query": query } })).await;
    }

    async fn init(&mut self, token: &str) {
        self.send(
            json!({ "type": "connection_init", "payload": { "Authorization": format!("Bearer {token}") } }),
        )
        .await;
    }
}

async fn sign_in(gateway: &RunningGateway) -> SocketClient {
    let mut client = gateway.connect_in(GRAPHQL_WS).await;
    client.init(&gateway.token(UserId::now(), SessionId::now(), 300)).await;
    assert_eq!(client.receive().await, json!({ "type": "connection_ack" }));
    client
}

#[tokio::test]
async fn an_operation_started_before_the_ack_waits_for_it() {
    let gateway = RunningGateway::start().await;
    for _ in 0..20 {
        let mut client = gateway.connect_in(GRAPHQL_WS).await;
        client.init(&gateway.token(UserId::now(), SessionId::now(), 300)).await;
        client.start("1", "{ me { name } }").await;
        client.start("2", WATCH).await;
        assert_eq!(client.receive().await, json!({ "type": "connection_ack" }));
        let mut messages = [client.receive().await, client.receive().await, client.receive().await];
        messages.sort_by_key(|message| (message["id"].to_string(), message["type"] == "complete"));
        let name = json!({ "me": { "name": "Ann" } });
        assert_eq!((&messages[0]["type"], &messages[0]["payload"]["data"]), (&json!("data"), &name));
        assert_eq!(messages[1], json!({ "id": "1", "type": "complete" }));
        assert_eq!((&messages[2]["type"], &messages[2]["id"]), (&json!("data"), &json!("2")));
        assert_eq!(messages[2]["payload"]["data"]["unread"]["kind"], "SNAPSHOT");
    }
    let mut early = gateway.connect_in(GRAPHQL_WS).await;
    early.start("1", WATCH).await;
    assert_eq!(early.closed().await.0, 4401, "an operation before connection_init does not wait");
}

#[tokio::test]
async fn an_invalid_token_is_a_connection_error_and_a_close_with_4403() {
    let gateway = RunningGateway::start().await;
    for token in ["nonsense".to_owned(), gateway.token(UserId::now(), SessionId::now(), -10)] {
        let mut client = gateway.connect_in(GRAPHQL_WS).await;
        client.init(&token).await;
        client.start("1", WATCH).await;
        let error = client.receive().await;
        assert_eq!(error["type"], "connection_error");
        assert_eq!(error["payload"]["message"], "Forbidden: the access token is not valid");
        assert_eq!(client.closed().await.0, 4403);
    }
}

#[tokio::test]
async fn a_rejected_document_is_one_error_that_holds_all_errors() {
    let gateway = RunningGateway::start().await;
    let mut client = sign_in(&gateway).await;
    for (query, code) in [("{", "GRAPHQL_PARSE_FAILED"), ("{ nonsense }", "GRAPHQL_VALIDATION_FAILED")] {
        client.start("1", query).await;
        let rejected = client.receive().await;
        assert_eq!((&rejected["id"], &rejected["type"]), (&json!("1"), &json!("error")), "{rejected}");
        let payload = &rejected["payload"];
        assert!(payload["message"].is_string(), "{rejected}");
        assert_eq!(
            (&payload["extensions"]["code"], &payload["errors"][0]["extensions"]["code"]),
            (&json!(code), &json!(code))
        );
    }
}

#[tokio::test]
async fn stop_ends_an_operation_and_connection_terminate_closes_the_socket() {
    let gateway = RunningGateway::start().await;
    let mut client = sign_in(&gateway).await;
    for _ in 0..2 {
        client.start("1", WATCH).await;
        assert_eq!(client.receive().await["type"], "data");
        client.send(json!({ "id": "1", "type": "stop" })).await;
        client.is_quiet().await;
    }
    client.send(json!({ "type": "connection_terminate" })).await;
    assert_eq!(client.closed().await.0, 1000);
}

#[tokio::test]
async fn the_limits_are_those_of_graphql_transport_ws() {
    let gateway = RunningGateway::start().await;
    let big = "x".repeat(64 * 1024 + 1);
    for (frame, code) in [
        (Message::text("hello"), 4400),
        (Message::text(r#"{"type":"subscribe","id":"1","payload":{"query":"{me{id}}"}}"#), 4400),
        (Message::binary(vec![1, 2, 3]), 4400),
        (Message::text(big), 1009),
        (Message::text(r#"{"type":"connection_init"}"#), 4429),
    ] {
        let mut client = sign_in(&gateway).await;
        client.socket.send(frame).await.expect("sent");
        assert_eq!(client.closed().await.0, code);
    }
    let mut client = sign_in(&gateway).await;
    for number in 0..51 {
        client.start(&number.to_string(), WATCH).await;
    }
    let mut data = 0;
    let rejected = loop {
        let message = client.receive().await;
        if message["type"] == "error" {
            break message;
        }
        data += 1;
    };
    assert!(data <= 50);
    assert_eq!(
        (&rejected["id"], &rejected["payload"]["extensions"]["code"]),
        (&json!("50"), &json!("LIMIT_EXCEEDED"))
    );
    client.start("1", WATCH).await;
    assert_eq!(client.closed().await.0, 4409);
}

#[tokio::test]
async fn an_idle_client_receives_ka_and_a_ping_and_a_silent_one_is_disconnected() {
    let gauges = Gauges::default();
    let _installed = metrics::set_default_local_recorder(&gauges);
    let gateway = RunningGateway::start().await;
    let mut client = sign_in(&gateway).await;
    let silent = sign_in(&gateway).await;
    for _ in 0..8 {
        advance(10).await;
        // The client library answers the ping frame while the test reads; the client sends nothing else.
        assert_eq!(client.receive().await, json!({ "type": "ka" }));
        assert!(matches!(client.next().await, Message::Ping(_)));
    }
    testkit::eventually("the silent client is disconnected", || async {
        gauges.sum("gateway_sockets") == 1.0
    })
    .await;
    drop(silent);
}
