//! What the balancer lets through, what it says to the gateways, and what it asks again.

use std::{net::TcpListener, sync::atomic::Ordering, time::Duration};

use serde_json::Value;

use super::{Balancer, fake::Fake};

const PATIENCE: Duration = Duration::from_secs(5);

/// Two gateways and the balancer before them.
async fn trio() -> Option<(Fake, Fake, Balancer)> {
    let (one, two) = (Fake::start().await, Fake::start().await);
    let balancer = Balancer::start(&one.address, &two.address).await?;
    Some((one, two, balancer))
}

#[tokio::test]
async fn each_part_of_a_stream_comes_at_once() {
    let Some((one, two, balancer)) = trio().await else { return };
    for accepted in ["text/event-stream", "multipart/mixed;subscriptionSpec=1.0, application/json"] {
        let request =
            reqwest::Client::new().post(format!("{}/graphql", balancer.url)).header("accept", accepted);
        let mut answer = request.body("{}").send().await.unwrap();
        let first =
            tokio::time::timeout(PATIENCE, answer.chunk()).await.expect("the first part alone").unwrap();
        assert_eq!(first.as_deref(), Some(&b"one"[..]), "{accepted}");
        one.shared.go_on.notify_waiters();
        two.shared.go_on.notify_waiters();
        let second = tokio::time::timeout(PATIENCE, answer.chunk()).await.expect("the second part").unwrap();
        assert_eq!(second.as_deref(), Some(&b"two"[..]), "{accepted}");
    }
}

#[tokio::test]
async fn a_gateway_is_told_who_asks_and_every_request_has_a_name() {
    let Some((one, two, balancer)) = trio().await else { return };
    let client = reqwest::Client::new();
    let named = client.post(format!("{}/graphql", balancer.url)).header("x-request-id", "of-the-client");
    let named = named
        .header("x-forwarded-for", "10.9.8.7")
        .header("x-real-ip", "10.9.8.7")
        .header("forwarded", "for=x");
    named.body("{}").send().await.unwrap();
    client.get(format!("{}/graphql?query=x", balancer.url)).send().await.unwrap();
    let mut heads = one.shared.heads.lock().unwrap().clone();
    heads.extend(two.shared.heads.lock().unwrap().clone());
    heads.sort();
    let [get, post] = &heads[..] else { panic!("two requests, {heads:?}") };
    assert!(post.contains("x-request-id: of-the-client\r\n"), "{post}");
    assert!(
        post.contains("x-forwarded-for: 127.0.0.1\r\n") && post.contains("x-forwarded-proto: http\r\n"),
        "{post}"
    );
    assert!(
        !post.contains("10.9.8.7") && !post.contains("forwarded: for"),
        "what a caller says of itself: {post}"
    );
    let made = get.lines().find_map(|line| line.strip_prefix("x-request-id: ")).expect("an id is made");
    assert_eq!(made.len(), 36, "{made}");
}

#[tokio::test]
async fn a_gateway_that_cannot_be_reached_costs_no_request() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let there = Fake::start().await;
    let Some(balancer) = Balancer::start_at_once(&gone, &there.address).await else { return };
    for _ in 0..20 {
        let answer =
            reqwest::Client::new().post(format!("{}/graphql", balancer.url)).body("{}").send().await.unwrap();
        assert_eq!(answer.status(), 200);
    }
    assert_eq!(there.asked(), 20);
    balancer.knows("gateway1", false).await;
}

#[tokio::test]
async fn what_a_gateway_had_taken_is_asked_again_only_where_it_changes_nothing() {
    let Some((one, two, balancer)) = trio().await else { return };
    one.shared.hangs_up.store(true, Ordering::SeqCst);
    let url = format!("{}/graphql", balancer.url);
    for _ in 0..20 {
        assert_eq!(
            reqwest::Client::new().get(&url).send().await.unwrap().status(),
            200,
            "a GET is asked again"
        );
    }
    assert!(one.asked() > 0, "the first gateway was tried");
    let before = one.asked() + two.asked();
    let mut lost = 0;
    for _ in 0..20 {
        // On a connection that served before, the balancer hangs up instead: clients know what that means.
        let answer = reqwest::Client::new().post(&url).body("{}").send().await.unwrap();
        if answer.status() == 502 {
            let told: Value = answer.json().await.unwrap();
            assert_eq!(told["errors"][0]["extensions"]["code"], "UNAVAILABLE");
            lost += 1;
        }
    }
    assert!(lost > 0, "no POST reached the gateway that hangs up");
    assert_eq!(one.asked() + two.asked() - before, 20, "no POST is sent twice");
}

#[tokio::test]
async fn a_gateway_that_is_not_ready_gets_no_new_request() {
    let Some((one, two, balancer)) = trio().await else { return };
    one.shared.ready.store(false, Ordering::SeqCst);
    balancer.knows("gateway1", false).await;
    let before = one.asked();
    for _ in 0..10 {
        assert_eq!(reqwest::get(format!("{}/graphql", balancer.url)).await.unwrap().status(), 200);
    }
    assert_eq!(one.asked(), before);
    two.shared.ready.store(false, Ordering::SeqCst);
    balancer.knows("gateway2", false).await;
    let answer = reqwest::get(format!("{}/graphql", balancer.url)).await.unwrap();
    assert_eq!(answer.status(), 503);
    let told: Value = answer.json().await.unwrap();
    assert_eq!(told["errors"][0]["extensions"]["code"], "UNAVAILABLE");
    assert_eq!(balancer.tells("/readyz").await.0, 503);
    one.shared.ready.store(true, Ordering::SeqCst);
    balancer.knows("gateway1", true).await;
    assert_eq!(reqwest::get(format!("{}/graphql", balancer.url)).await.unwrap().status(), 200);
}

#[tokio::test]
async fn what_is_too_large_and_what_is_told_inside_alone_stay_outside() {
    let Some((one, two, balancer)) = trio().await else { return };
    let client = reqwest::Client::new();
    let url = format!("{}/graphql", balancer.url);
    let body = |bytes: usize| client.post(&url).body(vec![b' '; bytes]).send();
    assert_eq!(body(1_050_000).await.unwrap().status(), 200, "a little too much is the gateway's to refuse");
    let asked = one.asked() + two.asked();
    let answer = balancer.announced(1_100_001).await;
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("LIMIT_EXCEEDED"), "{answer}");
    let answer = client.get(&url).header("x-large", "x".repeat(16_000)).send().await.unwrap();
    assert_eq!(answer.status(), 400);
    assert_eq!(client.get(format!("{}/readyz", balancer.url)).send().await.unwrap().status(), 404);
    assert_eq!(one.asked() + two.asked(), asked, "none of these reached a gateway");
}
