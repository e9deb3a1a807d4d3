//! Tests of Relay's object identification: `node` and `nodes` find each kind of object, with the
//! permissions of the caller and with one call per RPC.

use proto::{DialogId, MessageId, UserId, auth, dialog};
use serde_json::{Value, json};
use tonic::Status;
use uuid::Uuid;

use super::resolver_tests::{all_services, dialog_of, user};
use crate::testing::{FakeHandler, TestGateway, reply, unavailable};

const NODE: &str = "query($id: ID!) { node(id: $id) { ...Fields } }
    fragment Fields on Node { __typename id
        ... on User { name } ... on Dialog { title unreadCount } ... on Message { text } }";
const NODES: &str = "query($ids: [ID!]!) { nodes(ids: $ids) { ...Fields } }
    fragment Fields on Node { __typename id
        ... on User { name } ... on Dialog { title unreadCount } ... on Message { text } }";

/// Added to the number of a dialog, gives the number of its message. Objects of different kinds must not
/// have the same id.
const MESSAGE_OFFSET: u128 = 10_000;
/// An id that no service knows.
const UNKNOWN: &str = "00000000-0000-0000-0000-0000000007d0";

fn dialog_id(number: u128) -> String {
    DialogId::new(Uuid::from_u128(number)).to_string()
}

fn message_id(number: u128) -> String {
    MessageId::new(Uuid::from_u128(MESSAGE_OFFSET + number)).to_string()
}

fn decode<M: prost::Message + Default>(bytes: &[u8]) -> M {
    M::decode(bytes).expect("the request decodes")
}

/// Returns the message of dialog `number`.
fn message_of(number: u128) -> Option<dialog::Message> {
    let id = MessageId::new(Uuid::from_u128(MESSAGE_OFFSET + number)).bytes();
    Some(dialog::Message { id, ..dialog_of(number).last_message? })
}

/// Fake services that know the dialogs 1 to 1,000, the message of each dialog, and the users from number 0.
fn each_kind(method: &str, bytes: &[u8]) -> Result<Vec<u8>, Status> {
    match method {
        "Messages" => {
            let ids = decode::<dialog::MessagesRequest>(bytes).ids;
            let numbers = ids.iter().map(|id| MessageId::parse(id).expect("an id").uuid().as_u128());
            let numbers = numbers.filter_map(|number| number.checked_sub(MESSAGE_OFFSET));
            let messages = numbers.filter(|number| *number <= 1_000).filter_map(message_of);
            reply(&dialog::MessagesReply { messages: messages.collect() })
        }
        "Users" => {
            let mut request = decode::<auth::UsersRequest>(bytes);
            request.ids.retain(|id| UserId::parse(id).expect("an id") >= user(0));
            all_services(method, &prost::Message::encode_to_vec(&request))
        }
        _ => all_services(method, bytes),
    }
}

/// Fake services without auth.
fn without_auth(method: &str, bytes: &[u8]) -> Result<Vec<u8>, Status> {
    if method == "Users" { unavailable(method, bytes) } else { each_kind(method, bytes) }
}

/// Fake services without dialog.
fn without_dialog(method: &str, bytes: &[u8]) -> Result<Vec<u8>, Status> {
    if matches!(method, "Get" | "Messages") { unavailable(method, bytes) } else { each_kind(method, bytes) }
}

async fn query_node(fixture: &TestGateway, id: &str) -> Value {
    fixture.ask_with(&json!({ "query": NODE, "variables": { "id": id } })).await
}

async fn query_nodes(fixture: &TestGateway, ids: &[String]) -> Value {
    fixture.ask_with(&json!({ "query": NODES, "variables": { "ids": ids } })).await
}

fn sorted_calls(fixture: &TestGateway) -> Vec<String> {
    let mut calls = fixture.calls.lock().clone();
    calls.sort();
    calls
}

fn expected_user(number: u128) -> Value {
    json!({ "__typename": "User", "id": user(number).to_string(), "name": "A" })
}

fn expected_dialog(number: u128) -> Value {
    let title = format!("dialog {number}");
    json!({ "__typename": "Dialog", "id": dialog_id(number), "title": title, "unreadCount": 3 })
}

fn expected_message(number: u128) -> Value {
    json!({ "__typename": "Message", "id": message_id(number), "text": format!("hello {number}") })
}

#[tokio::test]
async fn node_finds_each_kind_of_object() {
    for (id, expected) in [
        (user(1).to_string(), expected_user(1)),
        (dialog_id(9), expected_dialog(9)),
        (message_id(9), expected_message(9)),
    ] {
        let answer = query_node(&TestGateway::new(true, each_kind), &id).await;
        assert_eq!(answer, json!({ "data": { "node": expected } }));
    }
}

#[tokio::test]
async fn several_node_fields_need_one_call_per_rpc() {
    let fixture = TestGateway::new(true, each_kind);
    let query = format!(
        "{{ a: node(id: \"{}\") {{ id }} b: node(id: \"{}\") {{ id }} c: node(id: \"{}\") {{ id }} }}",
        user(1),
        dialog_id(9),
        message_id(9)
    );
    let data = json!({
        "a": { "id": user(1).to_string() },
        "b": { "id": dialog_id(9) },
        "c": { "id": message_id(9) },
    });
    assert_eq!(fixture.ask(&query).await, json!({ "data": data }));
    assert_eq!(sorted_calls(&fixture), ["Get", "Messages", "Users"]);
}

#[tokio::test]
async fn malformed_ids_are_null_without_any_call() {
    let fixture = TestGateway::new(true, each_kind);
    let unhyphenated = DialogId::new(Uuid::from_u128(9)).uuid().simple().to_string();
    for id in ["", "9", "Dialog:9", &unhyphenated] {
        assert_eq!(query_node(&fixture, id).await, json!({ "data": { "node": null } }), "{id}");
        let answer = query_nodes(&fixture, &[id.to_owned()]).await;
        assert_eq!(answer, json!({ "data": { "nodes": [null] } }), "{id}");
    }
    assert_eq!(query_nodes(&fixture, &[]).await, json!({ "data": { "nodes": [] } }));
    assert_eq!(fixture.calls.lock().len(), 0);
}

/// The services leave out an object that the caller may not see, the same as an unknown one.
#[tokio::test]
async fn unknown_and_forbidden_objects_are_null_without_an_error() {
    let fixture = TestGateway::new(true, each_kind);
    assert_eq!(query_node(&fixture, UNKNOWN).await, json!({ "data": { "node": null } }));
    assert_eq!(sorted_calls(&fixture), ["Get", "Messages", "Users"]);
    let answer = query_nodes(&fixture, &[UNKNOWN.to_owned(), dialog_id(9), UNKNOWN.to_owned()]).await;
    assert_eq!(answer, json!({ "data": { "nodes": [null, expected_dialog(9), null] } }));
}

#[tokio::test]
async fn a_hundred_nodes_need_one_call_per_rpc_and_keep_their_order() {
    let fixture = TestGateway::new(true, each_kind);
    let id = |number: u128| match number % 4 {
        0 => user(number).to_string(),
        1 => dialog_id(number),
        2 => message_id(number),
        _ => UNKNOWN.to_owned(),
    };
    let ids: Vec<String> = (0..100).map(id).collect();
    let expected = (0..100).map(|number| match number % 4 {
        0 => expected_user(number),
        1 => expected_dialog(number),
        2 => expected_message(number),
        _ => Value::Null,
    });
    let expected = json!({ "data": { "nodes": expected.collect::<Value>() } });
    assert_eq!(query_nodes(&fixture, &ids).await, expected);
    assert_eq!(sorted_calls(&fixture), ["Get", "Messages", "Rows", "Users"]);
}

#[tokio::test]
async fn fields_of_nodes_are_loaded_in_one_call() {
    let fixture = TestGateway::new(true, each_kind);
    let query = "query($ids: [ID!]!) { nodes(ids: $ids) { ... on Message { sender { name } } } }";
    let ids: Vec<String> = (1..=50).map(message_id).collect();
    let answer = fixture.ask_with(&json!({ "query": query, "variables": { "ids": ids } })).await;
    let expected = vec![json!({ "sender": { "name": "A" } }); 50];
    assert_eq!(answer, json!({ "data": { "nodes": expected } }));
    assert_eq!(sorted_calls(&fixture), ["Get", "Messages", "Users", "Users"]);
}

#[tokio::test]
async fn nodes_accepts_at_most_a_hundred_ids() {
    let fixture = TestGateway::new(true, each_kind);
    let answer = query_nodes(&fixture, &vec![dialog_id(9); 101]).await;
    assert_eq!(
        (&answer["data"], &answer["errors"][0]["extensions"]["code"]),
        (&Value::Null, &json!("BAD_USER_INPUT"))
    );
    assert_eq!(fixture.calls.lock().len(), 0);
}

#[tokio::test]
async fn nodes_cost_their_content_times_the_number_of_ids() {
    let fixture = TestGateway::new(true, each_kind);
    let query = "query($ids: [ID!]!) { nodes(ids: $ids) {
        ... on Dialog { messages(first: 100) { nodes { id seq } } } } }";
    let body = |count: usize| {
        let ids = vec![dialog_id(9); count];
        json!({ "query": query, "variables": { "ids": ids } })
    };
    assert_eq!(fixture.post(&body(100)).await.code(), "LIMIT_EXCEEDED");
    assert_eq!(fixture.post(&body(2)).await.code(), "UNAUTHENTICATED", "the cost is within its limit");
}

#[tokio::test]
async fn an_unavailable_service_nulls_only_what_no_other_service_has() {
    let user_id = user(1).to_string();
    let cases: [(FakeHandler, &str, Value); 6] = [
        (without_auth, &user_id, Value::Null),
        (without_auth, &dialog_id(9), expected_dialog(9)),
        (without_auth, &message_id(9), expected_message(9)),
        (without_dialog, &user_id, expected_user(1)),
        (without_dialog, &dialog_id(9), Value::Null),
        (without_dialog, &message_id(9), Value::Null),
    ];
    for (services, id, expected) in cases {
        let answer = query_node(&TestGateway::new(true, services), id).await;
        assert_eq!(answer["data"], json!({ "node": expected }), "{id}");
        if expected.is_null() {
            assert_eq!(answer["errors"][0]["extensions"]["code"], "UNAVAILABLE", "{id}");
            assert_eq!(answer["errors"][0]["path"], json!(["node"]), "{id}");
        } else {
            assert_eq!(answer.get("errors"), None, "{id}");
        }
    }
}

#[tokio::test]
async fn an_unavailable_service_nulls_only_its_nodes() {
    let fixture = TestGateway::new(true, without_auth);
    let user_id = user(1).to_string();
    let answer = query_nodes(&fixture, &[user_id.clone(), dialog_id(9), message_id(9), user_id]).await;
    let expected = json!({ "nodes": [null, expected_dialog(9), expected_message(9), null] });
    assert_eq!(answer["data"], expected, "{answer}");
    let errors = answer["errors"].as_array().expect("errors");
    let mut paths: Vec<String> = errors.iter().map(|error| error["path"].to_string()).collect();
    paths.sort();
    assert_eq!(paths, [r#"["nodes",0]"#, r#"["nodes",3]"#]);
    assert!(errors.iter().all(|error| error["extensions"]["code"] == "UNAVAILABLE"), "{errors:?}");
}

#[tokio::test]
async fn node_and_nodes_require_authentication() {
    let fixture = TestGateway::new(true, each_kind);
    let node = fixture.post(&json!({ "query": NODE, "variables": { "id": dialog_id(9) } })).await;
    assert_eq!((&node.json["data"]["node"], node.code()), (&Value::Null, "UNAUTHENTICATED"));
    let nodes = fixture.post(&json!({ "query": NODES, "variables": { "ids": [dialog_id(9)] } })).await;
    assert_eq!((&nodes.json["data"], nodes.code()), (&Value::Null, "UNAUTHENTICATED"));
    assert_eq!(fixture.calls.lock().len(), 0);
}

#[tokio::test]
async fn a_null_field_of_a_node_does_not_affect_the_other_nodes() {
    let query = "query($ids: [ID!]!) { nodes(ids: $ids) { id
        ... on Dialog { messages(first: 1) { nodes { text } } } } }";
    let ids = [dialog_id(9), message_id(9)];
    let body = json!({ "query": query, "variables": { "ids": ids } });
    let answer = TestGateway::new(true, each_kind).ask_with(&body).await;
    assert_eq!(answer["data"], json!({ "nodes": [null, { "id": message_id(9) }] }), "History is unavailable");
    assert_eq!(answer["errors"][0]["path"], json!(["nodes", 0, "messages"]));
}
