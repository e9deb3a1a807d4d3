//! The story of a live count as GraphQL Playground and older clients tell it: over the old `graphql-ws` subprotocol; and where
//! Playground itself is to be found.

use std::time::Duration;

use serde_json::json;

use crate::{
    app::App,
    device::{Device, UNREAD},
    person::Person,
};

#[tokio::test]
async fn a_client_of_the_old_protocol_watches_its_counters_until_it_stops() {
    let app = App::start().await;
    let (a, b) = (Person::register(&app, "ann").await, Person::register(&app, "bob").await);
    let dialog = a.create_group(&[&b], "two").await;

    // As its library does: the operation follows at once, without waiting for the acknowledgement.
    let mut playground = Device::open_as(&b.url, "graphql-ws").await;
    let token = json!({"Authorization": format!("Bearer {}", b.token)});
    playground.say(json!({"type": "connection_init", "payload": token})).await;
    playground.say(json!({"id": "1", "type": "start", "payload": {"query": UNREAD, "variables": {}}})).await;
    assert_eq!(playground.hear().await, json!({"type": "connection_ack"}));
    let first = playground.hear_of("1").await;
    assert_eq!(
        (&first["type"], &first["payload"]["data"]["unread"]["kind"]),
        (&json!("data"), &json!("SNAPSHOT"))
    );

    a.send(&dialog, "hello").await;
    let frame = playground.hear_of("1").await;
    let unread = &frame["payload"]["data"]["unread"];
    assert_eq!(
        (&frame["type"], &unread["kind"], &unread["total"]),
        (&json!("data"), &json!("CHANGE"), &json!(1))
    );
    assert_eq!(unread["changed"][0]["dialogId"], dialog.as_str());

    playground.say(json!({"id": "1", "type": "stop"})).await;
    playground.say(json!({"id": "2", "type": "start", "payload": {"query": "{ me { login } }"}})).await;
    assert_eq!(playground.hear_of("2").await["payload"]["data"]["me"]["login"], "bob");
    assert_eq!(playground.hear_of("2").await, json!({"id": "2", "type": "complete"}));
    let mut phone = Device::watching(&b, None).await;
    phone.until_total(1).await;
    a.send(&dialog, "nobody there?").await;
    phone.until_total(2).await;
    playground.is_silent("1", Duration::from_millis(300)).await;

    playground.say(json!({"type": "connection_terminate"})).await;
    assert_eq!(playground.closed().await.0, 1000);
}

#[tokio::test]
async fn the_editors_are_there_only_where_introspection_is_on() {
    for (introspection, status) in [("on", 200), ("off", 404)] {
        let app = App::start_with(&[("INTROSPECTION", introspection)]).await;
        for path in ["/", "/playground"] {
            let response = reqwest::get(format!("{}{path}", app.url)).await.unwrap();
            assert_eq!(response.status(), status, "{path} with introspection {introspection}");
        }
    }
}
