//! Rate limits of the real program: by address and user, over every transport, and shared between gateways.

use reqwest::{RequestBuilder, StatusCode};
use serde_json::{Value, json};

use crate::{app::App, device::Device, person::Person, place::Place, stack::Stack};

pub const LOGIN: &str = "mutation($input: LoginInput!) { login(input: $input) { accessToken } }";

fn login(place: &Place, login: &str) -> RequestBuilder {
    let body = json!({"query": LOGIN, "variables": {"input": {"login": format!("{login}{}", place.suffix), "password": "wrong"}}});
    reqwest::Client::new().post(format!("{}/graphql", place.url)).json(&body)
}

/// Status, `Retry-After` and the code of the first error.
async fn outcome(request: RequestBuilder) -> (StatusCode, Option<u64>, String) {
    let answer = request.send().await.unwrap();
    let (status, wait) = (answer.status(), answer.headers().get("retry-after").cloned());
    let json: Value = answer.json().await.unwrap();
    let code = json["errors"][0]["extensions"]["code"].as_str().unwrap_or("none").to_owned();
    (status, wait.map(|wait| wait.to_str().unwrap().parse().unwrap()), code)
}

#[tokio::test]
async fn guessing_passwords_is_429_by_login_and_by_address() {
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
        "the login's eleventh"
    );
    assert!(wait.is_some_and(|wait_s| (300..=360).contains(&wait_s)), "one in six minutes: {wait:?}");
    for number in 0..30 {
        let (_, _, code) =
            outcome(login(&app, &format!("a{number:02}")).header("x-forwarded-for", "6.6.6.6, 192.0.2.7"))
                .await;
        assert_eq!(code, "UNAUTHENTICATED", "{number}");
    }
    let (_, _, code) = outcome(login(&app, "bob").header("x-forwarded-for", "7.7.7.7, 192.0.2.7")).await;
    assert_eq!(code, "RATE_LIMITED", "the address's 31st, whatever it says to be");
    let (_, _, code) = outcome(login(&app, "bob").header("x-forwarded-for", "192.0.2.8")).await;
    assert_eq!(code, "UNAUTHENTICATED", "others are welcome");
    assert_eq!(app.metric("gateway_rate_limited_total").await, 2.0);
}

#[tokio::test]
async fn nobody_is_believed_about_where_clients_are_unless_it_is_said() {
    let app = App::start_with(&[("RATE_LIMIT_SIGN_IN", "2/h,0")]).await;
    for (forwarded, expected) in
        [("192.0.2.1", "UNAUTHENTICATED"), ("192.0.2.2", "UNAUTHENTICATED"), ("192.0.2.3", "RATE_LIMITED")]
    {
        assert_eq!(outcome(login(&app, "ann").header("x-forwarded-for", forwarded)).await.2, expected);
    }
}

#[tokio::test]
async fn a_users_operations_have_one_limit_over_http_and_sockets() {
    let app = App::start_with(&[("RATE_LIMIT_REQUESTS", "1/h:6")]).await;
    let ann = Person::register(&app, "ann").await;
    for _ in 0..3 {
        ann.data("{ me { login } }", json!({})).await;
    }
    let mut phone = Device::watching(&ann, None).await;
    phone.frame("u", "unread").await;
    for id in ["a", "b"] {
        phone.subscribe(id, "{ me { login } }", json!({})).await;
        assert_eq!(phone.frame(id, "me").await["login"], "ann");
    }
    phone.subscribe("c", "{ me { login } }", json!({})).await;
    let refused = loop {
        let message = phone.hear_of("c").await;
        if message["type"] != "complete" {
            break message;
        }
    };
    assert_eq!(refused["type"], "error", "{refused}");
    assert_eq!(refused["payload"][0]["extensions"]["code"], "RATE_LIMITED", "{refused}");
    let request = ann.http.post(format!("{}/graphql", ann.url)).bearer_auth(&ann.token);
    let (status, wait, code) = outcome(request.json(&json!({"query": "{ me { login } }"}))).await;
    assert_eq!((status, code.as_str()), (StatusCode::TOO_MANY_REQUESTS, "RATE_LIMITED"));
    assert!(wait.is_some_and(|wait_s| wait_s > 3000), "{wait:?}");
    Person::register(&app, "bob").await.data("{ me { login } }", json!({})).await;
}

pub async fn the_limits_are_shared_between_gateways() {
    let extra = [("RATE_LIMIT_SIGN_IN", "0,4/h"), ("RATE_LIMIT_REQUESTS", "1/h:1000")];
    let Some(stack) = Stack::start(&extra).await else { return };
    if std::env::var("TEST_REDIS_URL").is_err() {
        println!("skipped: TEST_REDIS_URL names no Redis");
        return;
    }
    // Whatever was counted before in this Redis was for other logins.
    let elsewhere = stack.elsewhere();
    for place in [&*stack, &elsewhere, &*stack, &elsewhere] {
        assert_eq!(outcome(login(place, "ann")).await.2, "UNAUTHENTICATED");
    }
    for place in [&*stack, &elsewhere] {
        assert_eq!(outcome(login(place, "ann")).await.2, "RATE_LIMITED");
    }
    assert_eq!(outcome(login(&stack, "bob")).await.2, "UNAUTHENTICATED", "others may");
    println!("four attempts over two gateways, the fifth and sixth were refused by each");
}
