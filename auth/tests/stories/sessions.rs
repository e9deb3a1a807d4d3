//! End of sessions: log-out and change of password.

use std::time::Duration;

use proto::{
    auth::{
        ChangePasswordRequest, EndedSession, LogoutRequest, RenameRequest, RevokedPosition,
        RevokedSinceRequest, Session,
    },
    events::{SessionRevoked, event::Kind},
};
use tonic::Code;

use crate::app::{HOUR, PASSWORD, Service, code, error_of, user_id};

const NEW: &str = "battery staple";

fn change(old: &str, new: &str) -> ChangePasswordRequest {
    ChangePasswordRequest { old: old.to_owned(), new: new.to_owned() }
}

fn ids(sessions: &[&Session]) -> Vec<Vec<u8>> {
    let mut ids: Vec<_> = sessions.iter().map(|session| session.session_id.clone()).collect();
    ids.sort();
    ids
}

/// Returns the ids of the sessions that an event revokes, sorted. Panics if they are another user's.
fn revoked_by(kind: &Kind, owner: &Session) -> Vec<Vec<u8>> {
    let Kind::SessionRevoked(SessionRevoked { user_id: user, session_ids, expires_at_us }) = kind else {
        panic!("{kind:?}")
    };
    assert_eq!(*user, user_id(owner));
    assert!(*expires_at_us >= owner.expires_at_us, "no access token expires later");
    let mut ids = session_ids.clone();
    ids.sort();
    ids
}

/// Asserts that every call with the tokens of an ended session is refused.
async fn assert_ended(service: &Service, session: &Session) {
    let mut client = service.with_token(&session.access_token);
    let expected = (Code::Unauthenticated, "this session has ended: sign in again".to_owned());
    let rename = client.rename(RenameRequest { name: "x".to_owned() }).await;
    assert_eq!(error_of(rename), expected, "{}", service.name);
    for everywhere in [false, true] {
        assert_eq!(error_of(client.logout(LogoutRequest { everywhere }).await), expected);
    }
    assert_eq!(error_of(client.change_password(change(PASSWORD, NEW)).await), expected);
    assert_eq!(error_of(client.change_password(change(NEW, PASSWORD)).await), expected);
    assert_eq!(code(service.refresh(&session.refresh_token).await), Code::Unauthenticated);
}

/// Asserts that a session is open: its access and refresh tokens are accepted.
async fn assert_open(service: &mut Service, session: &Session) {
    service.with_token(&session.access_token).rename(RenameRequest { name: "Ann".to_owned() }).await.unwrap();
    service.refresh(&session.refresh_token).await.unwrap();
    assert_eq!(service.events(1).await[0].name(), "UserRenamed");
}

/// Returns the ids of ended sessions, sorted. Panics if one of them has an access token that expires later
/// than stated.
fn ended_ids(ended: &[EndedSession], sessions: &[&Session]) -> Vec<Vec<u8>> {
    for session in sessions {
        let stated = ended.iter().find(|ended| ended.session_id == session.session_id);
        assert!(stated.is_none_or(|stated| stated.expires_at_us >= session.expires_at_us), "{ended:?}");
    }
    let mut ids: Vec<_> = ended.iter().map(|ended| ended.session_id.clone()).collect();
    ids.sort();
    ids
}

async fn revoked(service: &Service) -> Vec<Vec<u8>> {
    let reply = service.as_service().revoked_since(RevokedSinceRequest::default()).await.unwrap();
    let reply = reply.into_inner();
    assert!(reply.more.is_none());
    ended_ids(&reply.sessions, &[])
}

#[tokio::test]
async fn a_log_out_ends_only_its_own_session() {
    for mut service in Service::on_each_database().await {
        let here = service.register("ann").await;
        let there = service.login("ann", PASSWORD).await.unwrap();
        service.events(3).await;
        let mut client = service.with_token(&here.access_token);
        let reply = client.logout(LogoutRequest { everywhere: false }).await.unwrap().into_inner();
        assert_eq!(ended_ids(&reply.ended, &[&here]), ids(&[&here]), "{}", service.name);
        assert_eq!(revoked_by(&service.events(1).await[0], &here), ids(&[&here]), "{}", service.name);
        assert_ended(&service, &here).await;
        assert_open(&mut service, &there).await;
        assert_eq!(revoked(&service).await, ids(&[&here]));
    }
}

#[tokio::test]
async fn a_log_out_everywhere_ends_all_sessions_of_the_caller_only() {
    for mut service in Service::on_each_database().await {
        let here = service.register("ann").await;
        let there = service.login("ann", PASSWORD).await.unwrap();
        let before = service.login("ann", PASSWORD).await.unwrap();
        let bob = service.register("bob").await;
        service.events(6).await;
        service.with_token(&before.access_token).logout(LogoutRequest { everywhere: false }).await.unwrap();
        service.events(1).await;
        let mut client = service.with_token(&here.access_token);
        let reply = client.logout(LogoutRequest { everywhere: true }).await.unwrap().into_inner();
        let both = [&here, &there];
        assert_eq!(
            ended_ids(&reply.ended, &both),
            ids(&both),
            "{}: not those that ended before",
            service.name
        );
        assert_eq!(revoked_by(&service.events(1).await[0], &here), ids(&[&here, &there]), "{}", service.name);
        assert_ended(&service, &here).await;
        assert_ended(&service, &there).await;
        assert_open(&mut service, &bob).await;
        assert_eq!(revoked(&service).await, ids(&[&before, &here, &there]));
    }
}

#[tokio::test]
async fn a_change_of_password_ends_every_session_and_opens_a_new_one() {
    for mut service in Service::on_each_database().await {
        let here = service.register("ann").await;
        let there = service.login("ann", PASSWORD).await.unwrap();
        let bob = service.register("bob").await;
        service.events(5).await;
        let mut client = service.with_token(&here.access_token);
        let fresh = client.change_password(change(PASSWORD, NEW)).await.unwrap().into_inner();
        assert_eq!(fresh.user, here.user, "{}", service.name);
        assert_eq!(ended_ids(&fresh.ended, &[&here, &there]), ids(&[&here, &there]), "{}", service.name);
        let kinds = service.events(2).await;
        assert_eq!(revoked_by(&kinds[0], &here), ids(&[&here, &there]));
        assert_eq!(kinds[1].name(), "UserLoggedIn");
        assert_ended(&service, &here).await;
        assert_ended(&service, &there).await;
        assert_open(&mut service, &fresh).await;
        assert_open(&mut service, &bob).await;
        assert_eq!(code(service.login("ann", PASSWORD).await), Code::Unauthenticated);
        service.login("ann", NEW).await.unwrap();
        service.login("bob", PASSWORD).await.unwrap();
    }
}

#[tokio::test]
async fn a_wrong_old_password_or_a_bad_new_one_changes_nothing() {
    for mut service in Service::on_each_database().await {
        let here = service.register("ann").await;
        service.events(2).await;
        let mut client = service.with_token(&here.access_token);
        for wrong in ["wrong horse", "", "short", "correct horse\0", &"p".repeat(10_000)] {
            let expected = (Code::InvalidArgument, "the old password is wrong".to_owned());
            assert_eq!(error_of(client.change_password(change(wrong, NEW)).await), expected, "{wrong:?}");
        }
        for bad in ["", "1234567", "battery staple\0", &"p".repeat(257)] {
            let (code, message) = error_of(client.change_password(change(PASSWORD, bad)).await);
            assert_eq!(code, Code::InvalidArgument, "{bad:?}");
            assert!(message.contains("8 to 256"), "{message}");
        }
        assert_open(&mut service, &here).await;
        service.login("ann", PASSWORD).await.unwrap();
    }
}

/// A login with the old password that runs concurrently with the change is refused, or its session is
/// ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_session_opened_with_the_old_password_survives_its_change() {
    for service in Service::on_each_database().await {
        for number in 0..5 {
            let login = format!("ann{number}");
            let here = service.register(&login).await;
            let mut client = service.with_token(&here.access_token);
            let old = || service.login(&login, PASSWORD);
            let (a, changed, b, c, d) =
                tokio::join!(old(), client.change_password(change(PASSWORD, NEW)), old(), old(), old());
            let fresh = changed.unwrap().into_inner();
            for session in [a, b, c, d].into_iter().flatten() {
                assert_ended(&service, &session).await;
            }
            service.refresh(&fresh.refresh_token).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_concurrent_password_changes_one_wins() {
    for service in Service::on_each_database().await {
        let here = service.register("ann").await;
        let there = service.login("ann", PASSWORD).await.unwrap();
        let mut one = service.with_token(&here.access_token);
        let mut two = service.with_token(&there.access_token);
        let (one, two) = tokio::join!(
            one.change_password(change(PASSWORD, NEW)),
            two.change_password(change(PASSWORD, "paper clip"))
        );
        let (won, password, lost) = match (one, two) {
            (Ok(won), Err(lost)) => (won, NEW, lost),
            (Err(lost), Ok(won)) => (won, "paper clip", lost),
            other => panic!("{other:?}"),
        };
        assert_eq!(lost.code(), Code::Unauthenticated, "{}: its session has ended", service.name);
        service.refresh(&won.into_inner().refresh_token).await.unwrap();
        service.login("ann", password).await.unwrap();
    }
}

#[tokio::test]
async fn only_services_can_list_revoked_sessions() {
    for service in Service::on_each_database().await {
        let here = service.register("ann").await;
        let request = RevokedSinceRequest::default;
        let anonymous = service.anonymous().revoked_since(request()).await;
        assert_eq!(code(anonymous), Code::Unauthenticated, "{}", service.name);
        let unknown = service.with_token("nonsense").revoked_since(request()).await;
        assert_eq!(code(unknown), Code::Unauthenticated);
        let as_user = service.with_token(&here.access_token).revoked_since(request()).await;
        assert_eq!(code(as_user), Code::PermissionDenied);
        let after = Some(RevokedPosition { ended_at_us: 1, session_id: vec![1; 15] });
        let malformed = service.as_service().revoked_since(RevokedSinceRequest { since_us: 0, after }).await;
        assert_eq!(code(malformed), Code::InvalidArgument);
        assert_eq!(revoked(&service).await, ids(&[]));
    }
}

/// The lifetime that was set when a token was signed counts, not the one at the end of the session.
#[tokio::test]
async fn an_ended_session_states_the_latest_expiry_of_its_access_tokens() {
    for mut service in Service::on_each_database().await {
        let first = service.register("ann").await;
        let renewed = service.refresh(&first.refresh_token).await.unwrap();
        let again = service.refresh(&first.refresh_token).await.unwrap();
        service.restart_with(HOUR, Duration::from_secs(1));
        let short = service.refresh(&again.refresh_token).await.unwrap();
        assert!(short.expires_at_us < first.expires_at_us, "{}", service.name);
        let mut client = service.with_token(&short.access_token);
        let reply = client.logout(LogoutRequest { everywhere: false }).await.unwrap().into_inner();
        let latest = first.expires_at_us.max(renewed.expires_at_us).max(again.expires_at_us);
        let expected = [EndedSession { session_id: first.session_id.clone(), expires_at_us: latest }];
        assert_eq!(reply.ended, expected, "{}", service.name);
        let listed = service.as_service().revoked_since(RevokedSinceRequest::default()).await.unwrap();
        assert_eq!(listed.into_inner().sessions, expected, "{}: listed until then", service.name);
    }
}

#[tokio::test]
async fn a_login_names_the_oldest_session_that_it_ended() {
    for service in Service::on_each_database().await {
        let oldest = service.register("ann").await;
        for _ in 0..99 {
            assert_eq!(service.login("ann", PASSWORD).await.unwrap().ended, []);
        }
        let newest = service.login("ann", PASSWORD).await.unwrap();
        assert_eq!(ended_ids(&newest.ended, &[&oldest]), ids(&[&oldest]), "{}", service.name);
        assert_ended(&service, &oldest).await;
    }
}
