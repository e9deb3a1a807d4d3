//! Sessions that a user sees and ends: the list names devices, user agents and last use, and a session that
//! is ended from another device is closed on every gateway.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{
    app::App,
    caller::{Caller, PASSWORD},
    endpoint::Endpoint,
    socket_client::SocketClient,
    stack::Stack,
    transport::{Client, Operation, TRANSPORTS},
};

const SESSIONS: &str = "{ me { sessions { id deviceName userAgent createdAt lastUsedAt current } } }";
const END: &str = "mutation($id: ID!) { endSession(id: $id) }";
const REFRESH: &str =
    "mutation($t: String!) { refreshSession(refreshToken: $t) { accessToken refreshToken } }";
const PHONE: &str = "PhoneApp/2.1 (Android 16)";
const LAPTOP: &str = "Mozilla/5.0 (X11; Linux x86_64)";

async fn sessions(caller: &Caller) -> Vec<Value> {
    let data = caller.data(SESSIONS, json!({})).await;
    data["me"]["sessions"].as_array().unwrap().clone()
}

async fn refresh(caller: &Caller) -> Value {
    // Anonymous, as a client does whose access token has expired.
    let body = json!({"query": REFRESH, "variables": {"t": caller.refresh_token}});
    let request = caller.http.post(format!("{}/graphql", caller.url)).json(&body);
    request.send().await.unwrap().json().await.unwrap()
}

fn code(answer: &Value) -> &str {
    answer["errors"][0]["extensions"]["code"].as_str().unwrap_or("none")
}

/// Two devices see each other; one ends the other. `elsewhere` is another gateway, if there is one.
async fn one_device_ends_the_other(endpoint: &Endpoint, elsewhere: &Endpoint) {
    let first = Caller::register(endpoint, "ann").await;
    let laptop = Caller::login_on(endpoint, "ann", "Laptop", LAPTOP).await;
    let phone = Caller::login_on(elsewhere, "ann", "Ann's phone", PHONE).await;
    first.data("mutation { logout }", json!({})).await;
    let listed = both_are_listed(&laptop, &phone).await;
    the_phone_is_ended(&laptop, &phone, &listed).await;
}

/// Asserts that both devices are listed with their last use, and returns the first list of the laptop.
async fn both_are_listed(laptop: &Caller, phone: &Caller) -> Vec<Value> {
    let listed = sessions(laptop).await;
    let devices: Vec<_> =
        listed.iter().map(|it| [&it["deviceName"], &it["userAgent"], &it["current"]]).collect();
    let expected = [
        [&json!("Ann's phone"), &json!(PHONE), &json!(false)],
        [&json!("Laptop"), &json!(LAPTOP), &json!(true)],
    ];
    assert_eq!(devices, expected, "newest use first");
    for session in &listed {
        assert_eq!(session["createdAt"], session["lastUsedAt"], "{session}");
    }

    let refreshed = refresh(laptop).await;
    assert!(refreshed["data"]["refreshSession"]["accessToken"].is_string(), "{refreshed}");
    let used = sessions(phone).await;
    assert_eq!((&used[0]["id"], &used[0]["deviceName"]), (&listed[1]["id"], &json!("Laptop")));
    assert!(used[0]["lastUsedAt"].as_str() > listed[0]["lastUsedAt"].as_str(), "the refresh is a use");
    assert_eq!((&used[0]["current"], &used[1]["current"]), (&json!(false), &json!(true)));
    assert_eq!(used[1]["lastUsedAt"], listed[0]["lastUsedAt"], "a query is none");
    listed
}

/// Ends the session of the phone and then that of the laptop, on the laptop.
async fn the_phone_is_ended(laptop: &Caller, phone: &Caller, listed: &[Value]) {
    let mut stolen = SocketClient::watch_unread(phone, None).await;
    let mut own = SocketClient::watch_unread(laptop, None).await;
    stolen.frame("u", "unread").await;
    own.frame("u", "unread").await;
    let id = &listed[0]["id"];
    assert_eq!(laptop.data(END, json!({"id": id})).await["endSession"], true);
    assert_eq!(stolen.wait_for_close().await.0, 4401);
    let here = Caller { url: laptop.url.clone(), ..phone.clone() };
    for there in [&here, phone] {
        assert_eq!(code(&there.execute("{ __typename }", json!({})).await), "UNAUTHENTICATED");
    }
    assert_eq!(code(&refresh(phone).await), "UNAUTHENTICATED");
    assert_eq!(laptop.error_code(END, json!({"id": id})).await, "NOT_FOUND", "it has ended");
    let left = sessions(laptop).await;
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!((&left[0]["id"], &left[0]["current"]), (&listed[1]["id"], &json!(true)));

    own.send(json!({"type": "ping"})).await;
    assert_eq!(own.receive().await["type"], "pong", "the other session's socket stays open");
    assert_eq!(laptop.data(END, json!({"id": left[0]["id"]})).await["endSession"], true);
    assert_eq!(own.wait_for_close().await.0, 4401, "the current session ends like by a log-out");
    assert_eq!(code(&laptop.execute("{ __typename }", json!({})).await), "UNAUTHENTICATED");
}

#[tokio::test]
async fn a_user_ends_the_session_of_another_device() {
    let app = App::start().await;
    one_device_ends_the_other(&app, &app).await;
}

#[tokio::test]
async fn the_sessions_of_other_users_are_null_however_they_are_reached() {
    let app = App::start().await;
    let ann = Caller::register(&app, "ann").await;
    let bob = Caller::register(&app, "bob").await;
    let dialog = ann.create_group(&[&bob], "two").await;
    ann.send(&dialog, "hello").await;
    let everywhere = "query($a: ID!, $b: ID!, $d: ID!) {
        mine: user(id: $a) { ...S } other: user(id: $b) { ...S } node(id: $b) { ... on User { ...S } }
        users(search: \"bob\") { nodes { ...S } }
        _entities(representations: [{__typename: \"User\", id: $b}]) { ... on User { ...S } }
        dialog(id: $d) { participants { nodes { id ...S } } lastMessage { sender { ...S } }
            readStates { user { id ...S } } } }
        fragment S on User { sessions { deviceName current } }";
    let variables = json!({"a": ann.id, "b": bob.id, "d": dialog});
    let data = ann.data(everywhere, variables).await;
    let own = json!([{"deviceName": null, "current": true}]);
    assert_eq!(data["mine"]["sessions"], own, "{data}");
    for other in [&data["other"], &data["node"], &data["users"]["nodes"][0], &data["_entities"][0]] {
        assert_eq!(*other, json!({"sessions": null}), "{data}");
    }
    let people = data["dialog"]["participants"]["nodes"].as_array().unwrap().iter();
    let readers = data["dialog"]["readStates"].as_array().unwrap().iter().map(|state| &state["user"]);
    for user in people.chain(readers) {
        let expected = if user["id"] == ann.id.as_str() { &own } else { &Value::Null };
        assert_eq!(user["sessions"], *expected, "{data}");
    }
    assert_eq!(data["dialog"]["lastMessage"]["sender"]["sessions"], own);

    // A frame with them is executed for each subscriber.
    let messages = "subscription($d: ID!) { messages(dialogId: $d) {
        kind message { sender { sessions { current } } } } }";
    let mut sockets = [SocketClient::connect(&ann).await, SocketClient::connect(&bob).await];
    for socket in &mut sockets {
        socket.subscribe("m", messages, json!({"d": dialog})).await;
        socket.frame("m", "messages").await;
    }
    ann.send(&dialog, "again").await;
    for (socket, expected) in sockets.iter_mut().zip([json!([{"current": true}]), Value::Null]) {
        let frame = loop {
            let frame = socket.frame("m", "messages").await;
            if !frame["message"].is_null() {
                break frame;
            }
        };
        assert_eq!(frame["message"]["sender"]["sessions"], expected, "{frame}");
    }
}

#[tokio::test]
async fn every_transport_states_the_user_agent_and_a_long_one_is_cut_off() {
    let app = App::start().await;
    let ann = Caller::register(&app, "ann").await;
    let document = "mutation($input: LoginInput!) { login(input: $input) { accessToken } }";
    let http = reqwest::Client::builder().user_agent("a\t".repeat(500)).build().unwrap();
    let client = Client { url: app.url.clone(), http, token: None };
    let mut signed_in = Vec::new();
    for transport in &TRANSPORTS {
        let input = json!({"login": "ann", "password": PASSWORD, "deviceName": transport.name});
        let operation = Operation::new(document, json!({"input": input}));
        if transport.carries(&operation) {
            let response = (transport.execute)(&client, &operation).await;
            assert_eq!(response.code(), "none", "{}: {response:?}", transport.name);
            signed_in.push(transport);
        }
    }
    let listed = sessions(&ann).await;
    assert_eq!(listed.len(), 1 + signed_in.len());
    for transport in signed_in {
        let of_transport = listed.iter().find(|session| session["deviceName"] == transport.name).unwrap();
        // The WebSocket library of the tests sends no such header.
        let is_socket = transport.kind == crate::transport::Kind::Socket;
        let expected = if is_socket { Value::Null } else { json!("a".repeat(256)) };
        assert_eq!(of_transport["userAgent"], expected, "{}", transport.name);
    }
}

const ROUNDS: usize = 20;
/// Maximum time from the call to the close of the session's socket on another gateway; the goal is 250 ms.
const CLOSED_WITHIN: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_session_ends_on_every_gateway() {
    let Some(stack) = Stack::start(&[]).await else { return };
    let second_gateway = stack.second_gateway();
    one_device_ends_the_other(&stack, &second_gateway).await;
    let mut took = Vec::new();
    for round in 0..ROUNDS {
        let login = format!("p{round:02}");
        let laptop = Caller::register(&stack, &login).await;
        let phone = Caller::login(&stack, &login).await;
        let id = phone.session_id().await;
        let there = phone.at(&second_gateway);
        let mut sockets =
            [SocketClient::watch_unread(&phone, None).await, SocketClient::watch_unread(&there, None).await];
        for socket in &mut sockets {
            socket.frame("u", "unread").await;
        }
        let started = Instant::now();
        laptop.data(END, json!({"id": id})).await;
        for socket in &mut sockets {
            assert_eq!(socket.wait_for_close().await.0, 4401);
        }
        took.push(started.elapsed());
        for caller in [&phone, &there] {
            assert_eq!(code(&caller.execute("{ __typename }", json!({})).await), "UNAUTHENTICATED");
        }
        assert_eq!(sessions(&laptop.at(&second_gateway)).await.len(), 1);
    }
    took.sort_unstable();
    println!(
        "{ROUNDS} sessions ended from another device, from the call to the close on both gateways: median \
         {:?}, max {:?} (goal 250 ms)",
        took[ROUNDS / 2],
        took[ROUNDS - 1]
    );
    assert!(took[ROUNDS - 1] < CLOSED_WITHIN, "{:?}", took[ROUNDS - 1]);
}
