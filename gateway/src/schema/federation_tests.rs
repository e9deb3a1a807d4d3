//! Tests of Apollo Federation: entities by key, with the permissions of the caller, and the subgraph
//! schema.

use proto::{DialogId, MessageId, dialog};
use serde_json::{Value, json};
use tonic::Status;
use uuid::Uuid;

use super::resolver_tests::{all_services, dialog_of, user, without_auth};
use crate::testing::{TestGateway, reply};

const ENTITIES: &str = "query($keys: [_Any!]!) { _entities(representations: $keys) { __typename
    ... on User { name } ... on Dialog { title unreadCount } ... on Message { text } } }";

/// Fake services that also know the message of each dialog. A message has the number of its dialog.
fn with_messages(method: &str, bytes: &[u8]) -> Result<Vec<u8>, Status> {
    if method != "Messages" {
        return all_services(method, bytes);
    }
    let ids = <dialog::MessagesRequest as prost::Message>::decode(bytes).expect("the request decodes").ids;
    let numbers = ids.iter().map(|id| MessageId::parse(id).expect("an id").uuid().as_u128());
    let messages =
        numbers.filter(|number| *number <= 1_000).filter_map(|number| dialog_of(number).last_message);
    reply(&dialog::MessagesReply { messages: messages.collect() })
}

fn dialog_key(number: u128) -> Value {
    json!({ "__typename": "Dialog", "id": DialogId::new(Uuid::from_u128(number)).to_string() })
}

async fn query_entities(fixture: &TestGateway, keys: &[Value]) -> Value {
    let body = json!({ "query": ENTITIES, "variables": { "keys": keys } });
    fixture.ask_with(&body).await
}

#[tokio::test]
async fn entities_are_resolved_with_the_permissions_of_the_caller() {
    let fixture = TestGateway::new(true, all_services);
    let user = user(1);
    let known = DialogId::new(Uuid::from_u128(9));
    let foreign = DialogId::new(Uuid::from_u128(2_000));
    let query = format!(
        r#"{{ _entities(representations: [{{ __typename: "Dialog", id: "{known}" }},
            {{ __typename: "Dialog", id: "{foreign}" }}, {{ __typename: "User", id: "{user}" }}])
            {{ __typename ... on User {{ name }} ... on Dialog {{ title }} }} }}"#
    );
    let answer = fixture.ask(&query).await;
    let expected =
        json!([{ "__typename": "Dialog", "title": "dialog 9" }, null, { "__typename": "User", "name": "A" }]);
    assert_eq!(answer["data"]["_entities"], expected, "{answer}");
    let answer = fixture.post(&json!({ "query": query })).await;
    assert_eq!((&answer.json["data"], answer.code()), (&Value::Null, "UNAUTHENTICATED"));
}

#[tokio::test]
async fn a_hundred_entities_need_one_call_per_rpc_and_keep_their_order() {
    let fixture = TestGateway::new(true, with_messages);
    let key = |number: u128| match number % 3 {
        0 => json!({ "__typename": "User", "id": user(number).to_string() }),
        1 => dialog_key(number),
        _ => json!({ "__typename": "Message", "id": MessageId::new(Uuid::from_u128(number)).to_string() }),
    };
    let keys: Vec<Value> = (0..100).map(key).collect();
    let answer = query_entities(&fixture, &keys).await;
    let expected = (0..100).map(|number| match number % 3 {
        0 => json!({ "__typename": "User", "name": "A" }),
        1 => json!({ "__typename": "Dialog", "title": format!("dialog {number}"), "unreadCount": 3 }),
        _ => json!({ "__typename": "Message", "text": format!("hello {number}") }),
    });
    assert_eq!(answer["data"]["_entities"], expected.collect::<Value>(), "{answer}");
    let mut calls = fixture.calls.lock().clone();
    calls.sort();
    assert_eq!(calls, ["Get", "Messages", "Rows", "Users"]);
}

#[tokio::test]
async fn malformed_unknown_and_forbidden_keys_are_null_without_an_error() {
    let fixture = TestGateway::new(true, with_messages);
    let id = DialogId::new(Uuid::from_u128(9)).to_string();
    let unresolvable = [
        json!({ "__typename": "Dialog" }),
        json!({ "__typename": "Dialog", "id": null }),
        json!({ "__typename": "Dialog", "id": 9 }),
        json!({ "__typename": "Dialog", "id": [id] }),
        json!({ "__typename": "Dialog", "id": { "id": id } }),
        json!({ "__typename": "Dialog", "id": "" }),
        json!({ "__typename": "Dialog", "id": "9" }),
        json!({ "__typename": "Dialog", "title": "dialog 9" }),
        json!({ "__typename": "Query", "id": id }),
        json!({ "__typename": "Session", "id": id }),
        json!({ "__typename": "", "id": id }),
        json!({ "__typename": 7, "id": id }),
        json!({ "id": id }),
        json!({}),
        json!([]),
        json!("Dialog"),
        json!(9),
        json!(true),
        dialog_key(2_000),
        json!({ "__typename": "Message", "id": MessageId::new(Uuid::from_u128(2_000)).to_string() }),
    ];
    for key in &unresolvable {
        let answer = query_entities(&fixture, std::slice::from_ref(key)).await;
        assert_eq!(answer, json!({ "data": { "_entities": [null] } }), "{key}");
    }
    let known = dialog_key(9);
    let mixed: Vec<Value> = unresolvable.iter().flat_map(|key| [known.clone(), key.clone()]).collect();
    let answer = query_entities(&fixture, &mixed).await;
    let entities = answer["data"]["_entities"].as_array().expect("entities");
    assert_eq!((entities.len(), answer.get("errors")), (2 * unresolvable.len(), None));
    for pair in entities.chunks(2) {
        assert_eq!((&pair[0]["title"], &pair[1]), (&json!("dialog 9"), &Value::Null));
    }
    assert_eq!(query_entities(&fixture, &[]).await, json!({ "data": { "_entities": [] } }));
}

#[tokio::test]
async fn an_unavailable_service_nulls_only_its_entities() {
    let fixture = TestGateway::new(true, without_auth);
    let user = json!({ "__typename": "User", "id": user(1).to_string() });
    let answer = query_entities(&fixture, &[user.clone(), dialog_key(9), user]).await;
    let dialog = json!({ "__typename": "Dialog", "title": "dialog 9", "unreadCount": 3 });
    assert_eq!(answer["data"], json!({ "_entities": [null, dialog, null] }), "{answer}");
    let errors = answer["errors"].as_array().expect("errors");
    let mut paths: Vec<String> = errors.iter().map(|error| error["path"].to_string()).collect();
    paths.sort();
    assert_eq!(paths, [r#"["_entities",0]"#, r#"["_entities",2]"#]);
    assert!(errors.iter().all(|error| error["extensions"]["code"] == "UNAVAILABLE"), "{errors:?}");
}

#[tokio::test]
async fn a_failed_field_of_an_entity_is_null() {
    let query = "query($keys: [_Any!]!) { _entities(representations: $keys) {
        ... on Dialog { title participants { nodes { name } } } } }";
    let body =
        json!({ "query": query, "variables": { "keys": [dialog_key(8), dialog_key(9), dialog_key(8)] } });
    let answer = TestGateway::new(true, without_auth).ask_with(&body).await;
    let entity = |number| json!({ "title": format!("dialog {number}"), "participants": null });
    assert_eq!(answer["data"], json!({ "_entities": [entity(8), entity(9), entity(8)] }), "{answer}");
    assert_eq!(answer["errors"].as_array().map(Vec::len), Some(3));
}

#[tokio::test]
async fn the_subgraph_schema_has_keys_and_requires_introspection() {
    let query = json!({ "query": "{ _service { sdl } }" });
    let answer = TestGateway::new(true, all_services).post(&query).await;
    let sdl = answer.json["data"]["_service"]["sdl"].as_str().expect("a schema").to_owned();
    for part in [
        "@link(",
        "type User implements Node @key(fields: \"id\")",
        "type Dialog implements Node @key(fields: \"id\")",
        "type Message implements Node @key(fields: \"id\")",
        "type PageInfo @shareable",
    ] {
        assert!(sdl.contains(part), "{part} in {sdl}");
    }
    assert!(!sdl.contains("_entities") && !sdl.contains("_service"), "{sdl}");
    assert_eq!(TestGateway::new(false, all_services).post(&query).await.code(), "GRAPHQL_VALIDATION_FAILED");
}
