//! Forwarding by the balancer: streaming, added and removed headers, retries, readiness and limits.

use std::{sync::atomic::Ordering, time::Duration};

use serde_json::Value;

use testkit::free_address;

use super::{Balancer, fake_gateway::FakeGateway};

const TIMEOUT: Duration = Duration::from_secs(5);

/// Starts two fake gateways and a balancer in front of them.
async fn set_up() -> Option<(FakeGateway, FakeGateway, Balancer)> {
    let one = FakeGateway::start().await;
    let two = FakeGateway::start().await;
    let balancer = Balancer::start(&one.address, &two.address).await?;
    Some((one, two, balancer))
}

#[tokio::test]
async fn each_part_of_a_stream_is_forwarded_immediately() {
    let Some((one, two, balancer)) = set_up().await else { return };
    for accepted in ["text/event-stream", "multipart/mixed;subscriptionSpec=1.0, application/json"] {
        let request =
            reqwest::Client::new().post(format!("{}/graphql", balancer.url)).header("accept", accepted);
        let mut answer = request.body("{}").send().await.unwrap();
        let first = tokio::time::timeout(TIMEOUT, answer.chunk())
            .await
            .expect("the first part before the second is sent")
            .unwrap();
        assert_eq!(first.as_deref(), Some(&b"one"[..]), "{accepted}");
        one.state.second_part.notify_waiters();
        two.state.second_part.notify_waiters();
        let second = tokio::time::timeout(TIMEOUT, answer.chunk()).await.expect("the second part").unwrap();
        assert_eq!(second.as_deref(), Some(&b"two"[..]), "{accepted}");
    }
}

#[tokio::test]
async fn requests_carry_the_client_address_and_a_request_id() {
    let Some((one, two, balancer)) = set_up().await else { return };
    let client = reqwest::Client::new();
    let named = client.post(format!("{}/graphql", balancer.url)).header("x-request-id", "of-the-client");
    let named = named
        .header("x-forwarded-for", "10.9.8.7")
        .header("x-real-ip", "10.9.8.7")
        .header("forwarded", "for=x");
    named.body("{}").send().await.unwrap();
    client.get(format!("{}/graphql?query=x", balancer.url)).send().await.unwrap();
    let mut heads = one.state.heads.lock().clone();
    heads.extend(two.state.heads.lock().clone());
    heads.sort();
    let [get, post] = &heads[..] else { panic!("expected two requests: {heads:?}") };
    assert!(post.contains("x-request-id: of-the-client\r\n"), "{post}");
    assert!(
        post.contains("x-forwarded-for: 127.0.0.1\r\n") && post.contains("x-forwarded-proto: http\r\n"),
        "{post}"
    );
    assert!(
        !post.contains("10.9.8.7") && !post.contains("forwarded: for"),
        "forwarding headers from the client are removed: {post}"
    );
    let id = get.lines().find_map(|line| line.strip_prefix("x-request-id: ")).expect("an id is added");
    assert_eq!(id.len(), 36, "{id}");
}

#[tokio::test]
async fn an_unreachable_gateway_fails_no_request() {
    let unreachable = free_address();
    let running = FakeGateway::start().await;
    let Some(balancer) = Balancer::start_unready(&unreachable, &running.address).await else { return };
    for _ in 0..20 {
        let answer =
            reqwest::Client::new().post(format!("{}/graphql", balancer.url)).body("{}").send().await.unwrap();
        assert_eq!(answer.status(), 200);
    }
    assert_eq!(running.request_count(), 20);
    balancer.wait_for_state("gateway1", false).await;
}

#[tokio::test]
async fn a_request_that_a_gateway_dropped_is_retried_only_if_it_is_a_get() {
    let Some((one, two, balancer)) = set_up().await else { return };
    one.state.closes_unanswered.store(true, Ordering::SeqCst);
    let url = format!("{}/graphql", balancer.url);
    for _ in 0..20 {
        assert_eq!(reqwest::Client::new().get(&url).send().await.unwrap().status(), 200, "a GET is retried");
    }
    assert!(one.request_count() > 0, "the first gateway received requests");
    let before = one.request_count() + two.request_count();
    let mut lost = 0;
    for _ in 0..20 {
        // On a reused connection the balancer closes instead of responding 502, and the client retries
        // or fails.
        let answer = reqwest::Client::new().post(&url).body("{}").send().await.unwrap();
        if answer.status() == 502 {
            let body: Value = answer.json().await.unwrap();
            assert_eq!(body["errors"][0]["extensions"]["code"], "UNAVAILABLE");
            lost += 1;
        }
    }
    assert!(lost > 0, "no POST reached the gateway that drops requests");
    assert_eq!(one.request_count() + two.request_count() - before, 20, "no POST is sent twice");
}

#[tokio::test]
async fn an_unready_gateway_receives_no_new_request() {
    let Some((one, two, balancer)) = set_up().await else { return };
    one.state.ready.store(false, Ordering::SeqCst);
    balancer.wait_for_state("gateway1", false).await;
    let before = one.request_count();
    for _ in 0..10 {
        assert_eq!(reqwest::get(format!("{}/graphql", balancer.url)).await.unwrap().status(), 200);
    }
    assert_eq!(one.request_count(), before);
    two.state.ready.store(false, Ordering::SeqCst);
    balancer.wait_for_state("gateway2", false).await;
    let answer = reqwest::get(format!("{}/graphql", balancer.url)).await.unwrap();
    assert_eq!(answer.status(), 503);
    let body: Value = answer.json().await.unwrap();
    assert_eq!(body["errors"][0]["extensions"]["code"], "UNAVAILABLE");
    assert_eq!(balancer.get_ops("/readyz").await.0, 503);
    one.state.ready.store(true, Ordering::SeqCst);
    balancer.wait_for_state("gateway1", true).await;
    assert_eq!(reqwest::get(format!("{}/graphql", balancer.url)).await.unwrap().status(), 200);
}

#[tokio::test]
async fn oversized_requests_and_operations_paths_are_rejected() {
    let Some((one, two, balancer)) = set_up().await else { return };
    let client = reqwest::Client::new();
    let url = format!("{}/graphql", balancer.url);
    let body = |bytes: usize| client.post(&url).body(vec![b' '; bytes]).send();
    assert_eq!(
        body(1_050_000).await.unwrap().status(),
        200,
        "slightly oversized bodies are left to the gateway to reject"
    );
    let forwarded = one.request_count() + two.request_count();
    let answer = balancer.post_head(1_100_001).await;
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("LIMIT_EXCEEDED"), "{answer}");
    let answer = client.get(&url).header("x-large", "x".repeat(16_000)).send().await.unwrap();
    assert_eq!(answer.status(), 400);
    assert_eq!(client.get(format!("{}/readyz", balancer.url)).send().await.unwrap().status(), 404);
    assert_eq!(one.request_count() + two.request_count(), forwarded, "none of these reached a gateway");
}
