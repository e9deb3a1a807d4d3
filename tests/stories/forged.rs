//! Forged tokens from outside: over HTTP and over WebSocket, where they come in every way in which a token can come.

use access::SigningKeys;
use serde_json::json;
use testkit::forged::{Genuine, tokens};
use tokio_tungstenite::tungstenite::{Message, http::HeaderValue};

use crate::{app::App, device::Device, person::Person};

/// The status and the code of an answer to a question that needs no sign-in.
async fn asked(person: &Person, headers: &[HeaderValue]) -> (u16, String) {
    let mut request =
        person.http.post(format!("{}/graphql", person.url)).json(&json!({"query": "{ __typename }"}));
    for value in headers {
        request = request.header("authorization", value.clone());
    }
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    let body: serde_json::Value = answer.json().await.unwrap_or_default();
    (status, body["errors"][0]["extensions"]["code"].as_str().unwrap_or("none").to_owned())
}

fn refused() -> (u16, String) {
    (401, "UNAUTHENTICATED".to_owned())
}

#[tokio::test]
async fn no_forged_token_opens_anything_over_http_or_websocket() {
    let app = App::start().await;
    let ann = Person::register(&app, "ann").await;
    let gone = Person::login(&app, "ann").await;
    gone.data("mutation { logout }", json!({})).await;
    let path = app.folder.path().join("signing-key.pem");
    let (pem, jwks) = (std::fs::read_to_string(&path).unwrap(), SigningKeys::load(&path).unwrap().jwks());
    let mut table = tokens(&Genuine { token: &ann.token, pem: &pem, jwks: &jwks });
    let service = std::fs::read_to_string(app.folder.path().join("service-token")).unwrap().trim().to_owned();
    table.push(("a refresh token".to_owned(), ann.refresh_token.clone()));
    table.push(("the service token".to_owned(), service));
    table.push(("a session that is over".to_owned(), gone.token));
    let (mut over_http, mut over_sockets) = (0, 0);
    for (what, token) in &table {
        // Some cannot be written into a header at all.
        if let Ok(value) = HeaderValue::from_str(&format!("Bearer {token}")) {
            assert_eq!(asked(&ann, &[value]).await, refused(), "{what}: {token}");
            over_http += 1;
        }
        let mut device = Device::open(&app.url).await;
        device
            .say(json!({"type": "connection_init", "payload": {"authorization": format!("Bearer {token}")}}))
            .await;
        assert_eq!(device.closed().await.0, 4403, "{what}: {token}");
        over_sockets += 1;
    }
    assert_eq!(
        ann.data("{ me { login } }", json!({})).await["me"]["login"],
        "ann",
        "the true one holds still"
    );
    println!("forged tokens: {over_http} refused over HTTP, {over_sockets} over WebSocket");
}

#[tokio::test]
async fn a_header_says_bearer_and_one_token_or_is_refused() {
    let app = App::start().await;
    let ann = Person::register(&app, "ann").await;
    let token = &ann.token;
    let one = |text: String| vec![HeaderValue::from_str(&text).unwrap()];
    for scheme in ["Bearer", "bearer", "BEARER"] {
        assert_eq!(
            asked(&ann, &one(format!("{scheme} {token}"))).await,
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
        assert_eq!(asked(&ann, variant).await, refused(), "{variant:?}");
    }
    println!("bearer variants: {} refused", variants.len());
}

#[tokio::test]
async fn a_socket_whose_token_is_no_text_or_beyond_a_frame_is_refused() {
    let app = App::start().await;
    for payload in
        [json!(7), json!(true), json!(["x"]), json!({"token": "x"}), json!("a b c"), json!("Basic x")]
    {
        let mut device = Device::open(&app.url).await;
        device.say(json!({"type": "connection_init", "payload": {"authorization": payload}})).await;
        assert_eq!(device.closed().await.0, 4403, "{payload}");
    }
    let mut device = Device::open(&app.url).await;
    let init = json!({"type": "connection_init", "payload": {"authorization": "a".repeat(70_000)}});
    device.say_raw(Message::text(init.to_string())).await;
    assert_eq!(device.closed().await.0, 1009);
}

#[tokio::test]
async fn a_true_token_of_nobody_finds_nothing_and_may_do_nothing() {
    let app = App::start().await;
    let mut ghost = Person::register(&app, "ann").await;
    let keys = SigningKeys::load(&app.folder.path().join("signing-key.pem")).unwrap();
    let now_s = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64;
    ghost.token =
        keys.sign(&access::Claims::new("tidings", uuid::Uuid::now_v7(), uuid::Uuid::now_v7(), now_s, 60));
    let data = ghost.data("{ me { login } dialogs { nodes { id } } unread { total } }", json!({})).await;
    assert_eq!(data, json!({"me": null, "dialogs": {"nodes": []}, "unread": {"total": 0}}));
    assert_eq!(ghost.code("mutation { updateMe(name: \"x\") { id } }", json!({})).await, "UNAUTHENTICATED");
    assert_eq!(ghost.code("mutation { logout }", json!({})).await, "UNAUTHENTICATED");
}
