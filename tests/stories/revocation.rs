//! Ended sessions: the gateway that answers refuses their tokens before it answers, every other gateway
//! within two seconds, with the event log and without it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{
    app::App,
    caller::{Caller, PASSWORD},
    endpoint::Endpoint,
    socket_client::SocketClient,
    stack::{Stack, control_engine},
};

const ROUNDS: usize = 20;
/// Maximum time from the answer of the call that ends a session to its refusal by every gateway.
const REFUSED_WITHIN: Duration = Duration::from_secs(2);
/// Time after which a test no longer waits for a refusal.
const PATIENCE: Duration = Duration::from_secs(10);

/// Kafka that does not answer, and sends no error either, until it is dropped.
struct PausedKafka;

impl PausedKafka {
    async fn pause() -> Self {
        control_engine("pause", "kafka").await;
        Self
    }
}

impl Drop for PausedKafka {
    fn drop(&mut self) {
        // Also when a test fails: other tests use the same Kafka.
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/engines/one.sh");
        drop(std::process::Command::new(script).args(["resume", "kafka"]).status());
    }
}

/// Observation of a token after its session has ended.
struct Refusal {
    /// Requests that the gateway accepted.
    accepted: usize,
    /// Time from the start of the observation to the first refusal.
    after: Duration,
}

/// Sends requests with the caller's token until one is refused.
async fn until_refused(caller: &Caller) -> Refusal {
    let started = Instant::now();
    let mut accepted = 0;
    while started.elapsed() < PATIENCE {
        let answer = caller.execute("{ __typename }", json!({})).await;
        if answer["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED" {
            return Refusal { accepted, after: started.elapsed() };
        }
        assert_eq!(answer["data"]["__typename"], "Query", "{answer}");
        accepted += 1;
        sleep(Duration::from_millis(5)).await;
    }
    Refusal { accepted, after: started.elapsed() }
}

/// Ways in which a call ends sessions.
#[derive(Debug, Clone, Copy)]
enum Ending {
    Logout,
    LogoutEverywhere,
    ChangePassword,
    ReuseOfARefreshToken,
}

const ENDINGS: [Ending; 4] =
    [Ending::Logout, Ending::LogoutEverywhere, Ending::ChangePassword, Ending::ReuseOfARefreshToken];

impl Ending {
    /// Ends the caller's session at the caller's gateway.
    async fn run(self, caller: &Caller) {
        match self {
            Self::Logout => {
                let data = caller.data("mutation { logout }", json!({})).await;
                assert_eq!(data["logout"], true);
            }
            Self::LogoutEverywhere => {
                let data = caller.data("mutation { logout(everywhere: true) }", json!({})).await;
                assert_eq!(data["logout"], true);
            }
            Self::ChangePassword => {
                let change = "mutation($o: String!, $n: String!) {
                    changePassword(old: $o, new: $n) { accessToken refreshToken user { id } } }";
                let data = caller.data(change, json!({"o": PASSWORD, "n": "battery staple"})).await;
                let token = data["changePassword"]["accessToken"].as_str().unwrap().to_owned();
                let fresh = Caller { token, ..caller.clone() };
                assert_eq!(fresh.data("{ me { id } }", json!({})).await["me"]["id"], caller.id.as_str());
            }
            Self::ReuseOfARefreshToken => {
                let second = refresh(caller, &caller.refresh_token).await;
                let second = second["data"]["refreshSession"]["refreshToken"].as_str().unwrap().to_owned();
                refresh(caller, &second).await;
                let reused = refresh(caller, &caller.refresh_token).await;
                assert_eq!(reused["errors"][0]["extensions"]["code"], "UNAUTHENTICATED", "{reused}");
            }
        }
    }
}

async fn refresh(caller: &Caller, token: &str) -> Value {
    let document = "mutation($t: String!) { refreshSession(refreshToken: $t) { accessToken refreshToken } }";
    // Anonymous, as a client does whose access token has expired.
    let body = json!({"query": document, "variables": {"t": token}});
    let request = caller.http.post(format!("{}/graphql", caller.url)).json(&body);
    request.send().await.unwrap().json().await.unwrap()
}

/// Ends sessions at a gateway, and asserts that it refuses the very next request.
async fn the_next_request_is_refused(endpoint: &Endpoint, log: &str) {
    for ending in ENDINGS {
        let mut accepted = 0;
        let mut longest = Duration::ZERO;
        for round in 0..ROUNDS {
            let login = format!("{}{round:02}", &format!("{ending:?}").to_lowercase()[..6]);
            let login = if matches!(ending, Ending::LogoutEverywhere) { format!("e{login}") } else { login };
            let caller = Caller::register(endpoint, &login).await;
            ending.run(&caller).await;
            let refusal = until_refused(&caller).await;
            accepted += refusal.accepted;
            longest = longest.max(refusal.after);
        }
        println!(
            "{ending:?}, {log}, {ROUNDS} rounds at the answering gateway: {accepted} requests accepted \
             afterwards, refused after {longest:?} at most (a refusal is one request)"
        );
        assert_eq!(accepted, 0, "{ending:?}, {log}");
    }
}

#[tokio::test]
async fn the_request_after_the_end_of_a_session_is_refused() {
    let app = App::start().await;
    the_next_request_is_refused(&app, "one process").await;
}

#[tokio::test]
async fn a_socket_receives_the_answer_of_its_own_log_out_and_is_closed() {
    let app = App::start().await;
    for round in 0..ROUNDS {
        let caller = Caller::register(&app, &format!("ann{round:02}")).await;
        let mut other = SocketClient::connect(&caller).await;
        let mut socket = SocketClient::connect(&caller).await;
        socket.subscribe("out", "mutation { logout }", json!({})).await;
        let answer = socket.receive().await;
        assert_eq!(answer["payload"]["data"]["logout"], true, "{answer}");
        assert_eq!(socket.wait_for_close().await.0, 4401);
        assert_eq!(other.wait_for_close().await.0, 4401);
    }
}

#[tokio::test]
async fn sessions_end_on_every_gateway_while_kafka_does_not_answer() {
    let Some(stack) = Stack::start(&[]).await else { return };
    let second_gateway = stack.second_gateway();
    let mut callers = Vec::new();
    for round in 0..ROUNDS {
        callers.push(Caller::register(&stack, &format!("p{round:02}")).await);
    }
    let paused = PausedKafka::pause().await;
    let mut elsewhere = Vec::new();
    let mut sockets = Vec::new();
    let mut here = Duration::ZERO;
    for caller in &callers {
        let there = caller.at(&second_gateway);
        let mut own = SocketClient::connect(caller).await;
        let mut phone = SocketClient::connect(&there).await;
        Ending::Logout.run(caller).await;
        let answered = Instant::now();
        let (own_refusal, refusal, closed) =
            tokio::join!(until_refused(caller), until_refused(&there), async {
                assert_eq!(own.wait_for_close().await.0, 4401);
                let own_closed = answered.elapsed();
                assert_eq!(phone.wait_for_close().await.0, 4401);
                (own_closed, answered.elapsed())
            });
        assert_eq!(own_refusal.accepted, 0, "the answering gateway refuses the next request");
        here = here.max(closed.0);
        elsewhere.push(refusal.after);
        sockets.push(closed.1);
    }
    elsewhere.sort_unstable();
    sockets.sort_unstable();
    let max = |times: &[Duration]| *times.last().unwrap();
    println!(
        "Kafka paused, {ROUNDS} log-outs: 0 requests accepted by the answering gateway, its sockets closed \
         after {here:?}; the other gateway refused within {:?} (median {:?}), sockets within {:?}",
        max(&elsewhere),
        elsewhere[ROUNDS / 2],
        max(&sockets),
    );
    the_next_request_is_refused(&stack, "Kafka paused").await;
    drop(paused);
    assert!(max(&elsewhere) < REFUSED_WITHIN && max(&sockets) < REFUSED_WITHIN);
}

#[tokio::test]
async fn a_gateway_that_starts_without_kafka_knows_the_ended_sessions() {
    let Some(mut stack) = Stack::start(&[]).await else { return };
    let second_gateway = stack.second_gateway();
    let ended = Caller::register(&stack, "ann").await;
    let open = Caller::login(&stack, "ann").await;
    let paused = PausedKafka::pause().await;
    Ending::Logout.run(&ended).await;
    stack.kill("gateway2").await;
    stack.start_role("gateway2");
    let there = ended.at(&second_gateway);
    let first = loop {
        match there.try_execute("{ __typename }", json!({})).await {
            Some(answer) => break answer,
            None => sleep(Duration::from_millis(5)).await,
        }
    };
    let code = first["errors"][0]["extensions"]["code"].as_str();
    assert!(matches!(code, Some("UNAVAILABLE" | "UNAUTHENTICATED")), "never accepted: {first}");
    testkit::eventually("the gateway knows that the session has ended", || async {
        there.execute("{ __typename }", json!({})).await["errors"][0]["extensions"]["code"]
            == "UNAUTHENTICATED"
    })
    .await;
    let answer = open.at(&second_gateway).data("{ __typename }", json!({})).await;
    assert_eq!(answer["__typename"], "Query", "queries are served without the log");
    drop(paused);
    stack.wait_until_ready().await;
}

#[tokio::test]
async fn while_auth_is_unavailable_issued_tokens_work_and_the_age_of_its_answers_is_reported() {
    let Some(mut stack) = Stack::start(&[]).await else { return };
    let caller = Caller::register(&stack, "ann").await;
    // The gateway has the public keys from now on.
    caller.at(&stack.second_gateway()).data("{ __typename }", json!({})).await;
    let age = async || stack.metric("gateway2", "gateway_revocation_age_seconds").await.unwrap();
    assert!(age().await < 2.0);
    stack.kill("auth").await;
    let age = async || stack.metric("gateway2", "gateway_revocation_age_seconds").await.unwrap();
    testkit::eventually("the age grows", || async { age().await > 3.0 }).await;
    let answer = caller.at(&stack.second_gateway()).data("{ __typename }", json!({})).await;
    assert_eq!(answer["__typename"], "Query");
    stack.start_role("auth");
    stack.wait_until_ready().await;
    let age = async || stack.metric("gateway2", "gateway_revocation_age_seconds").await.unwrap();
    testkit::eventually("auth answers again", || async { age().await < 2.0 }).await;
    Ending::Logout.run(&caller).await;
    assert_eq!(until_refused(&caller).await.accepted, 0);
}

/// Time after which a gateway forgot a session that lived longer at auth: its own lifetime of tokens and two
/// minutes.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(122);

#[tokio::test]
#[ignore = "takes two minutes"]
async fn a_gateway_with_a_shorter_lifetime_of_tokens_does_not_forget_a_session() {
    let Some(mut stack) = Stack::start(&[("ACCESS_TOKEN_TTL", "1h")]).await else { return };
    stack.set("gateway2", "ACCESS_TOKEN_TTL", "1s");
    stack.kill("gateway2").await;
    stack.start_role("gateway2");
    stack.wait_until_ready().await;
    let second_gateway = stack.second_gateway();
    let caller = Caller::register(&stack, "ann").await.at(&second_gateway);
    let later = Caller::register(&stack, "bob").await.at(&second_gateway);
    Ending::Logout.run(&caller).await;
    until_refused(&caller).await;
    sleep(FORGOTTEN_AFTER).await;
    Ending::Logout.run(&later).await;
    until_refused(&later).await;
    let answer = caller.execute("{ __typename }", json!({})).await;
    println!("the token of a session that ended {FORGOTTEN_AFTER:?} ago: {answer}");
    assert_eq!(answer["errors"][0]["extensions"]["code"], "UNAUTHENTICATED", "{answer}");
}
