//! The old protocol over real sockets: what its clients take for granted and a machine alone cannot show.

use std::time::Duration;

use futures_util::SinkExt;
use proto::{SessionId, UserId};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::testing::{Gauges, RunningGateway, SocketClient};

const OLD: &str = "graphql-ws";
const WATCH: &str = "subscription { unread { kind } }";

impl SocketClient {
    async fn start(&mut self, id: &str, query: &str) {
        self.say(json!({ "id": id, "type": "start", "payload": { "query": query } })).await;
    }

    async fn begins(&mut self, token: &str) {
        self.say(
            json!({ "type": "connection_init", "payload": { "Authorization": format!("Bearer {token}") } }),
        )
        .await;
    }
}

async fn signed_in(gateway: &RunningGateway) -> SocketClient {
    let mut client = gateway.connect_in(OLD).await;
    client.begins(&gateway.token(UserId::now(), SessionId::now(), 300)).await;
    assert_eq!(client.hear().await, json!({ "type": "connection_ack" }));
    client
}

#[tokio::test]
async fn an_operation_that_is_started_with_the_connection_waits_for_the_ack() {
    let gateway = RunningGateway::start().await;
    for _ in 0..20 {
        let mut client = gateway.connect_in(OLD).await;
        client.begins(&gateway.token(UserId::now(), SessionId::now(), 300)).await;
        client.start("1", "{ me { name } }").await;
        client.start("2", WATCH).await;
        assert_eq!(client.hear().await, json!({ "type": "connection_ack" }));
        let mut heard = [client.hear().await, client.hear().await, client.hear().await];
        heard.sort_by_key(|message| (message["id"].to_string(), message["type"] == "complete"));
        let name = json!({ "me": { "name": "somebody" } });
        assert_eq!((&heard[0]["type"], &heard[0]["payload"]["data"]), (&json!("data"), &name));
        assert_eq!(heard[1], json!({ "id": "1", "type": "complete" }));
        assert_eq!((&heard[2]["type"], &heard[2]["id"]), (&json!("data"), &json!("2")));
        assert_eq!(heard[2]["payload"]["data"]["unread"]["kind"], "SNAPSHOT");
    }
    let mut hasty = gateway.connect_in(OLD).await;
    hasty.start("1", WATCH).await;
    assert_eq!(hasty.closed().await.0, 4401, "without connection_init nobody waits");
}

#[tokio::test]
async fn a_bad_token_is_told_before_the_close_with_4403() {
    let gateway = RunningGateway::start().await;
    for token in ["nonsense".to_owned(), gateway.token(UserId::now(), SessionId::now(), -10)] {
        let mut client = gateway.connect_in(OLD).await;
        client.begins(&token).await;
        client.start("1", WATCH).await;
        let told = client.hear().await;
        assert_eq!(told["type"], "connection_error");
        assert_eq!(told["payload"]["message"], "Forbidden: the access token is not valid");
        assert_eq!(client.closed().await.0, 4403);
    }
}

#[tokio::test]
async fn a_document_that_is_refused_is_one_error_with_all_of_them_in_it() {
    let gateway = RunningGateway::start().await;
    let mut client = signed_in(&gateway).await;
    for (query, code) in [("{", "GRAPHQL_PARSE_FAILED"), ("{ nonsense }", "GRAPHQL_VALIDATION_FAILED")] {
        client.start("1", query).await;
        let refused = client.hear().await;
        assert_eq!((&refused["id"], &refused["type"]), (&json!("1"), &json!("error")), "{refused}");
        let payload = &refused["payload"];
        assert!(payload["message"].is_string(), "{refused}");
        assert_eq!(
            (&payload["extensions"]["code"], &payload["errors"][0]["extensions"]["code"]),
            (&json!(code), &json!(code))
        );
    }
}

#[tokio::test]
async fn after_stop_nothing_comes_and_after_goodbye_the_socket_is_closed() {
    let gateway = RunningGateway::start().await;
    let mut client = signed_in(&gateway).await;
    for _ in 0..2 {
        client.start("1", WATCH).await;
        assert_eq!(client.hear().await["type"], "data");
        client.say(json!({ "id": "1", "type": "stop" })).await;
        client.is_quiet().await;
    }
    client.say(json!({ "type": "connection_terminate" })).await;
    assert_eq!(client.closed().await.0, 1000);
}

#[tokio::test]
async fn the_limits_are_those_of_the_new_protocol() {
    let gateway = RunningGateway::start().await;
    let big = "x".repeat(64 * 1024 + 1);
    for (frame, code) in [
        (Message::text("hello"), 4400),
        (Message::text(r#"{"type":"subscribe","id":"1","payload":{"query":"{me{id}}"}}"#), 4400),
        (Message::binary(vec![1, 2, 3]), 4400),
        (Message::text(big), 1009),
        (Message::text(r#"{"type":"connection_init"}"#), 4429),
    ] {
        let mut client = signed_in(&gateway).await;
        client.socket.send(frame).await.expect("sent");
        assert_eq!(client.closed().await.0, code);
    }
    let mut client = signed_in(&gateway).await;
    for number in 0..51 {
        client.start(&number.to_string(), WATCH).await;
    }
    let mut data = 0;
    let refused = loop {
        let message = client.hear().await;
        if message["type"] == "error" {
            break message;
        }
        data += 1;
    };
    assert!(data <= 50);
    assert_eq!(
        (&refused["id"], &refused["payload"]["extensions"]["code"]),
        (&json!("50"), &json!("LIMIT_EXCEEDED"))
    );
    client.start("1", WATCH).await;
    assert_eq!(client.closed().await.0, 4409);
}

#[tokio::test]
async fn an_idle_client_is_told_and_asked_and_one_that_answers_nothing_is_let_go() {
    let gauges = Gauges::default();
    let _installed = metrics::set_default_local_recorder(&gauges);
    let gateway = RunningGateway::start().await;
    let mut client = signed_in(&gateway).await;
    let silent = signed_in(&gateway).await;
    for _ in 0..8 {
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(10)).await;
        tokio::time::resume();
        // Reading is answering: the client's end gives the pong by itself, and says nothing else.
        assert_eq!(client.hear().await, json!({ "type": "ka" }));
        assert!(matches!(client.next().await, Message::Ping(_)));
    }
    testkit::eventually("the silent one is let go", || async { gauges.sum("gateway_sockets") == 1.0 }).await;
    drop(silent);
}
