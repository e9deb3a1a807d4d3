//! Invalid input, which is rejected with a code and changes nothing.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::{
    app::App,
    caller::{Caller, PASSWORD},
    socket_client::SocketClient,
};

pub const REGISTER: &str =
    "mutation($input: RegisterInput!) { register(input: $input) { user { id name } } }";
const LOGIN: &str = "mutation($input: LoginInput!) { login(input: $input) { user { id } } }";
pub const CREATE: &str =
    "mutation($input: CreateDialogInput!) { createDialog(input: $input) { id participantIds } }";
pub const SEND: &str = "mutation($input: SendMessageInput!) { sendMessage(input: $input) { id seq } }";
const READ: &str = "mutation($input: MarkReadInput!) { markRead(input: $input) { total } }";
pub const ADD: &str = "mutation($id: ID!, $u: [ID!]!) { addParticipants(dialogId: $id, userIds: $u) { id } }";
const PASSWORDS: &str =
    "mutation($old: String!, $new: String!) { changePassword(old: $old, new: $new) { accessToken } }";
const ABSENT: &str = "0192f0c1-2b3c-7d4e-8f50-616263646566";

#[tokio::test]
async fn every_invalid_value_is_rejected_and_changes_nothing() {
    let app = App::start().await;
    let a = Caller::register(&app, "ann").await;
    let b = Caller::register(&app, "bob").await;
    let dialog = a.create_group(&[&b], "two").await;
    let send = |text: &str, key: Option<&str>| {
        let input = json!({"dialogId": dialog, "text": text, "clientKey": key});
        json!({"input": input})
    };
    let register = |login: &str, password: &str, name: Option<&str>| {
        let input = json!({"login": login, "password": password, "name": name});
        json!({"input": input})
    };
    let create = |ids: Value, title: Option<&str>| json!({"input": {"participantIds": ids, "title": title}});
    let rename = "mutation($name: String!) { updateMe(name: $name) { name } }";
    let many: Vec<String> = (0..1_001).map(|_| uuid::Uuid::now_v7().to_string()).collect();
    let cases: Vec<(&str, Value, &str)> = vec![
        (SEND, send("", None), "an empty text"),
        (SEND, send(&"x".repeat(4_001), None), "a text of 4,001 characters"),
        (SEND, send("a\u{0}b", None), "a NUL in a text"),
        (SEND, send("x", Some("")), "an empty client key"),
        (SEND, send("x", Some(&"k".repeat(65))), "a client key of 65"),
        (SEND, send("x", Some("k\u{0}")), "a NUL in a client key"),
        (REGISTER, register("ab", PASSWORD, None), "a login of two"),
        (REGISTER, register(&"a".repeat(33), PASSWORD, None), "a login of 33"),
        (REGISTER, register("Ann!", PASSWORD, None), "a login of other characters"),
        (REGISTER, register("annie", "1234567", None), "a password of seven"),
        (REGISTER, register("annie", &"p".repeat(257), None), "a password of 257"),
        (REGISTER, register("annie", PASSWORD, Some("")), "an empty name"),
        (REGISTER, register("annie", PASSWORD, Some(&"n".repeat(65))), "a name of 65"),
        (REGISTER, register("annie", PASSWORD, Some("a\u{0}")), "a NUL in a name"),
        (rename, json!({"name": " "}), "a blank name"),
        (CREATE, create(json!([]), None), "a dialog without participants"),
        (CREATE, create(json!([a.id]), None), "a dialog with only the caller"),
        (CREATE, create(json!([ABSENT]), None), "a dialog with an unknown user"),
        (CREATE, create(json!(["nonsense"]), None), "a dialog with a malformed id"),
        (CREATE, create(json!(many), None), "a dialog of 1,002"),
        (ADD, json!({"id": dialog, "u": []}), "no participants to add"),
        (ADD, json!({"id": dialog, "u": [ABSENT]}), "an unknown user to add"),
        (ADD, json!({"id": dialog, "u": many}), "1,001 to add"),
        (PASSWORDS, json!({"old": "wrong horse", "new": PASSWORD}), "a wrong old password"),
        (PASSWORDS, json!({"old": PASSWORD, "new": "1234567"}), "a new password of seven"),
        (PASSWORDS, json!({"old": PASSWORD, "new": "p".repeat(257)}), "a new password of 257"),
        (CREATE, create(json!([b.id]), Some("")), "an empty title"),
        (CREATE, create(json!([b.id]), Some(&"t".repeat(65))), "a title of 65"),
        ("{ message { id } }", json!({}), "a message without id and transactionId"),
        (
            "query($id: ID) { message(id: $id, transactionId: $id) { id } }",
            json!({"id": ABSENT}),
            "a message with both id and transactionId",
        ),
        ("{ unread(atLeast: \"soon\") { total } }", json!({}), "a malformed version"),
    ];
    for (document, variables, what) in cases {
        assert_eq!(a.error_code(document, variables).await, "BAD_USER_INPUT", "{what}");
    }
    let data = a.data(
        "{ dialogs { nodes { id lastMessage { id } } } users(search: \"ann\") { nodes { login name } } }",
        json!({}),
    );
    let data = data.await;
    assert_eq!(data["dialogs"]["nodes"], json!([{"id": dialog, "lastMessage": null}]), "nothing was created");
    assert_eq!(
        data["users"]["nodes"],
        json!([{"login": "ann", "name": "ann"}]),
        "no user was created or renamed"
    );
}

#[tokio::test]
async fn an_invalid_device_name_is_rejected_and_opens_no_session() {
    let app = App::start().await;
    let a = Caller::register(&app, "ann").await;
    let on = |login: &str, device: &str| {
        let input = json!({"login": login, "password": PASSWORD, "deviceName": device});
        json!({"input": input})
    };
    for device in ["", " ", "\u{200b}", "a\u{0}", "two\nlines", "a\u{202e}", &"d".repeat(65)] {
        for (document, login) in [(REGISTER, "annie"), (LOGIN, "ann")] {
            let code = a.error_code(document, on(login, device)).await;
            assert_eq!(code, "BAD_USER_INPUT", "{device:?}");
        }
    }
    let data = a.data("{ me { sessions { current } } users(search: \"annie\") { nodes { id } } }", json!({}));
    let expected = json!({"me": {"sessions": [{"current": true}]}, "users": {"nodes": []}});
    assert_eq!(data.await, expected, "no session was opened and no user was created");
    let longest = execute_anonymously(&app, LOGIN, on("ann", &"🐎".repeat(64))).await;
    assert_eq!(longest["data"]["login"]["user"]["id"], a.id, "{longest}");
}

#[tokio::test]
async fn every_invalid_page_and_search_is_rejected() {
    let app = App::start().await;
    let a = Caller::register(&app, "ann").await;
    let b = Caller::register(&app, "bob").await;
    let dialog = a.create_group(&[&b], "two").await;
    let page = "query($id: ID!, $first: Int, $last: Int, $after: String) { dialog(id: $id) {
        messages(first: $first, last: $last, after: $after) { nodes { id } } } }";
    let dialogs = "query($first: Int) { dialogs(first: $first) { nodes { id } } }";
    let participants =
        "query($id: ID!, $first: Int) { dialog(id: $id) { participants(first: $first) { nodes { id } } } }";
    let receipts =
        "query($id: ID!, $first: Int) { dialog(id: $id) { readStates(first: $first) { readSeq } } }";
    let users =
        "query($search: String!, $first: Int) { users(search: $search, first: $first) { nodes { id } } }";
    let cases: Vec<(&str, Value, &str)> = vec![
        (page, json!({"id": dialog, "first": 0}), "page 0"),
        (page, json!({"id": dialog, "first": 101}), "page 101"),
        (page, json!({"id": dialog, "first": -1}), "page -1"),
        (page, json!({"id": dialog, "first": 1, "last": 1}), "first with last"),
        (page, json!({"id": dialog, "first": 1, "after": "!!!"}), "a malformed cursor"),
        (
            page,
            json!({"id": dialog, "first": 1, "after": URL_SAFE_NO_PAD.encode("x:1")}),
            "a well-encoded cursor with malformed content",
        ),
        (page, json!({"id": dialog, "last": 101}), "101 from the end"),
        (dialogs, json!({"first": 0}), "page 0 of dialogs"),
        (dialogs, json!({"first": 101}), "101 dialogs"),
        (participants, json!({"id": dialog, "first": 0}), "page 0 of participants"),
        (participants, json!({"id": dialog, "first": 101}), "101 participants"),
        (receipts, json!({"id": dialog, "first": 0}), "page 0 of read states"),
        (receipts, json!({"id": dialog, "first": 101}), "101 read states"),
        ("{ unread { dialogs(first: 0) { unread } } }", json!({}), "page 0 of counters"),
        ("{ unread { dialogs(first: 101) { unread } } }", json!({}), "101 counters"),
        (users, json!({"search": "an", "first": 0}), "page 0 of users"),
        (users, json!({"search": "a"}), "a search of one"),
        (users, json!({"search": "a".repeat(33)}), "a search of 33"),
        (users, json!({"search": "an", "first": 101}), "101 users"),
    ];
    for (document, variables, what) in cases {
        assert_eq!(a.error_code(document, variables).await, "BAD_USER_INPUT", "{what}");
    }
}

#[tokio::test]
async fn values_at_the_limits_are_accepted() {
    let app = App::start().await;
    let a = Caller::register(&app, &"a".repeat(32)).await;
    let b = Caller::register(&app, "b_b").await;
    let title = "t".repeat(64);
    let dialog = a.create_group(&[&b], &title).await;
    let input = json!({"dialogId": dialog, "text": "ü".repeat(4_000), "clientKey": "k".repeat(64)});
    let first = a.data(SEND, json!({"input": input})).await;
    assert_eq!(first["sendMessage"]["seq"], 1);
    assert_eq!(a.data(SEND, json!({"input": input})).await, first, "the same key returns the same message");
    let other = json!({"dialogId": dialog, "text": "other", "clientKey": "k".repeat(64)});
    assert_eq!(a.error_code(SEND, json!({"input": other})).await, "CONFLICT");
    let pages = "query($id: ID!, $s: String!) {
        dialog(id: $id) { messages(first: 100) { nodes { id } } participants(first: 100) { nodes { id } }
            readStates(first: 100) { userId } }
        dialogs(first: 100) { nodes { id } } unread { dialogs(first: 100) { unread } }
        two: users(search: \"b_\", first: 1) { nodes { id } }
        longest: users(search: $s, first: 100) { nodes { id } } }";
    let data = a.data(pages, json!({"id": dialog, "s": "a".repeat(32)})).await;
    assert_eq!(data["dialog"]["messages"]["nodes"].as_array().unwrap().len(), 1);
    assert_eq!(
        (&data["two"]["nodes"][0]["id"], &data["longest"]["nodes"][0]["id"]),
        (&json!(b.id), &json!(a.id))
    );
    let name = "mutation($name: String!) { updateMe(name: $name) { name } }";
    assert_eq!(a.data(name, json!({"name": "🐎".repeat(64)})).await["updateMe"]["name"], "🐎".repeat(64));
    for password in ["12345678".to_owned(), "ß".repeat(256)] {
        let input = json!({"login": format!("c-{}", password.chars().count()), "password": password});
        let session = execute_anonymously(&app, REGISTER, json!({"input": input})).await;
        assert!(session["data"]["register"]["user"]["id"].is_string(), "{session}");
        let again = execute_anonymously(&app, LOGIN, json!({"input": input})).await;
        assert_eq!(again["data"]["login"]["user"]["id"], session["data"]["register"]["user"]["id"]);
    }
}

#[tokio::test]
async fn malformed_foreign_and_absent_ids_look_the_same() {
    let app = App::start().await;
    let a = Caller::register(&app, "ann").await;
    let b = Caller::register(&app, "bob").await;
    let outsider = Caller::register(&app, "mallory").await;
    let dialog = a.create_group(&[&b], "two").await;
    let message = a.send(&dialog, "x").await["id"].as_str().unwrap().to_owned();
    let session = a.session_id().await;
    let answers = |dialog: String, message: String, session: String| {
        let outsider = &outsider;
        async move {
            let mutations = [
                (SEND, json!({"input": {"dialogId": dialog, "text": "x"}})),
                (READ, json!({"input": {"dialogId": dialog}})),
                ("mutation($id: ID!) { deleteMessage(id: $id) { id } }", json!({"id": message})),
                ("mutation($id: ID!) { endSession(id: $id) }", json!({"id": session})),
                ("mutation($id: ID!) { leaveDialog(dialogId: $id) }", json!({"id": dialog})),
                (ADD, json!({"id": dialog, "u": [outsider.id]})),
            ];
            let mut all = Vec::new();
            for (document, variables) in mutations {
                let mut answer = outsider.execute(document, variables).await;
                answer["errors"][0].as_object_mut().unwrap().remove("locations");
                all.push(answer);
            }
            let queries = "query($d: ID!, $m: ID!) {
                dialog(id: $d) { id } message(id: $m) { id } dialogUnread(dialogId: $d) { unread } }";
            all.push(outsider.execute(queries, json!({"d": dialog, "m": message})).await);
            all
        }
    };
    let foreign = answers(dialog.clone(), message.clone(), session).await;
    let absent = || ABSENT.to_owned();
    assert_eq!(foreign, answers(absent(), absent(), absent()).await);
    let nonsense = || "nonsense".to_owned();
    assert_eq!(foreign, answers(nonsense(), "non\u{0}sense".to_owned(), nonsense()).await);
    for answer in &foreign[..6] {
        assert_eq!(answer["errors"][0]["extensions"]["code"], "NOT_FOUND", "{answer}");
    }
    assert_eq!(foreign[6], json!({"data": {"dialog": null, "message": null, "dialogUnread": null}}));
    let second_gateway = a.create_group(&[&b], "second_gateway").await;
    let wrong = json!({"input": {"dialogId": second_gateway, "upTo": message}});
    assert_eq!(b.error_code(READ, wrong).await, "NOT_FOUND", "a message of another dialog");
    assert_eq!(b.total().await, 1);
}

#[tokio::test]
async fn a_cursor_of_another_list_is_rejected() {
    let app = App::start().await;
    let a = Caller::register(&app, "ann").await;
    let b = Caller::register(&app, "bob").await;
    let one = a.create_group(&[&b], "one").await;
    let two = a.create_group(&[&b], "two").await;
    a.send(&one, "x").await;
    let page = "query($id: ID!, $after: String) {
        dialog(id: $id) { messages(first: 1, after: $after) { edges { cursor } } } }";
    let cursor = a.data(page, json!({"id": one})).await["dialog"]["messages"]["edges"][0]["cursor"].clone();
    assert!(cursor.is_string());
    a.data(page, json!({"id": one, "after": cursor})).await;
    assert_eq!(a.error_code(page, json!({"id": two, "after": cursor})).await, "BAD_USER_INPUT");
    let dialogs = "query($after: String) { dialogs(first: 1, after: $after) { edges { cursor } } }";
    assert_eq!(a.error_code(dialogs, json!({"after": cursor})).await, "BAD_USER_INPUT");
    let own = a.data(dialogs, json!({})).await["dialogs"]["edges"][0]["cursor"].clone();
    assert_eq!(a.data(dialogs, json!({"after": own})).await["dialogs"]["edges"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn forged_expired_and_truncated_tokens_are_rejected_on_both_transports() {
    let app = App::start_with(&[("ACCESS_TOKEN_TTL", "3s")]).await;
    let a = Caller::register(&app, "ann").await;
    let registered = std::time::Instant::now();
    assert_eq!(a.data("{ me { login } }", json!({})).await["me"]["login"], "ann");
    let parts: Vec<&str> = a.token.split('.').collect();
    let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"at+jwt"}"#);
    let mut claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts[1]).unwrap()).unwrap();
    claims["aud"] = json!("elsewhere");
    let other_claims = URL_SAFE_NO_PAD.encode(claims.to_string());
    let forged = vec![
        ("alg none", format!("{none}.{}.", parts[1])),
        ("another audience", format!("{}.{other_claims}.{}", parts[0], parts[2])),
        ("truncated", a.token[..a.token.len() - 4].to_owned()),
        ("no token at all", "x".to_owned()),
        ("empty", String::new()),
        ("five thousand characters", "a".repeat(5_000)),
    ];
    for (description, token) in forged {
        let mut thief = a.clone();
        thief.token = token;
        assert_rejected_over_http(&thief, description).await;
        if !thief.token.is_empty() {
            assert_rejected_over_a_socket(&thief, description).await;
        }
    }
    tokio::time::sleep(std::time::Duration::from_millis(3_100).saturating_sub(registered.elapsed())).await;
    assert_rejected_over_http(&a, "expired").await;
    assert_rejected_over_a_socket(&a, "expired").await;
    let refresh = "mutation($token: String!) { refreshSession(refreshToken: $token) { accessToken } }";
    let fresh = execute_anonymously(&app, refresh, json!({"token": a.refresh_token})).await;
    assert!(fresh["data"]["refreshSession"]["accessToken"].is_string(), "{fresh}");
    let malformed = execute_anonymously(&app, refresh, json!({"token": "nonsense"})).await;
    assert_eq!(malformed["errors"][0]["extensions"]["code"], "UNAUTHENTICATED");
}

async fn assert_rejected_over_http(caller: &Caller, description: &str) {
    for document in ["{ me { login } }", "{ __typename }"] {
        let body = json!({"query": document});
        let request =
            reqwest::Client::new().post(format!("{}/graphql", caller.url)).bearer_auth(&caller.token);
        let answer = request.json(&body).send().await.unwrap();
        assert_eq!(answer.status(), 401, "{description}: {document}");
        let answer: Value = answer.json().await.unwrap();
        assert_eq!(answer["errors"][0]["extensions"]["code"], "UNAUTHENTICATED", "{description}");
        let word = caller.token.split('.').next_back().unwrap();
        assert!(word.len() < 3 || !answer.to_string().contains(word), "a response never contains the token");
    }
}

async fn assert_rejected_over_a_socket(caller: &Caller, description: &str) {
    let mut socket = SocketClient::open(&caller.url).await;
    socket.send(json!({"type": "connection_init", "payload": {"authToken": caller.token}})).await;
    assert_eq!(socket.wait_for_close().await.0, 4403, "{description}");
}

async fn execute_anonymously(app: &App, document: &str, variables: Value) -> Value {
    let body = json!({"query": document, "variables": variables});
    let request = reqwest::Client::new().post(format!("{}/graphql", app.url)).json(&body);
    request.send().await.unwrap().json().await.unwrap()
}

#[tokio::test]
async fn one_of_two_concurrent_registrations_of_a_login_succeeds() {
    let app = App::start().await;
    let input = json!({"input": {"login": "ann", "password": PASSWORD}});
    let (one, two) = tokio::join!(
        execute_anonymously(&app, REGISTER, input.clone()),
        execute_anonymously(&app, REGISTER, input)
    );
    let codes =
        [&one, &two].map(|answer| answer["errors"][0]["extensions"]["code"].as_str().unwrap_or("none"));
    assert!(codes == ["none", "CONFLICT"] || codes == ["CONFLICT", "none"], "{one} {two}");
}

#[tokio::test]
async fn an_unknown_login_and_a_wrong_password_look_the_same() {
    let app = App::start().await;
    Caller::register(&app, "ann").await;
    let unknown =
        execute_anonymously(&app, LOGIN, json!({"input": {"login": "unknown", "password": PASSWORD}})).await;
    let wrong =
        execute_anonymously(&app, LOGIN, json!({"input": {"login": "ann", "password": "wrong password"}}))
            .await;
    assert_eq!(unknown, wrong);
    assert_eq!(unknown["errors"][0]["extensions"]["code"], "UNAUTHENTICATED");
    assert_eq!(
        execute_anonymously(&app, "{ __typename }", json!({})).await,
        json!({"data": {"__typename": "Query"}})
    );
    let me = execute_anonymously(&app, "{ me { id } unread { total } }", json!({})).await;
    assert_eq!(me["data"], json!({"me": null, "unread": null}));
    assert_eq!(me["errors"][0]["extensions"]["code"], "UNAUTHENTICATED");
}
