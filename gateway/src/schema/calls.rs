//! What answers cost in calls, and that they are right: whole documents over services that are played.

use proto::{DialogId, MessageId, TransactionId, UserId, auth, counter, dialog};
use serde_json::{Value, json};
use tonic::Status;
use uuid::Uuid;

use crate::fixture::{Fixture, away, reply};

pub(super) fn user(number: u128) -> UserId {
    UserId::new(Uuid::from_u128(1_000_000 + number))
}

fn read<M: prost::Message + Default>(bytes: &[u8]) -> M {
    M::decode(bytes).expect("a request")
}

/// The dialog of this number: three people of its own, one message by the first.
pub(super) fn dialog_of(number: u128) -> dialog::Dialog {
    let id = DialogId::new(Uuid::from_u128(number)).bytes();
    let message = dialog::Message {
        id: MessageId::new(Uuid::from_u128(number)).bytes(),
        dialog_id: id.clone(),
        seq: 7,
        sender_id: user(3 * number).bytes(),
        text: format!("hello {number}"),
        status: dialog::Status::Committed.into(),
        transaction_id: TransactionId::new(Uuid::from_u128(number)).bytes(),
        ..dialog::Message::default()
    };
    dialog::Dialog {
        id,
        title: Some(format!("dialog {number}")),
        participant_ids: (0..3).map(|place| user(3 * number + place).bytes()).collect(),
        last_message: Some(message),
        ..dialog::Dialog::default()
    }
}

/// Users, dialogs and counters that are all there.
pub(super) fn present(method: &str, bytes: &[u8]) -> Result<Vec<u8>, Status> {
    match method {
        "List" => {
            let first = read::<dialog::ListRequest>(bytes).first;
            let dialogs = (1..=u128::from(first.unsigned_abs())).map(dialog_of).collect();
            reply(&dialog::ListReply { dialogs, has_next: true })
        }
        "Get" => {
            let number = |id: &Vec<u8>| DialogId::parse(id).expect("an id").uuid().as_u128();
            let ids = read::<dialog::GetRequest>(bytes).ids;
            let dialogs = ids.iter().map(number).filter(|number| *number <= 1_000).map(dialog_of).collect();
            reply(&dialog::GetReply { dialogs })
        }
        "Users" => {
            let named = |id: Vec<u8>| auth::User {
                name: "A".to_owned(),
                login: "a".to_owned(),
                id,
                created_at_us: 0,
            };
            let ids = read::<auth::UsersRequest>(bytes).ids;
            reply(&auth::UsersReply { users: ids.into_iter().map(named).collect() })
        }
        "Rows" => {
            let row = |dialog_id| counter::Row { dialog_id, unread: 3, read_seq: 4, last_seq: 7 };
            let rows = read::<counter::RowsRequest>(bytes).dialog_ids.into_iter().map(row).collect();
            reply(&counter::RowsReply { rows, version: Some(counter::Version { epoch: 1, number: 5 }) })
        }
        "ReadStates" => {
            let states = |page: counter::ReadStatesPage| {
                let number = DialogId::parse(&page.dialog_id).expect("an id").uuid().as_u128();
                let state =
                    |place| counter::ReadState { user_id: user(3 * number + place).bytes(), read_seq: 4 };
                counter::ReadStatesPageReply { found: true, states: (0..3).map(state).collect() }
            };
            let pages = read::<counter::ReadStatesRequest>(bytes).pages.into_iter().map(states).collect();
            reply(&counter::ReadStatesReply { pages })
        }
        _ => away(method, bytes),
    }
}

/// The same without the counters.
fn uncounted(method: &str, bytes: &[u8]) -> Result<Vec<u8>, Status> {
    if matches!(method, "Rows" | "ReadStates") { away(method, bytes) } else { present(method, bytes) }
}

/// The same without auth.
pub(super) fn nameless(method: &str, bytes: &[u8]) -> Result<Vec<u8>, Status> {
    if method == "Users" { away(method, bytes) } else { present(method, bytes) }
}

/// A page of dialogs with everything; its size is to be put for FIRST.
pub const EVERYTHING: &str = "{ dialogs(first: FIRST) {
    edges { cursor node { id title direct participantIds createdAt lastActivityAt unreadCount
        participants(first: 20) { edges { cursor node { id login name createdAt } } pageInfo { hasNextPage endCursor } }
        lastMessage { id dialogId seq senderId text status failureReason transactionId createdAt deletedAt
            sender { id login name createdAt } }
        readStates(first: 20) { userId readSeq user { id login name createdAt } } } }
    pageInfo { hasNextPage hasPreviousPage startCursor endCursor } } }";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_dialogs_with_everything_makes_four_calls_whatever_its_size() {
    for first in [1, 20, 50] {
        let fixture = Fixture::new(true, present);
        let answer = fixture.ask(&EVERYTHING.replace("FIRST", &first.to_string())).await;
        assert_eq!(answer.get("errors"), None);
        let edges = answer["data"]["dialogs"]["edges"].as_array().expect("edges");
        assert_eq!(edges.len(), first);
        for edge in edges {
            let node = &edge["node"];
            assert_eq!(
                (&node["unreadCount"], &node["lastMessage"]["sender"]["name"]),
                (&json!(3), &json!("A"))
            );
            assert_eq!(node["participants"]["edges"].as_array().map(Vec::len), Some(3));
            assert_eq!(node["readStates"][2]["user"]["name"], "A");
        }
        let mut calls = fixture.calls.lock().expect("calls").clone();
        calls.sort();
        assert_eq!(calls, ["List", "ReadStates", "Rows", "Users"]);
    }
}

#[tokio::test]
async fn names_come_in_the_order_of_the_document() {
    let fixture = Fixture::new(true, present);
    let body = json!({ "query": "{ me { name id } dialogs(first: 1) { nodes { unreadCount title lastMessage { sender { name } text } id } } }" });
    let token = format!("Bearer {}", fixture.token(300));
    let request = crate::fixture::post(&body.to_string()).header("authorization", token);
    let answer = fixture.send(request.body(body.to_string().into()).expect("a request")).await;
    let expected = format!(
        r#"{{"data":{{"me":{{"name":"A","id":"{}"}},"dialogs":{{"nodes":[{{"unreadCount":3,"title":"dialog 1","lastMessage":{{"sender":{{"name":"A"}},"text":"hello 1"}},"id":"{}"}}]}}}}}}"#,
        fixture.user,
        DialogId::new(Uuid::from_u128(1))
    );
    assert_eq!(answer.text, expected);
}

#[tokio::test]
async fn without_the_counters_only_their_fields_are_null() {
    let query = "{ dialogs(first: 2) { nodes { title unreadCount readStates { readSeq } participants { nodes { name } } } } }";
    let answer = Fixture::new(true, uncounted).ask(query).await;
    let node = |number: u32| {
        let people = json!({ "nodes": [{ "name": "A" }, { "name": "A" }, { "name": "A" }] });
        json!({ "title": format!("dialog {number}"), "unreadCount": null, "readStates": null, "participants": people })
    };
    assert_eq!(answer["data"], json!({ "dialogs": { "nodes": [node(1), node(2)] } }));
    let errors = answer["errors"].as_array().expect("errors");
    assert_eq!(errors.len(), 4);
    assert!(errors.iter().all(|error| error["extensions"]["code"] == "UNAVAILABLE"), "{errors:?}");
    assert!(
        errors.iter().any(|error| error["path"] == json!(["dialogs", "nodes", 1, "unreadCount"])),
        "{errors:?}"
    );
}

#[tokio::test]
async fn without_auth_only_names_are_null() {
    let query =
        "{ me { id } dialogs(first: 1) { nodes { participantIds participants { nodes { name } } unreadCount
        lastMessage { senderId sender { name } } readStates(first: 1) { userId user { name } } } } }";
    let answer = Fixture::new(true, nameless).ask(query).await;
    let node = &answer["data"]["dialogs"]["nodes"][0];
    assert_eq!(
        (&answer["data"]["me"], &node["participants"], &node["unreadCount"]),
        (&Value::Null, &Value::Null, &json!(3))
    );
    assert_eq!(node["lastMessage"], json!({ "senderId": user(3).to_string(), "sender": null }));
    assert_eq!(node["readStates"][0], json!({ "userId": user(3).to_string(), "user": null }));
    assert_eq!(node["participantIds"].as_array().map(Vec::len), Some(3));
}

#[tokio::test]
async fn participants_are_paged_by_the_gateway() {
    let fixture = Fixture::new(true, present);
    let page = |arguments: &str| {
        let id = DialogId::new(Uuid::from_u128(9));
        format!(
            "{{ dialog(id: \"{id}\") {{ participants({arguments}) {{ nodes {{ id }} pageInfo {{ hasNextPage hasPreviousPage endCursor }} }} }} }}"
        )
    };
    let first = fixture.ask(&page("first: 2")).await["data"]["dialog"]["participants"].clone();
    assert_eq!(first["nodes"], json!([{ "id": user(27).to_string() }, { "id": user(28).to_string() }]));
    let cursor = first["pageInfo"]["endCursor"].as_str().expect("a cursor");
    assert_eq!(
        first["pageInfo"],
        json!({ "hasNextPage": true, "hasPreviousPage": false, "endCursor": cursor })
    );
    let second =
        fixture.ask(&page(&format!("first: 2, after: \"{cursor}\""))).await["data"]["dialog"]["participants"]
            .clone();
    assert_eq!(second["nodes"], json!([{ "id": user(29).to_string() }]));
    assert_eq!(
        (&second["pageInfo"]["hasNextPage"], &second["pageInfo"]["hasPreviousPage"]),
        (&json!(false), &json!(true))
    );
    let foreign = crate::cursor::List::new("participants", "another").cursor(&user(27).to_string());
    for arguments in ["first: 0", "first: 101", "after: \"x\"", &format!("after: \"{foreign}\"")] {
        let answer = fixture.ask(&page(arguments)).await;
        assert_eq!(answer["data"], json!({ "dialog": { "participants": null } }), "{arguments}");
        assert_eq!(answer["errors"][0]["extensions"]["code"], "BAD_USER_INPUT", "{arguments}");
    }
}

#[tokio::test]
async fn what_is_no_id_looks_absent_and_asks_nobody() {
    let fixture = Fixture::new(true, present);
    let query = r#"{ user(id: "x") { id } dialog(id: "") { id } message(id: "0") { id } dialogUnread(dialogId: "-") { unread } }"#;
    let answer = fixture.ask(query).await;
    let nothing = json!({ "user": null, "dialog": null, "message": null, "dialogUnread": null });
    assert_eq!(answer, json!({ "data": nothing }));
    for mutation in [
        r#"markRead(input: { dialogId: "x" }) { total }"#,
        r#"sendMessage(input: { dialogId: "x", text: "y" }) { id }"#,
        r#"deleteMessage(id: "x") { id }"#,
        r#"leaveDialog(dialogId: "x")"#,
    ] {
        let answer = fixture.ask(&format!("mutation {{ {mutation} }}")).await;
        assert_eq!(
            (&answer["data"], &answer["errors"][0]["extensions"]["code"]),
            (&Value::Null, &json!("NOT_FOUND"))
        );
    }
    for query in [
        "{ message { id } }",
        r#"{ message(id: "1", transactionId: "2") { id } }"#,
        r#"{ unread(atLeast: "soon") { total } }"#,
    ] {
        assert_eq!(fixture.ask(query).await["errors"][0]["extensions"]["code"], "BAD_USER_INPUT", "{query}");
    }
    assert_eq!(fixture.calls.lock().expect("calls").len(), 0);
}

#[tokio::test]
async fn a_failure_of_a_field_that_cannot_be_null_takes_its_parent() {
    let query = "{ dialogs(first: 2) { nodes { title messages(first: 1) { nodes { text } } } } me { name } }";
    let answer = Fixture::new(true, present).ask(query).await;
    assert_eq!(answer["data"], json!({ "dialogs": null, "me": { "name": "A" } }), "history is away");
    let answer = Fixture::new(true, present)
        .ask(
            r#"{ dialog(id: "00000000-0000-0000-0000-000000000001") { title messages(first: 0) { nodes { text } } } }"#,
        )
        .await;
    assert_eq!(answer["data"], json!({ "dialog": null }));
    assert_eq!(answer["errors"][0]["extensions"]["code"], "BAD_USER_INPUT");
}
