//! End of sessions: log-out and change of password.

use proto::{
    auth::{ChangePasswordRequest, LogoutRequest, RenameRequest, RevokedRequest, Session},
    events::{SessionRevoked, event::Kind},
};
use tonic::Code;

use crate::app::{PASSWORD, Service, code, error_of, user_id};

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
    let Kind::SessionRevoked(SessionRevoked { user_id: user, session_ids }) = kind else {
        panic!("{kind:?}")
    };
    assert_eq!(*user, user_id(owner));
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

async fn revoked(service: &Service) -> Vec<Vec<u8>> {
    let mut ids = service.as_service().revoked(RevokedRequest {}).await.unwrap().into_inner().session_ids;
    ids.sort();
    ids
}

#[tokio::test]
async fn a_log_out_ends_only_its_own_session() {
    for mut service in Service::on_each_database().await {
        let here = service.register("ann").await;
        let there = service.login("ann", PASSWORD).await.unwrap();
        service.events(3).await;
        service.with_token(&here.access_token).logout(LogoutRequest { everywhere: false }).await.unwrap();
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
        service.with_token(&here.access_token).logout(LogoutRequest { everywhere: true }).await.unwrap();
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
        assert_eq!(
            code(service.anonymous().revoked(RevokedRequest {}).await),
            Code::Unauthenticated,
            "{}",
            service.name
        );
        assert_eq!(
            code(service.with_token("nonsense").revoked(RevokedRequest {}).await),
            Code::Unauthenticated
        );
        let as_user = service.with_token(&here.access_token).revoked(RevokedRequest {}).await;
        assert_eq!(code(as_user), Code::PermissionDenied);
        assert_eq!(revoked(&service).await, ids(&[]));
    }
}
