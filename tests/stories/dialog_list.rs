//! The subscription to the list of dialogs: a dialog appears, changes and disappears on every device at
//! once.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{app::App, caller::Caller, endpoint::Endpoint, socket_client::SocketClient};

const DIALOGS: &str = "subscription { dialogs { kind dialogId dialog { id title participantIds } } }";
const CREATE: &str = "mutation($input: CreateDialogInput!) { createDialog(input: $input) { id } }";
const ADD: &str =
    "mutation($id: ID!, $users: [ID!]!) { addParticipants(dialogId: $id, userIds: $users) { id } }";
const RENAME: &str =
    "mutation($id: ID!, $title: String!) { renameDialog(dialogId: $id, title: $title) { title } }";
const LEAVE: &str = "mutation($id: ID!) { leaveDialog(dialogId: $id) }";

#[tokio::test]
async fn dialogs_appear_and_disappear_at_once() {
    let app = App::start().await;
    run(&app).await;
}

async fn watch(caller: &Caller) -> SocketClient {
    let mut socket = SocketClient::connect(caller).await;
    socket.subscribe("d", DIALOGS, json!({})).await;
    let first = socket.frame("d", "dialogs").await;
    assert_eq!(first, json!({"kind": "RESET", "dialogId": null, "dialog": null}));
    socket
}

async fn expect(sockets: &mut [&mut SocketClient], kind: &str, id: &Value, title: &Value) {
    for socket in sockets {
        let frame = socket.frame("d", "dialogs").await;
        assert_eq!((&frame["kind"], &frame["dialogId"]), (&json!(kind), id), "{frame}");
        assert_eq!(&frame["dialog"]["title"], title, "{frame}");
    }
}

/// Two users with two devices each, on two gateways if there are two.
pub async fn run(endpoint: &Endpoint) {
    let lea = Caller::register(endpoint, "lea").await;
    let max = Caller::register(endpoint, "max").await;
    let mia = Caller::register(endpoint, "mia").await;
    let elsewhere = Caller::login(&endpoint.second_gateway(), "max").await;
    let mut lea_phone = watch(&lea).await;
    let mut max_phone = watch(&max).await;
    let mut max_laptop = watch(&elsewhere).await;

    let input = json!({"input": {"participantIds": [max.id], "title": "plans"}});
    let id = lea.data(CREATE, input).await["createDialog"]["id"].clone();
    let everyone = &mut [&mut lea_phone, &mut max_phone, &mut max_laptop];
    expect(everyone, "JOINED", &id, &json!("plans")).await;

    let renamed = max.data(RENAME, json!({"id": id, "title": "better plans"})).await;
    assert_eq!(renamed["renameDialog"]["title"], "better plans");
    expect(everyone, "RENAMED", &id, &json!("better plans")).await;
    max.data(RENAME, json!({"id": id, "title": "better plans"})).await;

    max.data(LEAVE, json!({"id": id})).await;
    expect(&mut everyone[1..], "LEFT", &id, &Value::Null).await;
    assert_eq!(max.error_code(RENAME, json!({"id": id, "title": "mine"})).await, "NOT_FOUND");
    lea.data(ADD, json!({"id": id, "users": [max.id, mia.id]})).await;
    expect(&mut everyone[1..], "JOINED", &id, &json!("better plans")).await;
    lea.data(RENAME, json!({"id": id, "title": "plans of three"})).await;
    expect(everyone, "RENAMED", &id, &json!("plans of three")).await;
    for socket in everyone.iter_mut() {
        socket.expect_silence("d", Duration::from_millis(200)).await;
    }

    let direct = json!({"input": {"participantIds": [max.id]}});
    let direct = lea.data(CREATE, direct).await["createDialog"]["id"].clone();
    expect(everyone, "JOINED", &direct, &Value::Null).await;
    for (id, title) in [(&direct, "no title"), (&id, ""), (&id, "\u{202e}"), (&id, &"x".repeat(65))] {
        assert_eq!(
            lea.error_code(RENAME, json!({"id": id, "title": title})).await,
            "BAD_USER_INPUT",
            "{title}"
        );
    }
}
