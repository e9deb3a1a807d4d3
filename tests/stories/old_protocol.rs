//! The old `graphql-ws` subprotocol, which GraphQL Playground and older clients use, and the pages of
//! both editors.

use std::time::Duration;

use serde_json::json;

use crate::{
    app::App,
    caller::Caller,
    socket_client::{SocketClient, UNREAD},
};

#[tokio::test]
async fn a_client_of_the_old_protocol_receives_counts_until_it_unsubscribes() {
    let app = App::start().await;
    let a = Caller::register(&app, "ann").await;
    let b = Caller::register(&app, "bob").await;
    let dialog = a.create_group(&[&b], "two").await;

    // Like the client library, starts the operation without waiting for the acknowledgement.
    let mut playground = SocketClient::open_as(&b.url, "graphql-ws").await;
    let token = json!({"Authorization": format!("Bearer {}", b.token)});
    playground.send(json!({"type": "connection_init", "payload": token})).await;
    playground.send(json!({"id": "1", "type": "start", "payload": {"query": UNREAD, "variables": {}}})).await;
    assert_eq!(playground.receive().await, json!({"type": "connection_ack"}));
    let first = playground.receive_for("1").await;
    assert_eq!(
        (&first["type"], &first["payload"]["data"]["unread"]["kind"]),
        (&json!("data"), &json!("SNAPSHOT"))
    );

    a.send(&dialog, "hello").await;
    let frame = playground.receive_for("1").await;
    let unread = &frame["payload"]["data"]["unread"];
    assert_eq!(
        (&frame["type"], &unread["kind"], &unread["total"]),
        (&json!("data"), &json!("CHANGE"), &json!(1))
    );
    assert_eq!(unread["changed"][0]["dialogId"], dialog.as_str());

    playground.send(json!({"id": "1", "type": "stop"})).await;
    playground.send(json!({"id": "2", "type": "start", "payload": {"query": "{ me { login } }"}})).await;
    assert_eq!(playground.receive_for("2").await["payload"]["data"]["me"]["login"], "bob");
    assert_eq!(playground.receive_for("2").await, json!({"id": "2", "type": "complete"}));
    let mut phone = SocketClient::watch_unread(&b, None).await;
    phone.until_total(1).await;
    a.send(&dialog, "still there?").await;
    phone.until_total(2).await;
    playground.expect_silence("1", Duration::from_millis(300)).await;

    playground.send(json!({"type": "connection_terminate"})).await;
    assert_eq!(playground.wait_for_close().await.0, 1000);
}

#[tokio::test]
async fn the_page_is_always_served_and_editors_only_with_introspection() {
    for (introspection, status) in [("on", 200), ("off", 404)] {
        let app = App::start_with(&[("INTROSPECTION", introspection)]).await;
        for (path, expected) in [("/", 200), ("/graphiql", status), ("/playground", status)] {
            let response = reqwest::get(format!("{}{path}", app.url)).await.unwrap();
            assert_eq!(response.status(), expected, "{path} with introspection {introspection}");
        }
    }
}
