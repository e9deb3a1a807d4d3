//! Rules of the GraphQL specification that executors often keep incompletely, on every transport: merging of
//! fields, empty selections, coercion before execution, operations that are not run, and literals.

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    app::App,
    caller::Caller,
    socket_client::SocketClient,
    transport::{Client, Kind, Operation, TRANSPORTS},
};

/// Asserts the data of an operation on each transport that carries it.
async fn assert_data(client: &Client, operation: &Operation, expected: &Value) {
    for transport in TRANSPORTS.iter().filter(|transport| transport.carries(operation)) {
        let response = (transport.execute)(client, operation).await;
        let case = format!("{operation:?} by {}: {response:?}", transport.name);
        assert_eq!(response.answer.get("errors"), None, "{case}");
        assert_eq!(&response.answer["data"], expected, "{case}");
    }
}

#[tokio::test]
async fn a_field_that_is_selected_twice_is_executed_once() {
    let app = App::start().await;
    let ann = Caller::register(&app, "ann").await;
    let bob = Caller::register(&app, "bob").await;
    let dialog = ann.create_group(&[&bob], "two").await;
    let client = Client::of(&ann);
    let input = json!({"i": {"dialogId": dialog, "text": "once"}});
    let mut sent = 0;
    for document in [
        "mutation($i: SendMessageInput!) { sendMessage(input: $i) { id } sendMessage(input: $i) { seq } }",
        "mutation($i: SendMessageInput!) { ...A ...B }
            fragment A on Mutation { sendMessage(input: $i) { id } }
            fragment B on Mutation { sendMessage(input: $i) { seq } }",
        "mutation($i: SendMessageInput!) { ... { sendMessage(input: $i) { id } }
            ... on Mutation { sendMessage(input: $i) { sender { name } sender { login } seq } } }",
    ] {
        let operation = Operation::new(document, input.clone());
        for transport in TRANSPORTS.iter().filter(|transport| transport.carries(&operation)) {
            let response = (transport.execute)(&client, &operation).await;
            sent += 1;
            let message = &response.answer["data"]["sendMessage"];
            assert!(message["id"].is_string(), "{document} by {}: {response:?}", transport.name);
            assert_eq!(message["seq"], sent, "{document} by {}: {response:?}", transport.name);
        }
    }
    let last = "query($id: ID!) { dialog(id: $id) { lastMessage { seq } } }";
    assert_eq!(ann.data(last, json!({"id": dialog})).await["dialog"]["lastMessage"]["seq"], sent);
}

#[tokio::test]
async fn an_object_without_selections_is_empty_and_not_null() {
    let app = App::start().await;
    let ann = Caller::register(&app, "ann").await;
    let bob = Caller::register(&app, "bob").await;
    ann.create_group(&[&bob], "two").await;
    let client = Client::of(&ann);
    let user = json!([{"__typename": "User", "id": ann.id}, {"__typename": "User", "id": "unknown"}]);
    for (document, variables, expected) in [
        ("{ me { id @skip(if: true) } }", json!({}), json!({"me": {}})),
        ("query($no: Boolean!) { me { id @include(if: $no) } }", json!({"no": false}), json!({"me": {}})),
        ("{ me @skip(if: true) { id } }", json!({}), json!({})),
        ("{ user(id: \"x\") { id @skip(if: true) } }", json!({}), json!({"user": null})),
        ("{ dialogs { nodes { title @skip(if: true) } } }", json!({}), json!({"dialogs": {"nodes": [{}]}})),
        ("{ me { ... @skip(if: true) { id } } }", json!({}), json!({"me": {}})),
        ("mutation { updateMe(name: \"Ann\") { id @skip(if: true) } }", json!({}), json!({"updateMe": {}})),
        (
            "query($r: [_Any!]!) { _entities(representations: $r) { ... on User { id @skip(if: true) } } }",
            json!({"r": user}),
            json!({"_entities": [{}, null]}),
        ),
        (
            "query($r: [_Any!]!) { _entities(representations: $r) { ... on Dialog { id } } }",
            json!({"r": user}),
            json!({"_entities": [{}, null]}),
        ),
        (
            "{ __schema { queryType { name @skip(if: true) } } }",
            json!({}),
            json!({"__schema": {"queryType": {}}}),
        ),
        ("subscription { unread { kind @skip(if: true) } }", json!({}), json!({"unread": {}})),
    ] {
        assert_data(&client, &Operation::new(document, variables), &expected).await;
    }
}

#[tokio::test]
async fn nothing_runs_before_every_variable_and_literal_is_valid() {
    let app = App::start().await;
    let ann = Client::of(&Caller::register(&app, "ann").await);
    let two = "mutation($a: SendMessageInput!, $b: SendMessageInput!) {
        a: sendMessage(input: $a) { seq } b: sendMessage(input: $b) { seq } }";
    let good = json!({"dialogId": "x", "text": "y"});
    for (document, variables) in [
        (two, json!({"a": good, "b": "x"})),
        (two, json!({"a": good, "b": {"dialogId": "x"}})),
        (two, json!({"a": good, "b": {"dialogId": "x", "text": "y", "nonsense": 1}})),
        (two, json!({"a": good, "b": {"dialogId": null, "text": "y"}})),
        ("mutation { a: logout b: updateMe(name: 5) { id } }", json!({})),
        ("mutation($b: String! = 5) { a: logout b: updateMe(name: $b) { id } }", json!({})),
        ("query($i: ID) { user(id: $i) { id } }", json!({"i": "x"})),
        (
            "mutation($i: LoginInput!) { sendMessage(input: $i) { id } }",
            json!({"i": {"login": "a", "password": "b"}}),
        ),
        ("query($x: Boolean) { me { id @include(if: $x) } }", json!({"x": true})),
        (
            "mutation($t: String) { sendMessage(input: {dialogId: \"x\", text: $t}) { id } }",
            json!({"t": "y"}),
        ),
        ("mutation { sendMessage(input: {dialogId: \"x\", text: \"a\", text: \"b\"}) { id } }", json!({})),
        ("query Q() { me { id } }", json!({})),
        ("{ me { ...on } } fragment on on User { id }", json!({})),
        ("query($x: Int @nonsense) { dialogs(first: $x) { nodes { id } } }", json!({})),
        (
            "subscription { unread { total } ...F } fragment F on Subscription { again: unread { total } }",
            json!({}),
        ),
        ("subscription { ... { __typename } }", json!({})),
        ("query($n: Int) { dialogs(first: $n) { nodes { id } } }", json!({"n": 1.5})),
        ("query($n: Int) { dialogs(first: $n) { nodes { id } } }", json!({"n": 2_147_483_648_i64})),
    ] {
        let operation = Operation::new(document, variables);
        for transport in TRANSPORTS.iter().filter(|transport| transport.carries(&operation)) {
            let calls = app.calls().await;
            let response = (transport.execute)(&ann, &operation).await;
            let case = format!("{operation:?} by {}: {response:?}", transport.name);
            let code = response.code();
            assert!(matches!(code, "GRAPHQL_VALIDATION_FAILED" | "GRAPHQL_PARSE_FAILED"), "{case}");
            if transport.kind == Kind::Single {
                assert_eq!(response.status, Some(400), "{case}");
            }
            assert_eq!(app.calls().await, calls, "no service was called: {case}");
        }
    }
}

#[tokio::test]
async fn only_the_variables_of_the_selected_operation_are_coerced() {
    let app = App::start().await;
    let ann = Caller::register(&app, "ann").await;
    let document = "query A { me { login } } query B($n: Int!) { dialogs(first: $n) { nodes { id } } }";
    let operation = Operation { name: Some("A"), ..Operation::document(document) };
    assert_data(&Client::of(&ann), &operation, &json!({"me": {"login": "ann"}})).await;
}

#[tokio::test]
async fn the_root_field_of_a_subscription_may_be_in_fragments_and_merges() {
    let app = App::start().await;
    let ann = Client::of(&Caller::register(&app, "ann").await);
    for document in [
        "subscription { ...F } fragment F on Subscription { unread { total kind } }",
        "subscription { unread { total } unread { kind } }",
        "subscription { ... on Subscription { unread { total } } ...F }
            fragment F on Subscription { unread { kind } }",
    ] {
        let expected = json!({"unread": {"total": 0, "kind": "SNAPSHOT"}});
        assert_data(&ann, &Operation::document(document), &expected).await;
    }
}

#[tokio::test]
async fn literals_mean_what_the_specification_says() {
    let app = App::start().await;
    let ann = Client::of(&Caller::register(&app, "ann").await);
    for (literal, expected) in [
        (r#""\ud83d\ude00""#, "😀"),
        (r#""\u{1F600}""#, "😀"),
        (r#""a\u0041\/\"""#, "aA/\""),
        (r#""""a\"""b""""#, "a\"\"\"b"),
        ("\"\"\"\n\n    first\n  \t\n\"\"\"", "first"),
        ("\"\"\"\r\n  x\"\"\"", "x"),
    ] {
        let document = format!("mutation {{ updateMe(name: {literal}) {{ name }} }}");
        let expected = json!({"updateMe": {"name": expected}});
        assert_data(&ann, &Operation::document(document), &expected).await;
    }
    for (document, expected) in [
        ("{ user(id: 5) { id } }", json!({"user": null})),
        ("query($id: ID!) { user(id: $id) { id } }", json!({"user": null})),
        ("\"what it does\" query Q(\"an id\" $id: ID = 1) { user(id: $id) { id } }", json!({"user": null})),
        ("{ me { ... # the name\n on User { login } } }", json!({"me": {"login": "ann"}})),
    ] {
        assert_data(&ann, &Operation::new(document, json!({"id": 5})), &expected).await;
    }
    let zero = Operation::document("{ dialogs(first: -0) { nodes { id } } }");
    let plain = Operation::document("{ dialogs(first: 0) { nodes { id } } }");
    for transport in TRANSPORTS.iter().filter(|transport| transport.carries(&zero)) {
        let answers = ((transport.execute)(&ann, &zero).await, (transport.execute)(&ann, &plain).await);
        assert_eq!(answers.0.answer["data"], answers.1.answer["data"], "{}", transport.name);
        assert_eq!(answers.0.code(), answers.1.code(), "{}", transport.name);
    }
}

/// JSON that no value of a variable can have: half a surrogate pair, and a number that is too large.
const IMPOSSIBLE: [&str; 3] = [r#""\ud83d""#, r#""\ude00x""#, "1e400"];

#[tokio::test]
async fn an_impossible_value_fails_its_operation_and_not_the_socket() {
    let app = App::start().await;
    let ann = Caller::register(&app, "ann").await;
    for (subprotocol, subscribe) in [("graphql-transport-ws", "subscribe"), ("graphql-ws", "start")] {
        let mut socket = SocketClient::open_as(&app.url, subprotocol).await;
        let payload = json!({"authorization": format!("Bearer {}", ann.token)});
        socket.send(json!({"type": "connection_init", "payload": payload})).await;
        socket.receive().await;
        for value in IMPOSSIBLE {
            let text = format!(
                r#"{{"id":"1","type":"{subscribe}","payload":{{"query":"{{ me {{ login }} }}",
                    "variables":{{"x":{value}}}}}}}"#
            );
            socket.send_raw(Message::text(text)).await;
            let message = socket.receive().await;
            assert_eq!(
                (&message["type"], &message["id"]),
                (&json!("error"), &json!("1")),
                "{value}: {message}"
            );
            assert!(message.to_string().contains("BAD_REQUEST"), "{value}: {message}");
        }
        let query = json!({"id": "2", "type": subscribe, "payload": {"query": "{ me { login } }"}});
        socket.send(query).await;
        assert_eq!(socket.receive().await["payload"]["data"]["me"]["login"], "ann", "{subprotocol}");
    }
    for value in IMPOSSIBLE {
        let body = format!(r#"{{"query":"{{ me {{ login }} }}","variables":{{"x":{value}}}}}"#);
        let request =
            ann.http.post(format!("{}/graphql", app.url)).header("content-type", "application/json");
        let answer = request.body(body).send().await.unwrap();
        assert_eq!(answer.status(), 400);
        let answer: Value = answer.json().await.unwrap();
        let message = answer["errors"][0]["message"].as_str().unwrap();
        assert!(message.contains("surrogate") || message.contains("number"), "{value}: {message}");
    }
}
