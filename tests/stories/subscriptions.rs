//! Subscriptions over WebSocket: resuming, message streams, revoked sessions, shutdown and protocol errors.

use std::time::Duration;

use serde_json::{Value, json};
use testkit::eventually;
use tokio_tungstenite::tungstenite::Message;

use crate::{
    app::App,
    caller::{Caller, PASSWORD},
    socket_client::{SocketClient, UNREAD},
};

const MESSAGES: &str = "subscription($id: ID!, $since: String) { messages(dialogId: $id, since: $since) {
    kind version message { id seq text status senderId } } }";
const SILENCE: Duration = Duration::from_millis(300);

#[tokio::test]
async fn a_reconnecting_client_resumes_from_its_version() {
    let app = App::start().await;
    let a = Caller::register(&app, "ann").await;
    let b = Caller::register(&app, "bob").await;
    let dialog = a.create_group(&[&b], "two").await;
    let mut phone = SocketClient::watch_unread(&b, None).await;
    phone.frame("u", "unread").await;
    a.send(&dialog, "one").await;
    let seen = phone.frame("u", "unread").await["version"].clone();
    let mut current = SocketClient::watch_unread(&b, seen.as_str()).await;
    let first = current.frame("u", "unread").await;
    assert_eq!(
        (&first["kind"], &first["changed"], &first["total"]),
        (&json!("CURRENT"), &json!([]), &json!(1))
    );

    drop(phone);
    a.send(&dialog, "two").await;
    current.until_total(2).await;
    let mut reconnected = SocketClient::watch_unread(&b, seen.as_str()).await;
    let first = reconnected.frame("u", "unread").await;
    assert_eq!((&first["kind"], &first["total"]), (&json!("SNAPSHOT"), &json!(2)));
    for since in ["9-1", "1-999999", "0-0", "", "0", "abc", "01-0"] {
        let mut unknown = SocketClient::watch_unread(&b, Some(since)).await;
        assert_eq!(unknown.frame("u", "unread").await["kind"], "SNAPSHOT", "{since}");
    }
}

#[tokio::test]
async fn joining_and_leaving_a_dialog_are_changes_of_the_counts() {
    let app = App::start().await;
    let a = Caller::register(&app, "ann").await;
    let b = Caller::register(&app, "bob").await;
    let mut phone = SocketClient::watch_unread(&b, None).await;
    assert_eq!(phone.frame("u", "unread").await["kind"], "SNAPSHOT");
    let dialog = a.create_group(&[&b], "two").await;
    let joined = phone.frame("u", "unread").await;
    let row = json!({"dialogId": dialog, "unread": 0, "readSeq": 0, "lastSeq": 0, "stale": false});
    assert_eq!(
        (&joined["kind"], &joined["total"], &joined["changed"]),
        (&json!("CHANGE"), &json!(0), &json!([row]))
    );
    let leave = "mutation($id: ID!) { leaveDialog(dialogId: $id) }";
    b.data(leave, json!({"id": dialog})).await;
    let left = phone.frame("u", "unread").await;
    assert_eq!((&left["kind"], &left["changed"]), (&json!("CHANGE"), &json!([row])));
    assert_eq!(left["previousVersion"], joined["version"]);
    let again = "mutation($id: ID!, $u: [ID!]!) { addParticipants(dialogId: $id, userIds: $u) { id } }";
    a.data(again, json!({"id": dialog, "u": [b.id]})).await;
    assert_eq!(phone.frame("u", "unread").await["previousVersion"], left["version"]);
}

#[tokio::test]
async fn messages_are_live_and_resume_from_a_version() {
    let app = App::start().await;
    let a = Caller::register(&app, "ann").await;
    let b = Caller::register(&app, "bob").await;
    let dialog = a.create_group(&[&b], "two").await;
    let mut phone = SocketClient::connect(&b).await;
    phone.subscribe("m", MESSAGES, json!({"id": dialog})).await;
    let first = phone.frame("m", "messages").await;
    assert_eq!((&first["kind"], &first["message"]), (&json!("CURRENT"), &Value::Null));
    let resume = first["version"].clone();
    let sent = a.send(&dialog, "hello").await;
    let mut kinds = Vec::new();
    while kinds.last() != Some(&json!("COMMITTED")) {
        let frame = phone.frame("m", "messages").await;
        assert_eq!(
            (&frame["message"]["id"], &frame["message"]["text"]),
            (&sent["id"], &json!("hello")),
            "{frame}"
        );
        kinds.push(frame["kind"].clone());
    }
    let delete = "mutation($id: ID!) { deleteMessage(id: $id) { id } }";
    a.data(delete, json!({"id": sent["id"]})).await;
    let deleted = phone.frame("m", "messages").await;
    assert_eq!((&deleted["kind"], &deleted["message"]["text"]), (&json!("DELETED"), &json!("")));

    phone.subscribe("again", MESSAGES, json!({"id": dialog, "since": resume})).await;
    let replayed = phone.frame("again", "messages").await;
    assert_eq!(
        (&replayed["kind"], &replayed["version"]),
        (&json!("DELETED"), &deleted["version"]),
        "only the newest state of a message is replayed"
    );
    phone.subscribe("all", MESSAGES, json!({"id": dialog, "since": "0"})).await;
    assert_eq!(phone.frame("all", "messages").await["message"]["seq"], 1);
    phone.subscribe("foreign", MESSAGES, json!({"id": dialog, "since": "77-1"})).await;
    assert_eq!(phone.frame("foreign", "messages").await["kind"], "RESET");
}

#[tokio::test]
async fn leaving_completes_the_subscription_and_outsiders_are_rejected() {
    let app = App::start().await;
    let a = Caller::register(&app, "ann").await;
    let b = Caller::register(&app, "bob").await;
    let outsider = Caller::register(&app, "mallory").await;
    let dialog = a.create_group(&[&b], "two").await;
    let mut phone = SocketClient::connect(&b).await;
    phone.subscribe("m", MESSAGES, json!({"id": dialog})).await;
    phone.frame("m", "messages").await;
    b.data("mutation($id: ID!) { leaveDialog(dialogId: $id) }", json!({"id": dialog})).await;
    assert_eq!(phone.receive_for("m").await["type"], "complete");

    let mut outsider_socket = SocketClient::connect(&outsider).await;
    outsider_socket.subscribe("m", MESSAGES, json!({"id": dialog})).await;
    outsider_socket
        .subscribe(
            "r",
            "subscription($id: ID!) { readStates(dialogId: $id) { userId } }",
            json!({"id": dialog}),
        )
        .await;
    for id in ["m", "r"] {
        let rejected = outsider_socket.receive_for(id).await;
        assert!(rejected.to_string().contains("NOT_FOUND"), "{rejected}");
    }
    a.send(&dialog, "a secret").await;
    outsider_socket.expect_silence("x", SILENCE).await;
}

#[tokio::test]
async fn logging_out_closes_only_that_sessions_sockets() {
    let app = App::start().await;
    let phone_session = Caller::register(&app, "ann").await;
    let laptop_session = Caller::login(&app, "ann").await;
    let mut phone = SocketClient::watch_unread(&phone_session, None).await;
    let mut laptop = SocketClient::watch_unread(&laptop_session, None).await;
    phone.frame("u", "unread").await;
    laptop.frame("u", "unread").await;
    assert_eq!(phone_session.data("mutation { logout }", json!({})).await["logout"], true);
    assert_eq!(phone.wait_for_close().await.0, 4401);
    eventually("HTTP rejects the session", || async {
        let answer = phone_session.execute("{ me { login } }", json!({})).await;
        answer["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"
    })
    .await;
    assert_eq!(laptop_session.data("{ me { login } }", json!({})).await["me"]["login"], "ann");
    laptop.expect_silence("u", SILENCE).await;

    let change =
        "mutation($old: String!, $new: String!) { changePassword(old: $old, new: $new) { accessToken } }";
    laptop_session.data(change, json!({"old": PASSWORD, "new": "battery staple"})).await;
    assert_eq!(laptop.wait_for_close().await.0, 4401, "changing the password ends every session");
}

#[tokio::test]
async fn queries_run_over_the_socket_and_shutdown_closes_it_with_1012() {
    let app = App::start_with(&[("DRAIN_WINDOW", "200ms")]).await;
    let a = Caller::register(&app, "ann").await;
    let mut phone = SocketClient::connect(&a).await;
    phone.subscribe("q", "{ me { login } }", json!({})).await;
    assert_eq!(phone.frame("q", "me").await["login"], "ann");
    assert_eq!(phone.receive_for("q").await["type"], "complete");
    phone.subscribe("u", UNREAD, json!({})).await;
    phone.frame("u", "unread").await;
    let stopping = tokio::spawn(app.stop());
    assert_eq!(phone.wait_for_close().await.0, 1012);
    let (_, took) = stopping.await.unwrap();
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[tokio::test]
async fn each_protocol_violation_has_its_close_code() {
    let app = App::start().await;
    let a = Caller::register(&app, "ann").await;
    let subscribe = json!({"id": "1", "type": "subscribe", "payload": {"query": "{ me { id } }"}});
    let mut early = SocketClient::open(&a.url).await;
    early.send(subscribe.clone()).await;
    assert_eq!(early.wait_for_close().await.0, 4401, "subscribe before the ack");
    let mut twice = SocketClient::connect(&a).await;
    twice.send(json!({"type": "connection_init"})).await;
    assert_eq!(twice.wait_for_close().await.0, 4429, "a second connection_init");
    let mut same = SocketClient::connect(&a).await;
    for _ in 0..2 {
        same.subscribe("1", UNREAD, json!({})).await;
    }
    assert_eq!(same.wait_for_close().await.0, 4409, "an id in use");
    let long = format!("{{\"type\": \"{}\"}}", "x".repeat(5_000));
    for wrong in ["not JSON", "[]", r#"{"type": "dance"}"#, r#"{"type": "subscribe"}"#, &long] {
        let mut socket = SocketClient::connect(&a).await;
        socket.send_raw(Message::text(wrong)).await;
        let (code, reason) = socket.wait_for_close().await;
        assert!(code == 4400 && !reason.is_empty() && reason.len() < 100, "{wrong:.20}: {code} {reason}");
    }
    let mut binary = SocketClient::connect(&a).await;
    binary.send_raw(Message::binary(vec![1, 2, 3])).await;
    assert_eq!(binary.wait_for_close().await.0, 4400);
    let mut large = SocketClient::connect(&a).await;
    large.send_raw(Message::text("x".repeat(70_000))).await;
    assert_eq!(large.wait_for_close().await.0, 1009);
    let mut silent = SocketClient::open(&a.url).await;
    assert_eq!(silent.wait_for_close().await.0, 4408, "no connection_init for 3 s");
    let mut socket = SocketClient::connect(&a).await;
    socket.send(json!({"type": "ping"})).await;
    assert_eq!(socket.receive().await["type"], "pong");
    socket.subscribe("bad", "{ nonsense }", json!({})).await;
    let error = socket.receive_for("bad").await;
    assert_eq!(
        (&error["type"], &error["payload"][0]["extensions"]["code"]),
        (&json!("error"), &json!("GRAPHQL_VALIDATION_FAILED"))
    );
}
