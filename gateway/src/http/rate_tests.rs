//! Tests of rate limits over HTTP: status, headers, and no calls to services for rejected operations.

use axum::{body::Body, http::StatusCode};
use prost::Message;
use proto::{UserId, auth};
use serde_json::{Value, json};
use tonic::Status;

use crate::{
    client::rate_limits::RateLimits,
    testing::{Answer, TestGateway, post, reply},
};

fn limits(requests: &str, sign_in_address: &str, sign_in_login: &str) -> RateLimits {
    let limit = |text: &str| text.parse().expect("rate limit");
    RateLimits {
        requests: limit(requests),
        sign_in_address: limit(sign_in_address),
        sign_in_login: limit(sign_in_login),
        ..RateLimits::default()
    }
}

/// Fake auth service that knows no address and rejects every password.
fn reject_password(method: &str, bytes: &[u8]) -> Result<Vec<u8>, Status> {
    if method == "Login" && auth::LoginRequest::decode(bytes).expect("a login").known_address_only {
        return Err(Status::failed_precondition("unknown"));
    }
    Err(Status::unauthenticated("wrong"))
}

/// Fake auth service that accepts every password.
fn accept_password(_: &str, _: &[u8]) -> Result<Vec<u8>, Status> {
    let user = auth::User { id: UserId::now().bytes(), ..Default::default() };
    reply(&auth::Session { user: Some(user), ..Default::default() })
}

fn login(alias: &str, login: &str) -> String {
    format!("{alias}: login(input: {{ login: \"{login}\", password: \"x\" }}) {{ accessToken }} ")
}

fn mutation(fields: &[String]) -> Value {
    json!({ "query": format!("mutation {{ {} }}", fields.concat()) })
}

async fn send_from(fixture: &TestGateway, forwarded: &str, body: &Value) -> Answer {
    let body = body.to_string();
    let request = post(&body).header("x-forwarded-for", forwarded);
    let request =
        request.extension(axum::extract::ConnectInfo(std::net::SocketAddr::from(([10, 0, 0, 1], 1))));
    fixture.send(request.body(Body::from(body)).expect("request")).await
}

#[track_caller]
fn assert_rate_limited(answer: &Answer) {
    assert_eq!(
        (answer.status, answer.code()),
        (StatusCode::TOO_MANY_REQUESTS, "RATE_LIMITED"),
        "{}",
        answer.text
    );
    let wait_ms = answer.json["errors"][0]["extensions"]["retryAfterMs"].as_u64().expect("retryAfterMs");
    let wait_s: u64 = answer.headers["retry-after"].to_str().expect("ASCII header").parse().expect("seconds");
    assert_eq!(wait_s, wait_ms.div_ceil(1000));
    assert!((1..=3600).contains(&wait_s), "{wait_s}");
    assert!(answer.json.get("data").is_none(), "{}", answer.text);
}

#[tokio::test]
async fn a_rate_limited_request_is_429_before_it_is_parsed() {
    let fixture = TestGateway::limited(limits("1/h:3", "0", "0"), reject_password);
    let query = json!({ "query": "{ __typename }" });
    for _ in 0..3 {
        assert_eq!(send_from(&fixture, "192.0.2.1", &query).await.status, StatusCode::OK);
    }
    assert_rate_limited(&send_from(&fixture, "192.0.2.1", &query).await);
    assert_rate_limited(&send_from(&fixture, "192.0.2.1", &json!({ "query": "{" })).await);
    assert_eq!(
        send_from(&fixture, "192.0.2.2", &query).await.status,
        StatusCode::OK,
        "another client behind the same proxy"
    );
    assert_rate_limited(&send_from(&fixture, "192.0.2.2, 192.0.2.1", &query).await);
    let signed_in = fixture.ask("{ __typename }").await;
    assert_eq!(signed_in["data"]["__typename"], "Query", "an authenticated user has a separate limit");
}

#[tokio::test]
async fn each_operation_of_a_batch_counts_and_a_rate_limited_batch_executes_nothing() {
    let fixture = TestGateway::limited(limits("1/h:5", "0", "0"), reject_password);
    let batch = |count: usize| Value::from(vec![mutation(&[login("a", "ann")]); count]);
    let answer = send_from(&fixture, "192.0.2.1", &batch(3)).await;
    assert_eq!(
        (answer.status, answer.json.as_array().map(Vec::len)),
        (StatusCode::OK, Some(3)),
        "{}",
        answer.text
    );
    assert_eq!(fixture.calls.lock().len(), 3);
    assert_rate_limited(&send_from(&fixture, "192.0.2.1", &batch(3)).await);
    assert_eq!(fixture.calls.lock().len(), 3, "none of the second batch was executed");
}

#[tokio::test]
async fn each_alias_counts_as_a_sign_in_from_the_address() {
    let fixture = TestGateway::limited(limits("0", "1/h:4", "0"), accept_password);
    let aliases: Vec<String> = ["a", "b", "c", "d", "e"].iter().map(|alias| login(alias, "ann")).collect();
    assert_rate_limited(&send_from(&fixture, "192.0.2.1", &mutation(&aliases)).await);
    assert_eq!(fixture.calls.lock().len(), 4, "the fifth password was not hashed");
}

#[tokio::test]
async fn each_wrong_password_of_a_batch_counts_for_the_login_and_a_right_one_does_not() {
    let fixture = TestGateway::limited(limits("0", "0", "1/h:4"), reject_password);
    let calls = || fixture.calls.lock().len();
    let batch = Value::from(vec![mutation(&[login("a", "bob")]); 6]);
    let answer = send_from(&fixture, "192.0.2.2", &batch).await;
    let entries = answer.json.as_array().expect("list of results");
    let limited =
        entries.iter().filter(|entry| entry["errors"][0]["extensions"]["code"] == "RATE_LIMITED").count();
    assert_eq!((answer.status, limited, calls()), (StatusCode::OK, 2, 4), "{}", answer.text);
    assert_rate_limited(&send_from(&fixture, "192.0.2.3", &mutation(&[login("a", "bob")])).await);
    assert_eq!(calls(), 5, "auth is asked whether the address is known");
    let other = send_from(&fixture, "192.0.2.3", &mutation(&[login("a", "cleo")])).await;
    assert_eq!(other.code(), "UNAUTHENTICATED", "another login");

    let fixture = TestGateway::limited(limits("0", "0", "1/h:4"), accept_password);
    let aliases: Vec<String> = ["a", "b", "c", "d", "e"].iter().map(|alias| login(alias, "ann")).collect();
    let answer = send_from(&fixture, "192.0.2.1", &mutation(&aliases)).await;
    assert!(answer.json["data"]["e"]["accessToken"].is_string(), "{}", answer.text);
}

#[tokio::test]
async fn a_busy_service_is_429_with_the_time_to_wait() {
    let busy = |_: &str, _: &[u8]| Err(proto::refuse("busy", std::time::Duration::from_secs(7)));
    let fixture = TestGateway::limited(RateLimits::default(), busy);
    let answer = send_from(&fixture, "192.0.2.1", &mutation(&[login("a", "ann")])).await;
    assert_rate_limited(&answer);
    assert_eq!(answer.headers["retry-after"], "7");
}

#[tokio::test]
async fn all_ways_to_sign_in_share_the_limit_of_the_address() {
    let fixture = TestGateway::limited(limits("0", "1/h:3", "0"), reject_password);
    let register =
        "register(input: { login: \"ann\", password: \"long enough\", name: \"Ann\" }) { accessToken }";
    let refresh = "refreshSession(refreshToken: \"x\") { accessToken }";
    for field in [register, refresh, &login("a", "bob")] {
        assert_eq!(
            send_from(&fixture, "192.0.2.1", &mutation(&[field.to_owned()])).await.code(),
            "UNAUTHENTICATED"
        );
    }
    for field in [register, refresh, &login("a", "bob")] {
        assert_rate_limited(&send_from(&fixture, "192.0.2.1", &mutation(&[field.to_owned()])).await);
    }
    for media in
        ["application/graphql-response+json", "text/event-stream", "multipart/mixed;subscriptionSpec=1.0"]
    {
        let body = mutation(&[login("a", "bob")]).to_string();
        let request = post(&body).header("accept", media).header("x-forwarded-for", "192.0.2.1");
        let request =
            request.extension(axum::extract::ConnectInfo(std::net::SocketAddr::from(([10, 0, 0, 1], 1))));
        assert_rate_limited(&fixture.send(request.body(Body::from(body)).expect("request")).await);
    }
    assert_eq!(
        send_from(&fixture, "192.0.2.2", &mutation(&[refresh.to_owned()])).await.code(),
        "UNAUTHENTICATED"
    );
}

#[tokio::test]
async fn password_changes_share_one_limit_across_the_sessions_of_a_user() {
    let fixture = TestGateway::limited(limits("0", "0", "1/h:2"), reject_password);
    let change = "changePassword(old: \"x\", new: \"long enough\") { accessToken }";
    for _ in 0..2 {
        let answer = fixture.ask(&format!("mutation {{ {change} }}")).await;
        assert_eq!(answer["errors"][0]["extensions"]["code"], "UNAUTHENTICATED", "{answer}");
    }
    let body = mutation(&[change.to_owned()]).to_string();
    let request = post(&body).header("authorization", format!("Bearer {}", fixture.token(200)));
    assert_rate_limited(&fixture.send(request.body(Body::from(body)).expect("request")).await);
    assert_eq!(fixture.calls.lock().len(), 2, "the third password was not hashed");
}
