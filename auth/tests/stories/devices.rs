//! Sessions as their user sees them: the list with devices and times, and the end of one of them.

use std::time::Duration;

use proto::{
    auth::{
        ChangePasswordRequest, EndSessionRequest, EndedSession, LoginRequest, OpenSession, RefreshRequest,
        RegisterRequest, Session, SessionsRequest,
    },
    events::event::Kind,
};
use tonic::{Code, Status};

use crate::app::{Client, HOUR, PASSWORD, Service, code, error_of, registration};

const NEW: &str = "battery staple";

async fn list(service: &Service, session: &Session) -> Result<Vec<OpenSession>, Status> {
    let mut client = service.with_token(&session.access_token);
    client.sessions(SessionsRequest::default()).await.map(|reply| reply.into_inner().sessions)
}

/// Returns name, user agent and `current` of the open sessions, newest use first.
async fn devices(service: &Service, session: &Session) -> Vec<(Option<String>, Option<String>, bool)> {
    let sessions = list(service, session).await.unwrap();
    sessions.into_iter().map(|it| (it.device_name, it.user_agent, it.current)).collect()
}

async fn log_in(mut client: Client, device_name: Option<&str>, user_agent: &str) -> Result<Session, Status> {
    let request = LoginRequest {
        login: "ann".to_owned(),
        password: PASSWORD.to_owned(),
        device_name: device_name.map(str::to_owned),
        user_agent: user_agent.to_owned(),
        ..Default::default()
    };
    client.login(request).await.map(tonic::Response::into_inner)
}

async fn end(service: &Service, by: &Session, session_id: &[u8]) -> Result<Option<EndedSession>, Status> {
    let request = EndSessionRequest { session_id: session_id.to_vec() };
    let reply = service.with_token(&by.access_token).end_session(request).await;
    reply.map(|reply| reply.into_inner().ended)
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[tokio::test]
async fn a_user_sees_the_device_and_the_use_of_each_open_session() {
    for service in Service::on_each_database().await {
        let request = RegisterRequest {
            device_name: some("Laptop"),
            user_agent: "Mozilla/5.0\t(X11)".to_owned(),
            ..registration("ann")
        };
        let laptop = service.as_service().register(request).await.unwrap().into_inner();
        service.register("bob").await;
        let phone = log_in(service.as_service(), Some("Phone"), &"é".repeat(300)).await.unwrap();
        let found = list(&service, &laptop).await.unwrap();
        assert_eq!(found[0].session_id, phone.session_id, "{}: newest use first", service.name);
        assert_eq!(found[1].session_id, laptop.session_id, "{}", service.name);
        assert_eq!(found.len(), 2, "{}: only the caller's", service.name);
        assert!(found.iter().all(|session| session.created_at_us == session.last_used_at_us));
        assert_eq!((found[0].current, found[1].current), (false, true));
        let phone_device = (some("Phone"), Some("é".repeat(256)), true);
        let laptop_device = (some("Laptop"), some("Mozilla/5.0(X11)"), false);
        assert_eq!(devices(&service, &phone).await, [phone_device, laptop_device], "{}", service.name);
    }
}

#[tokio::test]
async fn a_refresh_is_a_use_and_states_the_user_agent_again() {
    for service in Service::on_each_database().await {
        let laptop = log_in_after_registration(&service, "agent/1").await;
        let phone = log_in(service.as_service(), Some("Phone"), "phone/1").await.unwrap();
        let before = list(&service, &laptop).await.unwrap();
        // The clock of SQLite has milliseconds.
        tokio::time::sleep(Duration::from_millis(5)).await;
        let request = RefreshRequest {
            refresh_token: laptop.refresh_token.clone(),
            user_agent: "agent/2".to_owned(),
            ..Default::default()
        };
        service.as_service().refresh(request.clone()).await.unwrap();
        let after = list(&service, &phone).await.unwrap();
        assert_eq!(after[0].session_id, laptop.session_id, "{}: newest use first", service.name);
        assert_eq!(after[0].user_agent, some("agent/2"));
        assert_eq!(after[0].created_at_us, before[1].created_at_us);
        assert!(after[0].last_used_at_us > before[0].last_used_at_us, "{}", service.name);
        assert_eq!(after[1].last_used_at_us, before[0].last_used_at_us, "the other is as it was");
        tokio::time::sleep(Duration::from_millis(5)).await;
        let nothing = RefreshRequest { user_agent: String::new(), ..request };
        service.as_service().refresh(nothing).await.unwrap();
        let repeated = list(&service, &phone).await.unwrap();
        assert_eq!(repeated[0].user_agent, some("agent/2"), "{}: kept", service.name);
        assert!(repeated[0].last_used_at_us > after[0].last_used_at_us, "a repeated refresh is a use too");
    }
}

async fn log_in_after_registration(service: &Service, user_agent: &str) -> Session {
    service.register("ann").await;
    let session = log_in(service.as_service(), None, user_agent).await.unwrap();
    let first = list(service, &session).await.unwrap().pop().unwrap();
    end(service, &session, &first.session_id).await.unwrap();
    session
}

#[tokio::test]
async fn a_user_agent_counts_only_with_the_service_token() {
    for service in Service::on_each_database().await {
        let request = RegisterRequest {
            user_agent: "forged".to_owned(),
            device_name: some("a"),
            ..registration("ann")
        };
        let first = service.anonymous().register(request).await.unwrap().into_inner();
        let second = log_in(service.anonymous(), Some("b"), "forged").await.unwrap();
        let third = log_in(service.with_token(&first.access_token), Some("c"), "forged").await.unwrap();
        let request = RefreshRequest {
            refresh_token: second.refresh_token,
            user_agent: "forged".to_owned(),
            ..Default::default()
        };
        service.anonymous().refresh(request).await.unwrap();
        let mut found = devices(&service, &third).await;
        found.sort();
        let expected = [("a", false), ("b", false), ("c", true)];
        let expected = expected.map(|(name, current)| (some(name), None, current));
        assert_eq!(found, expected, "{}: a name is the user's own", service.name);
    }
}

#[tokio::test]
async fn a_change_of_password_keeps_the_device() {
    for service in Service::on_each_database().await {
        service.register("ann").await;
        let phone = log_in(service.as_service(), Some("Phone"), "phone/1").await.unwrap();
        let change = ChangePasswordRequest { old: PASSWORD.to_owned(), new: NEW.to_owned() };
        let mut client = service.with_token(&phone.access_token);
        let fresh = client.change_password(change).await.unwrap().into_inner();
        let expected = [(some("Phone"), some("phone/1"), true)];
        assert_eq!(devices(&service, &fresh).await, expected, "{}", service.name);
        assert_eq!(code(list(&service, &phone).await), Code::Unauthenticated, "{}: ended", service.name);
    }
}

#[tokio::test]
async fn a_user_ends_another_session_and_then_the_own_one() {
    for mut service in Service::on_each_database().await {
        let laptop = service.register("ann").await;
        let phone = service.login("ann", PASSWORD).await.unwrap();
        service.events(3).await;
        for ended in [&phone, &laptop] {
            let reply = end(&service, &laptop, &ended.session_id).await.unwrap().unwrap();
            assert_eq!(reply.session_id, ended.session_id, "{}", service.name);
            assert!(reply.expires_at_us >= ended.expires_at_us, "{}", service.name);
            let Kind::SessionRevoked(event) = &service.events(1).await[0] else { panic!("another event") };
            assert_eq!(event.session_ids, std::slice::from_ref(&ended.session_id), "{}", service.name);
            assert_eq!(code(service.refresh(&ended.refresh_token).await), Code::Unauthenticated);
            let (code, message) = error_of(list(&service, ended).await);
            assert_eq!(
                (code, message.as_str()),
                (Code::Unauthenticated, "this session has ended: sign in again")
            );
        }
        let again = service.login("ann", PASSWORD).await.unwrap();
        let left: Vec<_> =
            list(&service, &again).await.unwrap().into_iter().map(|it| it.session_id).collect();
        assert_eq!(left, [again.session_id], "{}", service.name);
    }
}

#[tokio::test]
async fn malformed_unknown_foreign_and_ended_ids_look_the_same_and_end_nothing() {
    for mut service in Service::on_each_database().await {
        let ann = service.register("ann").await;
        let ended = service.login("ann", PASSWORD).await.unwrap();
        let bob = service.register("bob").await;
        end(&service, &ann, &ended.session_id).await.unwrap();
        service.events(6).await;
        let expected = (Code::NotFound, "there is no such session".to_owned());
        for id in [&[][..], &[7; 15], &[7; 17], &[7; 16], &bob.session_id, &ended.session_id] {
            assert_eq!(error_of(end(&service, &ann, id).await), expected, "{}: {id:?}", service.name);
        }
        let by_ended = end(&service, &ended, &ann.session_id).await;
        assert_eq!(code(by_ended), Code::Unauthenticated, "{}: an ended session ends nothing", service.name);
        service.refresh(&ann.refresh_token).await.unwrap();
        service.refresh(&bob.refresh_token).await.unwrap();
        service.login("bob", PASSWORD).await.unwrap();
        assert_eq!(service.events(1).await[0].name(), "UserLoggedIn", "{}: and no event", service.name);
    }
}

/// Of two sessions that end each other, one stays; otherwise a thief could sign out the owner's last device
/// after the owner has signed out the thief's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_sessions_that_end_each_other_one_stays() {
    for service in Service::on_each_database().await {
        for number in 0..10 {
            let login = format!("ann{number}");
            let one = service.register(&login).await;
            let two = service.login(&login, PASSWORD).await.unwrap();
            let (by_one, by_two) =
                tokio::join!(end(&service, &one, &two.session_id), end(&service, &two, &one.session_id));
            let stays = match (&by_one, &by_two) {
                (Ok(_), Err(lost)) if lost.code() == Code::Unauthenticated => &one,
                (Err(lost), Ok(_)) if lost.code() == Code::Unauthenticated => &two,
                other => panic!("{}: {other:?}", service.name),
            };
            service.refresh(&stays.refresh_token).await.unwrap();
        }
    }
}

#[tokio::test]
async fn an_expired_session_is_not_listed() {
    for mut service in Service::on_each_database().await {
        service.restart(Duration::ZERO);
        service.register("ann").await;
        service.restart(HOUR);
        let open = service.login("ann", PASSWORD).await.unwrap();
        let found = list(&service, &open).await.unwrap();
        assert_eq!(found.len(), 1, "{}: {found:?}", service.name);
        assert_eq!(found[0].session_id, open.session_id);
    }
}

#[tokio::test]
async fn a_malformed_device_name_is_refused_before_the_password_is_checked() {
    for mut service in Service::on_each_database().await {
        service.register("ann").await;
        service.events(2).await;
        let long = "n".repeat(65);
        for name in ["", " ", "\u{200b}", "a\0", "two\nlines", "a\u{202e}", &long] {
            let (code, message) = error_of(log_in(service.as_service(), Some(name), "").await);
            assert_eq!(code, Code::InvalidArgument, "{}: {name:?}", service.name);
            assert!(message.starts_with("a deviceName has 1 to 64 characters"), "{message}");
            let request = RegisterRequest { device_name: some(name), ..registration("bob") };
            assert_eq!(code, error_of(service.as_service().register(request).await).0, "{name:?}");
        }
        let session = log_in(service.as_service(), Some(&"🐎".repeat(64)), "").await.unwrap();
        let found = devices(&service, &session).await;
        assert!(found.contains(&(Some("🐎".repeat(64)), None, true)), "{}: {found:?}", service.name);
        assert_eq!(service.events(1).await[0].name(), "UserLoggedIn", "{}", service.name);
    }
}
