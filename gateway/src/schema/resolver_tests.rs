//! Tests of the resolvers: whole documents against fake services, with the number of calls that they
//! need.

use std::sync::Arc;

use proto::{DialogId, MessageId, Peer, TransactionId, UserId, auth, counter, dialog};
use serde_json::{Value, json};
use testkit::FakeGrpc;
use tonic::Status;
use tower::{ServiceExt, util::BoxCloneSyncService};
use uuid::Uuid;

use crate::{
    peers::Peers,
    testing::{TestGateway, fake_service, reply, unavailable},
};

pub(super) fn user(number: u128) -> UserId {
    UserId::new(Uuid::from_u128(1_000_000 + number))
}

fn decode<M: prost::Message + Default>(bytes: &[u8]) -> M {
    M::decode(bytes).expect("the request decodes")
}

/// Returns dialog `number`: three participants who are in no other dialog, and one message by the first
/// of them.
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
        participant_ids: (0..3).map(|index| user(3 * number + index).bytes()).collect(),
        last_message: Some(message),
        ..dialog::Dialog::default()
    }
}

/// Fake services that know every user and every counter, and the dialogs 1 to 1,000.
pub fn all_services(method: &str, bytes: &[u8]) -> Result<Vec<u8>, Status> {
    match method {
        "List" => {
            let first = decode::<dialog::ListRequest>(bytes).first;
            let dialogs = (1..=u128::from(first.unsigned_abs())).map(dialog_of).collect();
            reply(&dialog::ListReply { dialogs, has_next: true })
        }
        "Get" => {
            let number = |id: &Vec<u8>| DialogId::parse(id).expect("an id").uuid().as_u128();
            let ids = decode::<dialog::GetRequest>(bytes).ids;
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
            let ids = decode::<auth::UsersRequest>(bytes).ids;
            reply(&auth::UsersReply { users: ids.into_iter().map(named).collect() })
        }
        "Rows" => {
            let row =
                |dialog_id| counter::Row { dialog_id, unread: 3, read_seq: 4, last_seq: 7, stale: false };
            let rows = decode::<counter::RowsRequest>(bytes).dialog_ids.into_iter().map(row).collect();
            reply(&counter::RowsReply { rows, version: Some(counter::Version { epoch: 1, number: 5 }) })
        }
        "ReadStates" => {
            let states = |page: counter::ReadStatesPage| {
                let number = DialogId::parse(&page.dialog_id).expect("an id").uuid().as_u128();
                let state =
                    |index| counter::ReadState { user_id: user(3 * number + index).bytes(), read_seq: 4 };
                counter::ReadStatesPageReply { found: true, states: (0..3).map(state).collect() }
            };
            let pages = decode::<counter::ReadStatesRequest>(bytes).pages.into_iter().map(states).collect();
            reply(&counter::ReadStatesReply { pages })
        }
        _ => unavailable(method, bytes),
    }
}

/// Fake services without counter.
fn without_counter(method: &str, bytes: &[u8]) -> Result<Vec<u8>, Status> {
    if matches!(method, "Rows" | "ReadStates") {
        unavailable(method, bytes)
    } else {
        all_services(method, bytes)
    }
}

/// Fake services without auth.
pub(super) fn without_auth(method: &str, bytes: &[u8]) -> Result<Vec<u8>, Status> {
    if method == "Users" { unavailable(method, bytes) } else { all_services(method, bytes) }
}

/// A page of dialogs with all their fields. `FIRST` stands for the page size.
pub const FULL_DIALOG_PAGE: &str = "{ dialogs(first: FIRST) {
    edges { cursor node { id title direct participantIds createdAt lastActivityAt unreadCount
        participants(first: 20) { edges { cursor node { id login name createdAt } }
            pageInfo { hasNextPage endCursor } }
        lastMessage { id dialogId seq senderId text status failureReason transactionId createdAt deletedAt
            sender { id login name createdAt } }
        readStates(first: 20) { userId readSeq user { id login name createdAt } } } }
    pageInfo { hasNextPage hasPreviousPage startCursor endCursor } } }";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_page_of_dialogs_needs_four_calls_at_any_size() {
    for first in [1, 20, 50] {
        let fixture = TestGateway::new(true, all_services);
        let answer = fixture.ask(&FULL_DIALOG_PAGE.replace("FIRST", &first.to_string())).await;
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
        let mut calls = fixture.calls.lock().clone();
        calls.sort();
        assert_eq!(calls, ["List", "ReadStates", "Rows", "Users"]);
    }
}

#[tokio::test]
async fn fields_are_returned_in_the_order_of_the_document() {
    let fixture = TestGateway::new(true, all_services);
    let query = "{ me { name id } dialogs(first: 1) {
        nodes { unreadCount title lastMessage { sender { name } text } id } } }";
    let body = json!({ "query": query });
    let token = format!("Bearer {}", fixture.token(300));
    let request = crate::testing::post(&body.to_string()).header("authorization", token);
    let answer = fixture.send(request.body(body.to_string().into()).expect("a request")).await;
    let me = format!(r#"{{"name":"A","id":"{}"}}"#, fixture.user);
    let message = r#"{"sender":{"name":"A"},"text":"hello 1"}"#;
    let id = DialogId::new(Uuid::from_u128(1));
    let dialog = format!(r#"{{"unreadCount":3,"title":"dialog 1","lastMessage":{message},"id":"{id}"}}"#);
    assert_eq!(answer.text, format!(r#"{{"data":{{"me":{me},"dialogs":{{"nodes":[{dialog}]}}}}}}"#));
}

#[tokio::test]
async fn without_the_counter_service_only_its_fields_are_null() {
    let query = "{ dialogs(first: 2) {
        nodes { title unreadCount readStates { readSeq } participants { nodes { name } } } } }";
    let answer = TestGateway::new(true, without_counter).ask(query).await;
    let node = |number: u32| {
        json!({
            "title": format!("dialog {number}"),
            "unreadCount": null,
            "readStates": null,
            "participants": { "nodes": [{ "name": "A" }, { "name": "A" }, { "name": "A" }] },
        })
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
async fn without_the_auth_service_only_users_are_null() {
    let query =
        "{ me { id } dialogs(first: 1) { nodes { participantIds participants { nodes { name } } unreadCount
        lastMessage { senderId sender { name } } readStates(first: 1) { userId user { name } } } } }";
    let answer = TestGateway::new(true, without_auth).ask(query).await;
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
async fn the_gateway_pages_participants() {
    let fixture = TestGateway::new(true, all_services);
    let page = |arguments: &str| {
        let id = DialogId::new(Uuid::from_u128(9));
        format!(
            "{{ dialog(id: \"{id}\") {{ participants({arguments}) {{
                nodes {{ id }} pageInfo {{ hasNextPage hasPreviousPage endCursor }} }} }} }}"
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
    let foreign = crate::schema::cursor::List::new("participants", "another").cursor(&user(27).to_string());
    for arguments in ["first: 0", "first: 101", "after: \"x\"", &format!("after: \"{foreign}\"")] {
        let answer = fixture.ask(&page(arguments)).await;
        assert_eq!(answer["data"], json!({ "dialog": { "participants": null } }), "{arguments}");
        assert_eq!(answer["errors"][0]["extensions"]["code"], "BAD_USER_INPUT", "{arguments}");
    }
}

#[tokio::test]
async fn malformed_ids_are_not_found_without_any_call() {
    let fixture = TestGateway::new(true, all_services);
    let query = r#"{ user(id: "x") { id } dialog(id: "") { id } message(id: "0") { id }
        dialogUnread(dialogId: "-") { unread } }"#;
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
    assert_eq!(fixture.calls.lock().len(), 0);
}

#[tokio::test]
async fn an_error_of_a_non_null_field_nulls_its_parent() {
    let query = "{ dialogs(first: 2) { nodes { title messages(first: 1) { nodes { text } } } } me { name } }";
    let answer = TestGateway::new(true, all_services).ask(query).await;
    assert_eq!(answer["data"], json!({ "dialogs": null, "me": { "name": "A" } }), "History is unavailable");
    let query = r#"{ dialog(id: "00000000-0000-0000-0000-000000000001") {
        title messages(first: 0) { nodes { text } } } }"#;
    let answer = TestGateway::new(true, all_services).ask(query).await;
    assert_eq!(answer["data"], json!({ "dialog": null }));
    assert_eq!(answer["errors"][0]["extensions"]["code"], "BAD_USER_INPUT");
}

#[tokio::test(start_paused = true)]
async fn a_dialog_is_left_even_if_the_counter_does_not_answer() {
    let leave = |_: &str, _: &[u8]| reply(&dialog::LeaveReply { version: 3 });
    let hanging = FakeGrpc::new(|_| std::future::pending::<Result<Vec<u8>, Status>>());
    let hanging: Peer = BoxCloneSyncService::new(hanging.map_err(|never| match never {}));
    for counter in [fake_service(unavailable, Arc::default()), hanging] {
        let dialog = fake_service(leave, Arc::default());
        let peers = Peers::new(fake_service(unavailable, Arc::default()), dialog, counter);
        let gateway = TestGateway::over(true, peers, Arc::default());
        let started = tokio::time::Instant::now();
        let document = format!("mutation {{ leaveDialog(dialogId: \"{}\") }}", DialogId::now());
        assert_eq!(gateway.ask(&document).await, json!({ "data": { "leaveDialog": true } }));
        assert!(started.elapsed() <= std::time::Duration::from_secs(3), "{:?}", started.elapsed());
    }
}
