//! What subscriptions promise beyond the main story: resuming, message streams, sessions that end.

use std::time::Duration;

use serde_json::{Value, json};
use testkit::eventually;
use tokio_tungstenite::tungstenite::Message;

use crate::{
    app::App,
    device::{Device, UNREAD},
    person::{PASSWORD, Person},
};

const MESSAGES: &str = "subscription($id: ID!, $since: String) { messages(dialogId: $id, since: $since) { kind version message { id seq text status senderId } } }";
const QUIET: Duration = Duration::from_millis(300);

#[tokio::test]
async fn a_device_that_comes_back_resumes_from_its_version() {
    let app = App::start().await;
    let (a, b) = (Person::register(&app, "ann").await, Person::register(&app, "bob").await);
    let dialog = a.create_group(&[&b], "two").await;
    let mut phone = Device::watching(&b, None).await;
    phone.frame("u", "unread").await;
    a.send(&dialog, "one").await;
    let seen = phone.frame("u", "unread").await["version"].clone();
    let mut current = Device::watching(&b, seen.as_str()).await;
    let first = current.frame("u", "unread").await;
    assert_eq!(
        (&first["kind"], &first["changed"], &first["total"]),
        (&json!("CURRENT"), &json!([]), &json!(1))
    );

    drop(phone);
    a.send(&dialog, "two").await;
    current.until_total(2).await;
    let mut back = Device::watching(&b, seen.as_str()).await;
    let first = back.frame("u", "unread").await;
    assert_eq!((&first["kind"], &first["total"]), (&json!("SNAPSHOT"), &json!(2)));
    for since in ["9-1", "1-999999", "0-0"] {
        let mut odd = Device::watching(&b, Some(since)).await;
        assert_eq!(odd.frame("u", "unread").await["kind"], "SNAPSHOT", "{since}");
    }
    let mut strange = Device::watching(&b, Some("yesterday")).await;
    let error = strange.hear_of("u").await;
    assert_eq!(
        error["payload"]["errors"].as_array().or(error["payload"].as_array()).unwrap()[0]["extensions"]["code"],
        "BAD_USER_INPUT",
        "{error}"
    );
}

#[tokio::test]
async fn messages_are_live_and_resume_from_a_version() {
    let app = App::start().await;
    let (a, b) = (Person::register(&app, "ann").await, Person::register(&app, "bob").await);
    let dialog = a.create_group(&[&b], "two").await;
    let mut phone = Device::connect(&b).await;
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
        "the newest state"
    );
    phone.subscribe("all", MESSAGES, json!({"id": dialog, "since": "0"})).await;
    assert_eq!(phone.frame("all", "messages").await["message"]["seq"], 1);
    phone.subscribe("foreign", MESSAGES, json!({"id": dialog, "since": "77-1"})).await;
    assert_eq!(phone.frame("foreign", "messages").await["kind"], "RESET");
}

#[tokio::test]
async fn who_leaves_hears_no_more_and_a_stranger_hears_nothing() {
    let app = App::start().await;
    let (a, b) = (Person::register(&app, "ann").await, Person::register(&app, "bob").await);
    let stranger = Person::register(&app, "mallory").await;
    let dialog = a.create_group(&[&b], "two").await;
    let mut phone = Device::connect(&b).await;
    phone.subscribe("m", MESSAGES, json!({"id": dialog})).await;
    phone.frame("m", "messages").await;
    b.data("mutation($id: ID!) { leaveDialog(dialogId: $id) }", json!({"id": dialog})).await;
    assert_eq!(phone.hear_of("m").await["type"], "complete");

    let mut ear = Device::connect(&stranger).await;
    ear.subscribe("m", MESSAGES, json!({"id": dialog})).await;
    ear.subscribe(
        "r",
        "subscription($id: ID!) { readStates(dialogId: $id) { userId } }",
        json!({"id": dialog}),
    )
    .await;
    for id in ["m", "r"] {
        let refused = ear.hear_of(id).await;
        assert!(refused.to_string().contains("NOT_FOUND"), "{refused}");
    }
    a.send(&dialog, "a secret").await;
    ear.is_silent("x", QUIET).await;
}

#[tokio::test]
async fn logging_out_closes_that_sessions_sockets_and_no_others() {
    let app = App::start().await;
    let phone_session = Person::register(&app, "ann").await;
    let laptop_session = Person::login(&app, "ann").await;
    let mut phone = Device::watching(&phone_session, None).await;
    let mut laptop = Device::watching(&laptop_session, None).await;
    phone.frame("u", "unread").await;
    laptop.frame("u", "unread").await;
    assert_eq!(phone_session.data("mutation { logout }", json!({})).await["logout"], true);
    assert_eq!(phone.closed().await.0, 4401);
    eventually("HTTP refuses the session", || async {
        let answer = phone_session.ask("{ me { login } }", json!({})).await;
        answer["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"
    })
    .await;
    assert_eq!(laptop_session.data("{ me { login } }", json!({})).await["me"]["login"], "ann");
    laptop.is_silent("u", QUIET).await;

    let change =
        "mutation($old: String!, $new: String!) { changePassword(old: $old, new: $new) { accessToken } }";
    laptop_session.data(change, json!({"old": PASSWORD, "new": "battery staple"})).await;
    assert_eq!(laptop.closed().await.0, 4401, "a changed password ends every session");
}

#[tokio::test]
async fn queries_and_mutations_run_over_the_socket_and_a_stop_closes_it_for_a_retry() {
    let app = App::start_with(&[("DRAIN_WINDOW", "200ms")]).await;
    let a = Person::register(&app, "ann").await;
    let mut phone = Device::connect(&a).await;
    phone.subscribe("q", "{ me { login } }", json!({})).await;
    assert_eq!(phone.frame("q", "me").await["login"], "ann");
    assert_eq!(phone.hear_of("q").await["type"], "complete");
    phone.subscribe("u", UNREAD, json!({})).await;
    phone.frame("u", "unread").await;
    let stopping = tokio::spawn(app.stop());
    assert_eq!(phone.closed().await.0, 1012);
    let (_, took) = stopping.await.unwrap();
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[tokio::test]
async fn each_wrong_way_to_speak_closes_the_socket_with_its_code() {
    let app = App::start().await;
    let a = Person::register(&app, "ann").await;
    let subscribe = json!({"id": "1", "type": "subscribe", "payload": {"query": "{ me { id } }"}});
    let mut early = Device::open(&a.url).await;
    early.say(subscribe.clone()).await;
    assert_eq!(early.closed().await.0, 4401, "subscribe before the ack");
    let mut twice = Device::connect(&a).await;
    twice.say(json!({"type": "connection_init"})).await;
    assert_eq!(twice.closed().await.0, 4429, "a second connection_init");
    let mut same = Device::connect(&a).await;
    for _ in 0..2 {
        same.subscribe("1", UNREAD, json!({})).await;
    }
    assert_eq!(same.closed().await.0, 4409, "an id that is in use");
    let long = format!("{{\"type\": \"{}\"}}", "x".repeat(5_000));
    for wrong in ["not JSON", "[]", r#"{"type": "dance"}"#, r#"{"type": "subscribe"}"#, &long] {
        let mut device = Device::connect(&a).await;
        device.say_raw(Message::text(wrong)).await;
        let (code, reason) = device.closed().await;
        assert!(code == 4400 && !reason.is_empty() && reason.len() < 100, "{wrong:.20}: {code} {reason}");
    }
    let mut binary = Device::connect(&a).await;
    binary.say_raw(Message::binary(vec![1, 2, 3])).await;
    assert_eq!(binary.closed().await.0, 4400);
    let mut large = Device::connect(&a).await;
    large.say_raw(Message::text("x".repeat(70_000))).await;
    assert_eq!(large.closed().await.0, 1009);
    let mut silent = Device::open(&a.url).await;
    assert_eq!(silent.closed().await.0, 4408, "no connection_init for 3 s");
    let mut device = Device::connect(&a).await;
    device.say(json!({"type": "ping"})).await;
    assert_eq!(device.hear().await["type"], "pong");
    device.subscribe("bad", "{ nonsense }", json!({})).await;
    let error = device.hear_of("bad").await;
    assert_eq!(
        (&error["type"], &error["payload"][0]["extensions"]["code"]),
        (&json!("error"), &json!("GRAPHQL_VALIDATION_FAILED"))
    );
}
