//! Floods of logins: passwords are hashed beside the queries of others and not instead of them, no circuit
//! breaker opens, and who guesses the password of a user does not lock the user out.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    app::App,
    caller::{Caller, PASSWORD},
    rate_limits::LOGIN,
};

/// Logins that are in flight at every moment of the flood.
const FLOOD: u32 = 200;
/// Time over which the latency of queries is measured, without the flood and with it.
const MEASURED: Duration = Duration::from_secs(5);
/// Time for which a circuit breaker stays open at least.
const OPEN_FOR: Duration = Duration::from_secs(1);
/// Pause between two queries.
const PAUSE: Duration = Duration::from_millis(5);
const HOME: &str = "203.0.113.7";
const REGISTER: &str = "mutation($input: RegisterInput!) { register(input: $input) { accessToken } }";

/// A client at an address.
struct Client<'a> {
    app: &'a App,
    http: reqwest::Client,
    address: &'a str,
}

impl<'a> Client<'a> {
    fn at(app: &'a App, address: &'a str) -> Self {
        Self { app, http: reqwest::Client::new(), address }
    }
}

/// Sends a mutation with a login and a password. Returns the code of the error, or `none`,
/// and the time to wait.
async fn send(client: &Client<'_>, document: &str, login: &str, password: &str) -> (String, u64) {
    let body = json!({"query": document, "variables": {"input": {"login": login, "password": password}}});
    let request = client.http.post(format!("{}/graphql", client.app.url));
    let answer = request.header("x-forwarded-for", client.address).json(&body).send().await.unwrap();
    let answer: Value = answer.json().await.unwrap();
    let extensions = &answer["errors"][0]["extensions"];
    let code = extensions["code"].as_str().unwrap_or("none").to_owned();
    (code, extensions["retryAfterMs"].as_u64().unwrap_or_default())
}

async fn log_in(app: &App, from: &str, password: &str) -> String {
    send(&Client::at(app, from), LOGIN, "ann", password).await.0
}

/// Latencies of queries that were sent one after the other.
struct Latencies {
    p90: Duration,
    p99: Duration,
    /// Queries that had an error.
    failed: u32,
}

/// Sends queries for a time, from a thread that the clients of a flood do not share.
async fn latencies(caller: &Caller) -> Latencies {
    let caller = Caller { http: reqwest::Client::new(), ..caller.clone() };
    let measure = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(send_queries(&caller))
    };
    tokio::task::spawn_blocking(measure).await.unwrap()
}

async fn send_queries(caller: &Caller) -> Latencies {
    let started = Instant::now();
    let mut taken = Vec::new();
    let mut failed = 0;
    while started.elapsed() < MEASURED {
        let sent = Instant::now();
        let answer = caller.execute("{ me { login } }", json!({})).await;
        taken.push(sent.elapsed());
        failed += u32::from(answer.get("errors").is_some());
        tokio::time::sleep(PAUSE).await;
    }
    taken.sort_unstable();
    Latencies { p90: taken[taken.len() * 9 / 10], p99: taken[taken.len() * 99 / 100], failed }
}

/// One client of the flood: wrong passwords for its own login from its own address until `stop`, waiting
/// as long as answers ask. Returns how often each code was answered.
async fn flood(app: &App, number: u32, stop: CancellationToken) -> BTreeMap<String, u32> {
    let from = format!("198.18.{}.{}", number / 250, number % 250);
    let client = Client::at(app, &from);
    let login = format!("flood{number}");
    let mut codes = BTreeMap::new();
    while !stop.is_cancelled() {
        let (code, wait_ms) = send(&client, LOGIN, &login, "wrong horse").await;
        *codes.entry(code.clone()).or_default() += 1;
        if code != "UNAUTHENTICATED" {
            let pause = tokio::time::sleep(Duration::from_millis(wait_ms.max(100)));
            stop.run_until_cancelled(pause).await;
        }
    }
    codes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_logins_opens_no_breaker_and_leaves_queries_their_latency() {
    let settings = [("RATE_LIMIT_SIGN_IN", "30/m,10/m"), ("TRUSTED_PROXIES", "127.0.0.0/8, ::1")];
    let app = std::sync::Arc::new(App::start_with(&settings).await);
    let bob = Caller::register(&app, "bob").await;
    assert_eq!(send(&Client::at(&app, HOME), REGISTER, "ann", PASSWORD).await.0, "none");
    let alone = latencies(&bob).await;

    let stop = CancellationToken::new();
    let mut clients = JoinSet::new();
    for number in 0..FLOOD {
        let app = app.clone();
        let stop = stop.clone();
        clients.spawn(async move { flood(&app, number, stop).await });
    }
    testkit::eventually("passwords are refused or hashed", || async {
        app.metric("auth_password_work_total").await > 20.0
    })
    .await;
    let breakers = {
        let app = app.clone();
        let stop = stop.clone();
        tokio::spawn(async move {
            let mut opened = 0.0_f64;
            while !stop.is_cancelled() {
                opened = opened.max(app.metric("upstream_breaker_state").await);
                stop.run_until_cancelled(tokio::time::sleep(OPEN_FOR / 2)).await;
            }
            opened
        })
    };
    let owner = {
        let app = app.clone();
        tokio::spawn(async move { log_in(&app, HOME, PASSWORD).await })
    };
    let flooded = latencies(&bob).await;
    stop.cancel();
    let mut codes: BTreeMap<String, u32> = BTreeMap::new();
    while let Some(answered) = clients.join_next().await {
        for (code, count) in answered.unwrap() {
            *codes.entry(code).or_default() += count;
        }
    }
    println!(
        "{FLOOD} logins in flight: queries p90 {:.1?} -> {:.1?}, p99 {:.1?} -> {:.1?}, ratio {:.2}, \
         {} failed; answers to logins {codes:?}",
        alone.p90,
        flooded.p90,
        alone.p99,
        flooded.p99,
        flooded.p99.as_secs_f64() / alone.p99.as_secs_f64(),
        flooded.failed
    );
    assert_eq!(breakers.await.unwrap(), 0.0, "no breaker opened");
    assert_eq!(owner.await.unwrap(), "none", "a known address gets in during the flood");
    let allowed = ["RATE_LIMITED", "UNAUTHENTICATED"];
    assert!(codes.keys().all(|code| allowed.contains(&code.as_str())), "{codes:?}");
    assert_eq!((alone.failed, flooded.failed), (0, 0), "queries failed");
}

#[tokio::test]
async fn an_attacker_is_limited_and_the_owner_gets_in_from_a_known_address() {
    let settings = [("RATE_LIMIT_SIGN_IN", "0,5/h"), ("TRUSTED_PROXIES", "127.0.0.0/8, ::1")];
    let app = App::start_with(&settings).await;
    let away = "2001:db8:1:2::1";
    assert_eq!(send(&Client::at(&app, HOME), REGISTER, "ann", PASSWORD).await.0, "none");
    assert_eq!(log_in(&app, away, PASSWORD).await, "none");
    for number in 0..5 {
        let from = format!("198.51.100.{number}");
        assert_eq!(log_in(&app, &from, "wrong horse").await, "UNAUTHENTICATED", "{number}");
    }
    for (from, password) in [("198.51.100.6", "wrong horse"), ("198.51.100.7", PASSWORD)] {
        let (code, wait_ms) = send(&Client::at(&app, from), LOGIN, "ann", password).await;
        assert_eq!(code, "RATE_LIMITED", "from {from}, which is unknown");
        assert!((1..=720_000).contains(&wait_ms), "five an hour are one in twelve minutes: {wait_ms}");
    }
    for from in [HOME, away, "2001:db8:1:2:ffff::"] {
        for _ in 0..6 {
            assert_eq!(log_in(&app, from, PASSWORD).await, "none", "the owner at {from}");
        }
    }
    // Somebody behind the owner's address guesses: that address is limited, the owner's others are not.
    for number in 0..5 {
        assert_eq!(log_in(&app, HOME, "wrong horse").await, "UNAUTHENTICATED", "{number}");
    }
    assert_eq!(log_in(&app, HOME, "wrong horse").await, "RATE_LIMITED");
    assert_eq!(log_in(&app, away, PASSWORD).await, "none");
    let (stranger, _) = send(&Client::at(&app, "198.51.100.9"), LOGIN, "stranger", PASSWORD).await;
    assert_eq!(stranger, "UNAUTHENTICATED", "other logins are not limited");
}
