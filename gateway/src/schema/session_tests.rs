//! Tests of `User.sessions`, of `endSession`, and of the client that a sign-in states to auth, against fake
//! services.

use axum::{body::Body, http::header};
use prost::Message;
use proto::{SessionId, auth};
use serde_json::{Value, json};
use tonic::Status;
use uuid::Uuid;

use super::resolver_tests::all_services;
use crate::testing::{TestGateway, post, reply, unavailable};

const SESSIONS: &str = "sessions { id deviceName userAgent createdAt lastUsedAt current }";

fn session(number: u128) -> SessionId {
    SessionId::new(Uuid::from_u128(number))
}

/// Fake services of which auth knows two sessions of every caller, and ends session 2 only.
fn with_sessions(method: &str, bytes: &[u8]) -> Result<Vec<u8>, Status> {
    match method {
        "Sessions" => {
            let open = |number: u128| auth::OpenSession {
                session_id: session(number).bytes(),
                device_name: (number == 1).then(|| "Laptop".to_owned()),
                user_agent: (number == 1).then(|| "agent \"1\"".to_owned()),
                created_at_us: 1_000_000,
                last_used_at_us: 2_000_000,
                current: number == 2,
            };
            reply(&auth::SessionsReply { sessions: vec![open(1), open(2)] })
        }
        "EndSession" => {
            let request = auth::EndSessionRequest::decode(bytes).expect("a request");
            if request.session_id != session(2).bytes() {
                return Err(Status::not_found("there is no such session"));
            }
            let ended = auth::EndedSession { session_id: request.session_id, expires_at_us: i64::MAX };
            reply(&auth::EndSessionReply { ended: Some(ended) })
        }
        _ => all_services(method, bytes),
    }
}

/// Fake services of which auth cannot list sessions.
fn without_sessions(method: &str, bytes: &[u8]) -> Result<Vec<u8>, Status> {
    if method == "Sessions" { unavailable(method, bytes) } else { all_services(method, bytes) }
}

/// Fake auth service that answers a sign-in with the client that the request states, as the name of the user.
fn stating_the_client(method: &str, bytes: &[u8]) -> Result<Vec<u8>, Status> {
    let (device_name, user_agent) = match method {
        "Register" => {
            let request = auth::RegisterRequest::decode(bytes).expect("a request");
            (request.device_name, request.user_agent)
        }
        "Login" => {
            let request = auth::LoginRequest::decode(bytes).expect("a request");
            (request.device_name, request.user_agent)
        }
        _ => (None, auth::RefreshRequest::decode(bytes).expect("a request").user_agent),
    };
    let name = format!("{device_name:?} {user_agent:?}");
    let user = auth::User { id: session(1).bytes(), name, ..Default::default() };
    reply(&auth::Session { user: Some(user), ..Default::default() })
}

#[tokio::test]
async fn the_caller_sees_the_sessions_with_one_call() {
    let fixture = TestGateway::new(true, with_sessions);
    let document = format!("{{ me {{ name {SESSIONS} }} again: me {{ sessions {{ current }} }} }}");
    let answer = fixture.ask(&document).await;
    let open = |number: u128, device: Value, agent: Value, current: bool| {
        json!({
            "id": session(number).to_string(),
            "deviceName": device,
            "userAgent": agent,
            "createdAt": "1970-01-01T00:00:01.000000Z",
            "lastUsedAt": "1970-01-01T00:00:02.000000Z",
            "current": current,
        })
    };
    let laptop = open(1, json!("Laptop"), json!("agent \"1\""), false);
    let own = open(2, Value::Null, Value::Null, true);
    let expected = json!({ "data": {
        "me": { "name": "A", "sessions": [laptop, own] },
        "again": { "sessions": [{ "current": false }, { "current": true }] },
    } });
    assert_eq!(answer, expected);
    assert_eq!(*fixture.calls.lock(), ["Users", "Sessions"]);
}

#[tokio::test]
async fn the_sessions_of_another_user_are_null_without_a_call() {
    let fixture = TestGateway::new(true, with_sessions);
    let other = session(7);
    let answer = fixture.ask(&format!("{{ user(id: \"{other}\") {{ name sessions {{ id }} }} }}")).await;
    assert_eq!(answer["data"]["user"], json!({ "name": "A", "sessions": null }), "{answer}");
    assert_eq!(answer.get("errors"), None);
    assert!(!fixture.calls.lock().iter().any(|call| call == "Sessions"));
}

#[tokio::test]
async fn the_list_is_null_while_auth_cannot_answer_it() {
    let answer = TestGateway::new(true, without_sessions).ask("{ me { name sessions { id } } }").await;
    assert_eq!(answer["data"], json!({ "me": { "name": "A", "sessions": null } }));
    let error = &answer["errors"][0];
    assert_eq!(
        (&error["path"], &error["extensions"]["code"]),
        (&json!(["me", "sessions"]), &json!("UNAVAILABLE"))
    );
}

#[tokio::test]
async fn an_ended_session_is_revoked_before_the_answer_and_other_ids_are_not_found() {
    let fixture = TestGateway::new(true, with_sessions);
    let end = |id: &str| format!("mutation {{ endSession(id: \"{id}\") }}");
    let mut messages = Vec::new();
    for id in [session(1).to_string(), "nonsense".to_owned(), String::new()] {
        let answer = fixture.ask(&end(&id)).await;
        assert_eq!(answer["errors"][0]["extensions"]["code"], "NOT_FOUND", "{answer}");
        messages.push(answer["errors"][0]["message"].clone());
    }
    messages.dedup();
    assert_eq!(messages.len(), 1, "they look the same: {messages:?}");
    let code_of_its_token = async || {
        let body = json!({ "query": "{ __typename }" }).to_string();
        let token = fixture.token_of(session(2), 300);
        let request = post(&body).header(header::AUTHORIZATION, format!("Bearer {token}"));
        fixture.send(request.body(Body::from(body)).expect("a request")).await.code().to_owned()
    };
    assert_eq!(code_of_its_token().await, "none");
    assert_eq!(fixture.ask(&end(&session(2).to_string())).await, json!({ "data": { "endSession": true } }));
    assert_eq!(code_of_its_token().await, "UNAUTHENTICATED");
}

#[tokio::test]
async fn a_sign_in_states_the_device_name_and_the_user_agent() {
    let fixture = TestGateway::new(true, stating_the_client);
    let named = "login: \"ann\", password: \"correct horse\", deviceName: \"Phone\"";
    let unnamed = "login: \"ann\", password: \"correct horse\"";
    for (field, expected) in [
        (format!("register(input: {{ {named} }})"), "Some(\"Phone\") \"agent/1\""),
        (format!("register(input: {{ {unnamed} }})"), "None \"agent/1\""),
        (format!("login(input: {{ {named} }})"), "Some(\"Phone\") \"agent/1\""),
        ("refreshSession(refreshToken: \"x\")".to_owned(), "None \"agent/1\""),
    ] {
        let body =
            json!({ "query": format!("mutation {{ it: {field} {{ user {{ name }} }} }}") }).to_string();
        let request = post(&body).header(header::USER_AGENT, "agent/1");
        let answer = fixture.send(request.body(Body::from(body)).expect("a request")).await;
        assert_eq!(answer.json["data"]["it"]["user"]["name"], expected, "{field}: {}", answer.text);
    }
}
