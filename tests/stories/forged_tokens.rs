//! Invalid access tokens over HTTP and WebSocket, in every form in which a client can send a token.

use access::SigningKeys;
use serde_json::json;
use testkit::invalid_tokens::{InvalidToken, ValidToken, invalid_tokens};
use tokio_tungstenite::tungstenite::{Message, http::HeaderValue};

use crate::{app::App, caller::Caller, socket_client::SocketClient};

/// Executes a query that needs no authentication, with these headers. Returns the status and the error code.
async fn status_and_code(caller: &Caller, headers: &[HeaderValue]) -> (u16, String) {
    let mut request =
        caller.http.post(format!("{}/graphql", caller.url)).json(&json!({"query": "{ __typename }"}));
    for value in headers {
        request = request.header("authorization", value.clone());
    }
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    let body: serde_json::Value = answer.json().await.unwrap_or_default();
    (status, body["errors"][0]["extensions"]["code"].as_str().unwrap_or("none").to_owned())
}

fn unauthenticated() -> (u16, String) {
    (401, "UNAUTHENTICATED".to_owned())
}

#[tokio::test]
async fn invalid_tokens_are_rejected_over_http_and_websocket() {
    let app = App::start().await;
    let ann = Caller::register(&app, "ann").await;
    let revoked = Caller::login(&app, "ann").await;
    revoked.data("mutation { logout }", json!({})).await;
    let path = app.folder.path().join("signing-key.pem");
    let pem = std::fs::read_to_string(&path).unwrap();
    let jwks = SigningKeys::load(&path).unwrap().jwks();
    let mut table = invalid_tokens(&ValidToken { token: &ann.token, pem: &pem, jwks: &jwks });
    let service = std::fs::read_to_string(app.folder.path().join("service-token")).unwrap().trim().to_owned();
    table.push(InvalidToken::new("a refresh token", &ann.refresh_token));
    table.push(InvalidToken::new("the service token", &service));
    table.push(InvalidToken::new("a token of a revoked session", &revoked.token));
    let mut over_http = 0;
    let mut over_sockets = 0;
    for InvalidToken { description, token } in &table {
        // Some are not valid header values.
        if let Ok(value) = HeaderValue::from_str(&format!("Bearer {token}")) {
            assert_eq!(status_and_code(&ann, &[value]).await, unauthenticated(), "{description}: {token}");
            over_http += 1;
        }
        let mut socket = SocketClient::open(&app.url).await;
        socket
            .send(json!({"type": "connection_init", "payload": {"authorization": format!("Bearer {token}")}}))
            .await;
        assert_eq!(socket.wait_for_close().await.0, 4403, "{description}: {token}");
        over_sockets += 1;
    }
    assert_eq!(
        ann.data("{ me { login } }", json!({})).await["me"]["login"],
        "ann",
        "the valid token still works"
    );
    println!("invalid tokens: {over_http} rejected over HTTP, {over_sockets} over WebSocket");
}

#[tokio::test]
async fn the_header_must_be_bearer_and_one_token() {
    let app = App::start().await;
    let ann = Caller::register(&app, "ann").await;
    let token = &ann.token;
    let one = |text: String| vec![HeaderValue::from_str(&text).unwrap()];
    for scheme in ["Bearer", "bearer", "BEARER"] {
        assert_eq!(
            status_and_code(&ann, &one(format!("{scheme} {token}"))).await,
            (200, "none".to_owned()),
            "{scheme}"
        );
    }
    let bearer = format!("Bearer {token}");
    let variants = [
        one(token.clone()),
        one("Bearer".to_owned()),
        one(format!("Basic {token}")),
        one(format!("JWT {token}")),
        one(format!("Token {token}")),
        one(format!("DPoP {token}")),
        one(format!("Bearer{token}")),
        one(format!("Bearer:{token}")),
        one(format!("Bearer={token}")),
        one(format!("Bearer\t{token}")),
        one(format!("Bearer Bearer {token}")),
        one(format!("Bearer Basic {token}")),
        one(format!("Bearer \"{token}\"")),
        one(format!("{bearer} {token}")),
        one(format!("{bearer},{bearer}")),
        one(format!("{bearer};")),
        one("Bearer ".to_owned() + &"a".repeat(50_000)),
        vec![HeaderValue::from_bytes(b"Bearer \xfc.\xfc.\xfc").unwrap()],
        [one(bearer.clone()), one(bearer.clone())].concat(),
        [one(bearer.clone()), one("Basic x".to_owned())].concat(),
        [one(String::new()), one(bearer.clone())].concat(),
    ];
    for variant in &variants {
        assert_eq!(status_and_code(&ann, variant).await, unauthenticated(), "{variant:?}");
    }
    println!("variants of the header: {} rejected", variants.len());
}

#[tokio::test]
async fn a_token_that_is_no_string_or_too_large_closes_the_socket() {
    let app = App::start().await;
    for payload in
        [json!(7), json!(true), json!(["x"]), json!({"token": "x"}), json!("a b c"), json!("Basic x")]
    {
        let mut socket = SocketClient::open(&app.url).await;
        socket.send(json!({"type": "connection_init", "payload": {"authorization": payload}})).await;
        assert_eq!(socket.wait_for_close().await.0, 4403, "{payload}");
    }
    let mut socket = SocketClient::open(&app.url).await;
    let init = json!({"type": "connection_init", "payload": {"authorization": "a".repeat(70_000)}});
    socket.send_raw(Message::text(init.to_string())).await;
    assert_eq!(socket.wait_for_close().await.0, 1009);
}

#[tokio::test]
async fn a_valid_token_of_an_unknown_user_finds_and_allows_nothing() {
    let app = App::start().await;
    let mut unknown = Caller::register(&app, "ann").await;
    let keys = SigningKeys::load(&app.folder.path().join("signing-key.pem")).unwrap();
    let now_s = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64;
    unknown.token =
        keys.sign(&access::Claims::new("tidings", uuid::Uuid::now_v7(), uuid::Uuid::now_v7(), now_s, 60));
    let data = unknown.data("{ me { login } dialogs { nodes { id } } unread { total } }", json!({})).await;
    assert_eq!(data, json!({"me": null, "dialogs": {"nodes": []}, "unread": {"total": 0}}));
    assert_eq!(
        unknown.error_code("mutation { updateMe(name: \"x\") { id } }", json!({})).await,
        "UNAUTHENTICATED"
    );
    assert_eq!(unknown.error_code("mutation { logout }", json!({})).await, "UNAUTHENTICATED");
}
