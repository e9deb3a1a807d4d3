//! Refresh tokens: rotation, repetition after a lost response, and reuse detection.

use std::time::Duration;

use prost::Message;
use proto::{
    auth::{EndedSession, LogoutRequest, RefreshRefused, RenameRequest, Session},
    events::{SessionRevoked, event::Kind},
};
use tonic::Code;

use crate::app::{HOUR, PASSWORD, Service, code, error_of, user_id};

/// Returns the event that revokes a session, whose newest tokens these are.
fn revoked(session: &Session) -> Kind {
    Kind::SessionRevoked(SessionRevoked {
        user_id: user_id(session),
        session_ids: vec![session.session_id.clone()],
        expires_at_us: session.expires_at_us,
    })
}

#[tokio::test]
async fn each_refresh_returns_a_new_pair_of_the_same_session() {
    for mut service in Service::on_each_database().await {
        let first = service.register("ann").await;
        service.events(2).await;
        let mut seen = vec![first.refresh_token.clone()];
        for _ in 0..5 {
            let next = service.refresh(&seen[seen.len() - 1]).await.unwrap();
            assert_eq!((&next.user, &next.session_id), (&first.user, &first.session_id), "{}", service.name);
            assert!(next.expires_at_us >= first.expires_at_us);
            assert_ne!(next.access_token, first.access_token);
            assert!(!seen.contains(&next.refresh_token));
            seen.push(next.refresh_token.clone());
            let rename =
                service.with_token(&next.access_token).rename(RenameRequest { name: "ann".to_owned() }).await;
            assert_eq!(rename.unwrap().into_inner().name, "ann");
        }
        let kinds = service.events(5).await;
        assert!(kinds.iter().all(|kind| kind.name() == "UserRenamed"), "a refresh appends no event");
    }
}

#[tokio::test]
async fn a_refresh_can_be_repeated_after_a_lost_response() {
    for mut service in Service::on_each_database().await {
        let first = service.register("ann").await;
        let lost = service.refresh(&first.refresh_token).await.unwrap();
        for _ in 0..3 {
            let again = service.refresh(&first.refresh_token).await.unwrap();
            assert_eq!(again.refresh_token, lost.refresh_token, "{}", service.name);
            assert_eq!(again.session_id, first.session_id);
        }
        service.refresh(&lost.refresh_token).await.unwrap();
        service.events(2).await;
    }
}

#[tokio::test]
async fn reuse_of_an_old_token_ends_the_session() {
    for mut service in Service::on_each_database().await {
        let first = service.register("ann").await;
        let other = service.login("ann", PASSWORD).await.unwrap();
        service.events(3).await;
        let second = service.refresh(&first.refresh_token).await.unwrap();
        let third = service.refresh(&second.refresh_token).await.unwrap();
        let expected = (Code::Unauthenticated, "the refresh token is not valid: sign in again".to_owned());
        let refused = service.refresh(&first.refresh_token).await.unwrap_err();
        let details = RefreshRefused::decode(refused.details()).unwrap();
        let ended = EndedSession { session_id: first.session_id.clone(), expires_at_us: third.expires_at_us };
        assert_eq!(details, RefreshRefused { ended: vec![ended] }, "{}", service.name);
        assert_eq!(error_of::<()>(Err(refused)), expected, "{}", service.name);
        assert_eq!(service.events(1).await, [revoked(&third)]);
        for token in [&first, &second, &third].map(|session| &session.refresh_token) {
            assert_eq!(error_of(service.refresh(token).await), expected);
        }
        let rename =
            service.with_token(&third.access_token).rename(RenameRequest { name: "Ann".to_owned() }).await;
        assert_eq!(code(rename), Code::Unauthenticated, "its access tokens are refused");
        let logout =
            service.with_token(&other.access_token).logout(LogoutRequest { everywhere: false }).await;
        logout.unwrap();
        assert_eq!(service.events(1).await, [revoked(&other)], "one session ended, the other stayed open");
    }
}

#[tokio::test]
async fn concurrent_refreshes_all_succeed() {
    for mut service in Service::on_each_database().await {
        let first = service.register("ann").await;
        let mut token = first.refresh_token;
        for _ in 0..10 {
            let one = || service.refresh(&token);
            let results = tokio::join!(one(), one(), one(), one(), one(), one());
            let results = [results.0, results.1, results.2, results.3, results.4, results.5];
            let next: Vec<String> = results.into_iter().map(|result| result.unwrap().refresh_token).collect();
            assert!(next.iter().all(|token| *token == next[0]), "{}: all get the same token", service.name);
            assert_ne!(next[0], token);
            token.clone_from(&next[0]);
        }
        service.events(2).await;
    }
}

#[tokio::test]
async fn a_refresh_concurrent_with_a_log_out_leaves_no_open_session() {
    for mut service in Service::on_each_database().await {
        for number in 0..10 {
            let session = service.register(&format!("ann{number}")).await;
            let mut client = service.with_token(&session.access_token);
            let everywhere = number % 2 == 0;
            let logout = client.logout(LogoutRequest { everywhere });
            let (refreshed, ended) = tokio::join!(service.refresh(&session.refresh_token), logout);
            ended.unwrap();
            let newest = refreshed.unwrap_or(session);
            let again = service.refresh(&newest.refresh_token).await;
            assert_eq!(code(again), Code::Unauthenticated, "{}", service.name);
            assert_eq!(service.events(3).await[2], revoked(&newest), "no later expiry is possible");
        }
    }
}

#[tokio::test]
async fn expired_unknown_and_malformed_tokens_are_refused() {
    for mut service in Service::on_each_database_with(Duration::ZERO).await {
        let expired = service.register("ann").await;
        assert_eq!(
            code(service.refresh(&expired.refresh_token).await),
            Code::Unauthenticated,
            "{}",
            service.name
        );
        service.restart(HOUR);
        assert_eq!(code(service.refresh(&expired.refresh_token).await), Code::Unauthenticated);
        let session = service.login("ann", PASSWORD).await.unwrap();
        let token = &session.refresh_token;
        let flipped: String = token.chars().rev().collect();
        let unknown = "A".repeat(43);
        for invalid in ["", "nonsense", "a\0b", &token[1..], &flipped, &unknown, &session.access_token] {
            assert_eq!(code(service.refresh(invalid).await), Code::Unauthenticated, "{invalid:?}");
        }
        service.refresh(token).await.unwrap();
        service.events(3).await;
    }
}
