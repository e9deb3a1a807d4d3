//! Rate limits: by address, login and user, over every transport, and shared between gateways through Redis.

use reqwest::{RequestBuilder, StatusCode};
use serde_json::{Value, json};

use crate::{app::App, caller::Caller, endpoint::Endpoint, socket_client::SocketClient, stack::Stack};

/// A login, which the limit of sign-ins applies to.
pub const LOGIN: &str = "mutation($input: LoginInput!) { login(input: $input) { accessToken } }";

fn login(endpoint: &Endpoint, login: &str) -> RequestBuilder {
    let input = json!({"login": format!("{login}{}", endpoint.login_suffix), "password": "wrong"});
    let body = json!({"query": LOGIN, "variables": {"input": input}});
    reqwest::Client::new().post(format!("{}/graphql", endpoint.url)).json(&body)
}

/// Sends a request. Returns the status, `Retry-After` in seconds, and the code of the first error.
async fn outcome(request: RequestBuilder) -> (StatusCode, Option<u64>, String) {
    let answer = request.send().await.unwrap();
    let status = answer.status();
    let wait = answer.headers().get("retry-after").cloned();
    let json: Value = answer.json().await.unwrap();
    let code = json["errors"][0]["extensions"]["code"].as_str().unwrap_or("none").to_owned();
    (status, wait.map(|wait| wait.to_str().unwrap().parse().unwrap()), code)
}

#[tokio::test]
async fn password_guessing_is_limited_by_login_and_by_address() {
    let app =
        App::start_with(&[("RATE_LIMIT_SIGN_IN", "30/h,10/h"), ("TRUSTED_PROXIES", "127.0.0.0/8, ::1")])
            .await;
    for number in 0..10 {
        let from = format!("198.51.100.{number}");
        let (status, wait, code) = outcome(login(&app, "ann").header("x-forwarded-for", from)).await;
        assert_eq!((status, wait, code.as_str()), (StatusCode::OK, None, "UNAUTHENTICATED"), "{number}");
    }
    let (status, wait, code) = outcome(login(&app, "ann").header("x-forwarded-for", "198.51.100.99")).await;
    assert_eq!(
        (status, code.as_str()),
        (StatusCode::TOO_MANY_REQUESTS, "RATE_LIMITED"),
        "the eleventh attempt for this login"
    );
    assert!(
        wait.is_some_and(|wait_s| (300..=360).contains(&wait_s)),
        "ten an hour are one in six minutes: {wait:?}"
    );
    for number in 0..30 {
        let (_, _, code) =
            outcome(login(&app, &format!("a{number:02}")).header("x-forwarded-for", "6.6.6.6, 192.0.2.7"))
                .await;
        assert_eq!(code, "UNAUTHENTICATED", "{number}");
    }
    let (_, _, code) = outcome(login(&app, "bob").header("x-forwarded-for", "7.7.7.7, 192.0.2.7")).await;
    assert_eq!(
        code, "RATE_LIMITED",
        "the 31st attempt from this address; entries before the trusted one are ignored"
    );
    let (_, _, code) = outcome(login(&app, "bob").header("x-forwarded-for", "192.0.2.8")).await;
    assert_eq!(code, "UNAUTHENTICATED", "other addresses are not limited");
    assert_eq!(app.metric("gateway_rate_limited_total").await, 2.0);
}

#[tokio::test]
async fn x_forwarded_for_is_ignored_without_trusted_proxies() {
    let app = App::start_with(&[("RATE_LIMIT_SIGN_IN", "2/h,0")]).await;
    for (forwarded, expected) in
        [("192.0.2.1", "UNAUTHENTICATED"), ("192.0.2.2", "UNAUTHENTICATED"), ("192.0.2.3", "RATE_LIMITED")]
    {
        assert_eq!(outcome(login(&app, "ann").header("x-forwarded-for", forwarded)).await.2, expected);
    }
}

#[tokio::test]
async fn a_users_operations_share_one_limit_over_http_and_sockets() {
    let app = App::start_with(&[("RATE_LIMIT_REQUESTS", "1/h:6")]).await;
    let ann = Caller::register(&app, "ann").await;
    for _ in 0..3 {
        ann.data("{ me { login } }", json!({})).await;
    }
    let mut phone = SocketClient::watch_unread(&ann, None).await;
    phone.frame("u", "unread").await;
    for id in ["a", "b"] {
        phone.subscribe(id, "{ me { login } }", json!({})).await;
        assert_eq!(phone.frame(id, "me").await["login"], "ann");
    }
    phone.subscribe("c", "{ me { login } }", json!({})).await;
    let rejected = loop {
        let message = phone.receive_for("c").await;
        if message["type"] != "complete" {
            break message;
        }
    };
    assert_eq!(rejected["type"], "error", "{rejected}");
    assert_eq!(rejected["payload"][0]["extensions"]["code"], "RATE_LIMITED", "{rejected}");
    let request = ann.http.post(format!("{}/graphql", ann.url)).bearer_auth(&ann.token);
    let (status, wait, code) = outcome(request.json(&json!({"query": "{ me { login } }"}))).await;
    assert_eq!((status, code.as_str()), (StatusCode::TOO_MANY_REQUESTS, "RATE_LIMITED"));
    assert!(wait.is_some_and(|wait_s| wait_s > 3000), "{wait:?}");
    Caller::register(&app, "bob").await.data("{ me { login } }", json!({})).await;
}

pub async fn limits_are_shared_between_gateways() {
    let extra = [("RATE_LIMIT_SIGN_IN", "0,4/h"), ("RATE_LIMIT_REQUESTS", "1/h:1000")];
    let Some(stack) = Stack::start(&extra).await else { return };
    if std::env::var("TEST_REDIS_URL").is_err() {
        println!("skipped: TEST_REDIS_URL names no Redis");
        return;
    }
    // Redis is not flushed: the suffix of this stack's logins keeps their counts apart from earlier runs.
    let second_gateway = stack.second_gateway();
    for endpoint in [&*stack, &second_gateway, &*stack, &second_gateway] {
        assert_eq!(outcome(login(endpoint, "ann")).await.2, "UNAUTHENTICATED");
    }
    for endpoint in [&*stack, &second_gateway] {
        assert_eq!(outcome(login(endpoint, "ann")).await.2, "RATE_LIMITED");
    }
    assert_eq!(outcome(login(&stack, "bob")).await.2, "UNAUTHENTICATED", "other logins are not limited");
    println!("four attempts over two gateways were allowed, the fifth and sixth rejected by each");
}
