//! The ends of sessions: log-outs and changed passwords.

use proto::{
    auth::{ChangePasswordRequest, LogoutRequest, RenameRequest, RevokedRequest, Session},
    events::{SessionRevoked, event::Kind},
};
use tonic::Code;

use crate::app::{PASSWORD, Service, code, refusal, user_id};

const NEW: &str = "battery staple";

fn change(old: &str, new: &str) -> ChangePasswordRequest {
    ChangePasswordRequest { old: old.to_owned(), new: new.to_owned() }
}

fn ids(sessions: &[&Session]) -> Vec<Vec<u8>> {
    let mut ids: Vec<_> = sessions.iter().map(|session| session.session_id.clone()).collect();
    ids.sort();
    ids
}

/// The sessions that an event ends, sorted; they must be this person's.
fn ended(kind: &Kind, person: &Session) -> Vec<Vec<u8>> {
    let Kind::SessionRevoked(SessionRevoked { user_id: user, session_ids }) = kind else {
        panic!("{kind:?}")
    };
    assert_eq!(*user, user_id(person));
    let mut ids = session_ids.clone();
    ids.sort();
    ids
}

/// Asserts that nothing can be changed with a session any more.
async fn is_over(service: &Service, session: &Session) {
    let mut client = service.with(&session.access_token);
    let expected = (Code::Unauthenticated, "this session has ended: sign in again".to_owned());
    let rename = client.rename(RenameRequest { name: "x".to_owned() }).await;
    assert_eq!(refusal(rename), expected, "{}", service.name);
    for everywhere in [false, true] {
        assert_eq!(refusal(client.logout(LogoutRequest { everywhere }).await), expected);
    }
    assert_eq!(refusal(client.change_password(change(PASSWORD, NEW)).await), expected);
    assert_eq!(refusal(client.change_password(change(NEW, PASSWORD)).await), expected);
    assert_eq!(code(service.refresh(&session.refresh_token).await), Code::Unauthenticated);
}

/// Asserts that a session goes on.
async fn goes_on(service: &mut Service, session: &Session) {
    service.with(&session.access_token).rename(RenameRequest { name: "Ann".to_owned() }).await.unwrap();
    service.refresh(&session.refresh_token).await.unwrap();
    assert_eq!(service.happened(1).await[0].name(), "UserRenamed");
}

async fn revoked(service: &Service) -> Vec<Vec<u8>> {
    let mut ids = service.service().revoked(RevokedRequest {}).await.unwrap().into_inner().session_ids;
    ids.sort();
    ids
}

#[tokio::test]
async fn a_log_out_ends_this_session_and_no_other() {
    for mut service in Service::each().await {
        let (here, there) = (service.register("ann").await, service.login("ann", PASSWORD).await.unwrap());
        service.happened(3).await;
        service.with(&here.access_token).logout(LogoutRequest { everywhere: false }).await.unwrap();
        assert_eq!(ended(&service.happened(1).await[0], &here), ids(&[&here]), "{}", service.name);
        is_over(&service, &here).await;
        goes_on(&mut service, &there).await;
        assert_eq!(revoked(&service).await, ids(&[&here]));
    }
}

#[tokio::test]
async fn a_log_out_everywhere_ends_all_sessions_of_the_caller_and_nobody_elses() {
    for mut service in Service::each().await {
        let (here, there) = (service.register("ann").await, service.login("ann", PASSWORD).await.unwrap());
        let before = service.login("ann", PASSWORD).await.unwrap();
        let bob = service.register("bob").await;
        service.happened(6).await;
        service.with(&before.access_token).logout(LogoutRequest { everywhere: false }).await.unwrap();
        service.happened(1).await;
        service.with(&here.access_token).logout(LogoutRequest { everywhere: true }).await.unwrap();
        assert_eq!(ended(&service.happened(1).await[0], &here), ids(&[&here, &there]), "{}", service.name);
        is_over(&service, &here).await;
        is_over(&service, &there).await;
        goes_on(&mut service, &bob).await;
        assert_eq!(revoked(&service).await, ids(&[&before, &here, &there]));
    }
}

#[tokio::test]
async fn a_changed_password_ends_every_session_and_opens_a_new_one() {
    for mut service in Service::each().await {
        let (here, there) = (service.register("ann").await, service.login("ann", PASSWORD).await.unwrap());
        let bob = service.register("bob").await;
        service.happened(5).await;
        let mut client = service.with(&here.access_token);
        let fresh = client.change_password(change(PASSWORD, NEW)).await.unwrap().into_inner();
        assert_eq!(fresh.user, here.user, "{}", service.name);
        let kinds = service.happened(2).await;
        assert_eq!(ended(&kinds[0], &here), ids(&[&here, &there]));
        assert_eq!(kinds[1].name(), "UserLoggedIn");
        is_over(&service, &here).await;
        is_over(&service, &there).await;
        goes_on(&mut service, &fresh).await;
        goes_on(&mut service, &bob).await;
        assert_eq!(code(service.login("ann", PASSWORD).await), Code::Unauthenticated);
        service.login("ann", NEW).await.unwrap();
        service.login("bob", PASSWORD).await.unwrap();
    }
}

#[tokio::test]
async fn a_wrong_old_password_or_a_bad_new_one_changes_nothing() {
    for mut service in Service::each().await {
        let here = service.register("ann").await;
        service.happened(2).await;
        let mut client = service.with(&here.access_token);
        for wrong in ["wrong horse", "", "short", "correct horse\0", &"p".repeat(10_000)] {
            let expected = (Code::InvalidArgument, "the old password is wrong".to_owned());
            assert_eq!(refusal(client.change_password(change(wrong, NEW)).await), expected, "{wrong:?}");
        }
        for bad in ["", "1234567", "battery staple\0", &"p".repeat(257)] {
            let (code, words) = refusal(client.change_password(change(PASSWORD, bad)).await);
            assert_eq!(code, Code::InvalidArgument, "{bad:?}");
            assert!(words.contains("8 to 256"), "{words}");
        }
        goes_on(&mut service, &here).await;
        service.login("ann", PASSWORD).await.unwrap();
    }
}

/// Whoever shows the old password while it is being changed is refused, or ends with the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_session_of_the_old_password_outlives_its_change() {
    for service in Service::each().await {
        for number in 0..5 {
            let login = format!("ann{number}");
            let here = service.register(&login).await;
            let mut client = service.with(&here.access_token);
            let old = || service.login(&login, PASSWORD);
            let (a, changed, b, c, d) =
                tokio::join!(old(), client.change_password(change(PASSWORD, NEW)), old(), old(), old());
            let fresh = changed.unwrap().into_inner();
            for session in [a, b, c, d].into_iter().flatten() {
                is_over(&service, &session).await;
            }
            service.refresh(&fresh.refresh_token).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_changes_at_the_same_instant_one_wins() {
    for service in Service::each().await {
        let (here, there) = (service.register("ann").await, service.login("ann", PASSWORD).await.unwrap());
        let (mut one, mut two) = (service.with(&here.access_token), service.with(&there.access_token));
        let (one, two) = tokio::join!(
            one.change_password(change(PASSWORD, NEW)),
            two.change_password(change(PASSWORD, "paper clip"))
        );
        let (won, password, lost) = match (one, two) {
            (Ok(won), Err(lost)) => (won, NEW, lost),
            (Err(lost), Ok(won)) => (won, "paper clip", lost),
            other => panic!("{other:?}"),
        };
        assert_eq!(lost.code(), Code::Unauthenticated, "{}: its session is over", service.name);
        service.refresh(&won.into_inner().refresh_token).await.unwrap();
        service.login("ann", password).await.unwrap();
    }
}

#[tokio::test]
async fn the_revoked_sessions_are_for_services_only() {
    for service in Service::each().await {
        let here = service.register("ann").await;
        assert_eq!(
            code(service.nobody().revoked(RevokedRequest {}).await),
            Code::Unauthenticated,
            "{}",
            service.name
        );
        assert_eq!(code(service.with("nonsense").revoked(RevokedRequest {}).await), Code::Unauthenticated);
        let person = service.with(&here.access_token).revoked(RevokedRequest {}).await;
        assert_eq!(code(person), Code::PermissionDenied);
        assert_eq!(revoked(&service).await, ids(&[]));
    }
}
