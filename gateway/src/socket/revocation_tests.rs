//! Sockets of sessions that end while the log carries nothing: by an answer of auth, and by what auth names
//! when it is asked.

use std::{convert::Infallible, sync::Arc, time::Duration};

use access::{Claims, Guard, KeySet, ServiceToken, SigningKeys};
use proto::{SessionId, UserId};
use serde_json::json;
use tokio::time::Instant;

use crate::{
    client::{caller::Authenticator, revoked_sessions::RevokedSessions},
    error::Code,
    testing::{FakeServices, RunningGateway},
};

/// Longest time until a session that auth names is rejected.
const REVOKED_WITHIN: Duration = Duration::from_secs(2);

#[tokio::test]
async fn a_log_out_is_answered_on_its_socket_and_then_closes_the_sockets_of_its_session() {
    let session = SessionId::now();
    let services = FakeServices { ending: vec![session], ..FakeServices::default() };
    let gateway = RunningGateway::start_with(services).await;
    let user = UserId::now();
    let token = gateway.token(user, session, 300);
    let mut own = gateway.sign_in_with(&token).await;
    let mut same_session = gateway.sign_in_with(&token).await;
    let mut other = gateway.sign_in(user).await;
    own.subscribe("u", "subscription { unread { total } }", json!({})).await;
    own.result("u").await;
    own.subscribe("1", "mutation { logout }", json!({})).await;
    assert_eq!(own.result("1").await["data"]["logout"], true);
    assert_eq!(own.receive().await, json!({ "id": "1", "type": "complete" }));
    assert_eq!(own.closed().await.0, 4401);
    assert_eq!(same_session.closed().await.0, 4401);
    let mut late = gateway.connect().await;
    late.send(json!({ "type": "connection_init", "payload": { "authToken": token } })).await;
    assert_eq!(late.closed().await.0, 4403);
    other.is_quiet().await;
}

#[tokio::test]
async fn a_reused_refresh_token_closes_the_sockets_of_the_session_that_it_ended() {
    let session = SessionId::now();
    let services = FakeServices { ending: vec![session], ..FakeServices::default() };
    let gateway = RunningGateway::start_with(services).await;
    let mut victim = gateway.sign_in_with(&gateway.token(UserId::now(), session, 300)).await;
    let mut thief = gateway.connect().await;
    thief.send(json!({ "type": "connection_init" })).await;
    thief.receive().await;
    let refresh = "mutation { refreshSession(refreshToken: \"old\") { accessToken } }";
    thief.subscribe("1", refresh, json!({})).await;
    let refused = thief.result("1").await;
    assert_eq!(refused["errors"][0]["extensions"]["code"], "UNAUTHENTICATED", "{refused}");
    assert_eq!(victim.closed().await.0, 4401);
}

#[tokio::test]
async fn a_session_that_only_auth_names_is_closed_within_two_seconds() {
    let gateway = RunningGateway::start().await;
    let mut longest = Duration::ZERO;
    for _ in 0..5 {
        let session = SessionId::now();
        let mut client = gateway.sign_in_with(&gateway.token(UserId::now(), session, 300)).await;
        let ended_at = Instant::now();
        gateway.services().revoked.push(session);
        assert_eq!(client.closed().await.0, 4401);
        longest = longest.max(ended_at.elapsed());
    }
    assert!(longest < REVOKED_WITHIN, "{longest:?}");
}

#[tokio::test]
async fn no_token_is_accepted_before_auth_has_named_the_ended_sessions() {
    let keys = SigningKeys::generate();
    let jwks = keys.jwks();
    let set = KeySet::new(move || std::future::ready(Ok::<_, Infallible>(jwks.clone())));
    let guard = Guard::new(set, ServiceToken::generate(), "tidings");
    let revoked = RevokedSessions::default();
    let authenticator = Arc::new(Authenticator::new(guard, revoked.clone()));
    let now_s = crate::client::caller::now_s();
    let claims = Claims::new("tidings", UserId::now().uuid(), SessionId::now().uuid(), now_s, 300);
    let token = keys.sign(&claims);
    let early = authenticator.token(&token).await.expect_err("not complete");
    assert_eq!(early.code(), Code::Unavailable);
    let invalid = authenticator.token("nonsense").await.expect_err("not a token");
    assert_eq!(invalid.code(), Code::Unauthenticated);
    revoked.set_complete();
    assert!(authenticator.token(&token).await.is_ok());
}
