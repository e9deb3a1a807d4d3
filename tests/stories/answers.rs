//! Answering and leaving: what a user's own actions do to the user's own counts, on all devices.

use serde_json::{Value, json};

use crate::{app::App, caller::Caller, endpoint::Endpoint, socket_client::SocketClient};

const SEND: &str = "mutation($input: SendMessageInput!) { sendMessage(input: $input) { id seq } }";
const LEAVE: &str = "mutation($id: ID!) { leaveDialog(dialogId: $id) }";

#[tokio::test]
async fn an_answer_reads_what_its_author_had_seen() {
    let app = App::start().await;
    answers(&app).await;
}

#[tokio::test]
async fn a_dialog_is_gone_when_leaving_it_is_answered() {
    let app = App::start().await;
    leaving(&app).await;
}

/// Ann answers while messages that she has not seen arrive.
pub async fn answers(endpoint: &Endpoint) {
    let ann = Caller::register(endpoint, "amy").await;
    let bob = Caller::register(endpoint, "ben").await;
    let dialog = ann.create_group(&[&bob], "answers").await;
    let elsewhere = ann.create_group(&[&bob], "elsewhere").await;
    let mut seen = Value::Null;
    for number in 1..=2 {
        seen = bob.send(&dialog, &format!("question {number}")).await["id"].clone();
    }
    let mut phone = SocketClient::watch_unread(&ann, None).await;
    wait_for_row(&mut phone, &dialog, |row| row["unread"] == 2).await;
    let unseen = bob.send(&dialog, "one more").await["id"].clone();
    let answer = |text: &str, seen: &Value| {
        let input = json!({"dialogId": dialog, "text": text, "readUpTo": seen});
        json!({ "input": input })
    };

    assert_eq!(ann.data(SEND, answer("an answer", &seen)).await["sendMessage"]["seq"], 4);
    let row = wait_for_row(&mut phone, &dialog, |row| row["readSeq"] == 2).await;
    assert_eq!(row["unread"], 1, "the message that she had not seen stays unread");

    ann.data(SEND, answer("another answer", &unseen)).await;
    let row = wait_for_row(&mut phone, &dialog, |row| row["readSeq"] == 5).await;
    assert_eq!(row["unread"], 0, "the position steps over her own two messages");

    for strange in [bob.send(&elsewhere, "elsewhere").await["id"].clone(), json!("7"), json!("")] {
        assert_eq!(ann.error_code(SEND, answer("lost", &strange)).await, "NOT_FOUND", "{strange}");
    }
    ann.data(SEND, answer("null is no position", &Value::Null)).await;
    let history = "query($id: ID!) { dialog(id: $id) { messages { nodes { text } } } }";
    let data = ann.data(history, json!({"id": dialog})).await;
    assert_eq!(
        data["dialog"]["messages"]["nodes"].as_array().unwrap().len(),
        6,
        "a refused answer sends nothing"
    );
}

/// Leaves dialogs with unread messages and asks immediately, many times.
pub async fn leaving(endpoint: &Endpoint) {
    let ann = Caller::register(endpoint, "abe").await;
    let bob = Caller::register(endpoint, "bea").await;
    let counters =
        "query($id: ID!) { unread { total dialogs { dialogId } } dialogUnread(dialogId: $id) { unread } }";
    for round in 0..20 {
        let dialog = ann.create_group(&[&bob], "left").await;
        let mut phone = SocketClient::watch_unread(&bob, None).await;
        ann.send(&dialog, "unread").await;
        wait_for_row(&mut phone, &dialog, |row| row["unread"] == 1).await;
        bob.data(LEAVE, json!({"id": dialog})).await;
        let data = bob.data(counters, json!({"id": dialog})).await;
        assert_eq!(data["dialogUnread"], Value::Null, "round {round}: {data}");
        assert_eq!(data["unread"], json!({"total": 0, "dialogs": []}), "round {round}");
        let row = wait_for_row(&mut phone, &dialog, |row| row["unread"] == 0).await;
        assert_eq!(row["dialogId"], json!(dialog));
        assert_eq!(bob.error_code(LEAVE, json!({"id": dialog})).await, "NOT_FOUND");
    }
}

/// Waits for a frame whose row of the dialog has this property, and returns the row.
async fn wait_for_row(socket: &mut SocketClient, dialog: &str, holds: impl Fn(&Value) -> bool) -> Value {
    loop {
        let frame = socket.frame("u", "unread").await;
        let rows = frame["changed"].as_array().unwrap();
        if let Some(row) = rows.iter().find(|row| row["dialogId"] == dialog && holds(row)) {
            return row.clone();
        }
    }
}
