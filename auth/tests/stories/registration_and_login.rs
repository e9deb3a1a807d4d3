//! Registration and login.

use access::{Guard, KeySet, ServiceToken};
use metrics_exporter_prometheus::PrometheusBuilder;
use proto::{
    SessionId, UserId,
    auth::{KeysRequest, RegisterRequest},
    events::{UserLoggedIn, UserRegistered, event::Kind},
};
use telemetry::{Call, RequestId};
use tonic::Code;

use crate::app::{HOUR, ISSUER, PASSWORD, Service, error_of, now_s, registration};

#[tokio::test]
async fn a_registration_signs_in_with_a_token_that_the_published_keys_verify() {
    for mut service in Service::on_each_database().await {
        let mut call = Call::new();
        call.request_id = RequestId::parse("request-1").unwrap();
        let request = RegisterRequest { name: Some("  Ann Ö. ".to_owned()), ..registration("ann") };
        let session = service.with_call(call).register(request).await.unwrap().into_inner();
        let user = session.user.clone().unwrap();
        assert_eq!((user.login.as_str(), user.name.as_str()), ("ann", "Ann Ö."), "{}", service.name);
        assert!((user.created_at_us / 1_000_000 - now_s()).abs() < 60);

        let jwks = service.anonymous().keys(KeysRequest {}).await.unwrap().into_inner().jwks;
        let keys = KeySet::new(move || std::future::ready(Ok::<_, std::convert::Infallible>(jwks.clone())));
        let guard = Guard::new(keys, ServiceToken::generate(), ISSUER);
        let caller = guard.verify(&session.access_token, now_s()).await.unwrap();
        assert_eq!(UserId::new(caller.user).bytes(), user.id);
        assert_eq!(SessionId::new(caller.session).bytes(), session.session_id);
        assert_eq!(caller.expires_at_s * 1_000_000, session.expires_at_us);
        let lifetime_s = caller.expires_at_s - now_s();
        assert!((HOUR.as_secs() as i64 - lifetime_s).abs() < 60, "{lifetime_s}");

        let records = service.records(2).await;
        for record in &records {
            assert_eq!(
                (record.key.clone(), record.version),
                (UserId::parse(&user.id).unwrap().to_string(), 0)
            );
            assert_eq!(record.headers.request_id.as_deref(), Some("request-1"));
        }
        let kinds: Vec<_> = records.iter().map(|record| Kind::decode(&record.payload).unwrap()).collect();
        let logged_in = UserLoggedIn { user_id: user.id.clone(), session_id: session.session_id };
        let registered = UserRegistered { user_id: user.id };
        assert_eq!(kinds, [Kind::UserRegistered(registered), Kind::UserLoggedIn(logged_in)]);
    }
}

#[tokio::test]
async fn the_default_name_of_a_user_is_the_login() {
    for service in Service::on_each_database().await {
        assert_eq!(service.register("ann").await.user.unwrap().name, "ann", "{}", service.name);
    }
}

#[tokio::test]
async fn a_login_ignores_case_and_surrounding_whitespace() {
    for service in Service::on_each_database().await {
        let ann = service.register(" Ann").await.user.unwrap();
        assert_eq!((ann.login.as_str(), ann.name.as_str()), ("ann", "ann"), "{}", service.name);
        assert_eq!(service.login("ANN ", PASSWORD).await.unwrap().user.unwrap(), ann);
        let again = service.anonymous().register(registration("ANN")).await;
        assert_eq!(error_of(again).0, Code::AlreadyExists);
    }
}

#[tokio::test]
async fn a_password_matches_in_every_normalisation_form() {
    for service in Service::on_each_database().await {
        let composed = "caf\u{e9} au lait".to_owned();
        let request = RegisterRequest { password: composed, ..registration("ann") };
        service.anonymous().register(request).await.unwrap();
        for text in ["caf\u{e9} au lait", "caf\u{65}\u{301} au lait", "caf\u{e9}\u{a0}au\u{3000}lait"] {
            assert!(service.login("ann", text).await.is_ok(), "{}: {text:?}", service.name);
        }
        for text in ["Caf\u{e9} au lait", "cafe au lait", "caf\u{e9} au lait "] {
            let (code, _) = error_of(service.login("ann", text).await);
            assert_eq!(code, Code::Unauthenticated, "{text:?}");
        }
    }
}

#[tokio::test]
async fn of_concurrent_registrations_of_one_login_one_wins() {
    for mut service in Service::on_each_database().await {
        let mut one = service.anonymous();
        let mut two = one.clone();
        let mut three = one.clone();
        let results = tokio::join!(
            one.register(registration("ann")),
            two.register(registration("ann")),
            three.register(registration("ann")),
        );
        let mut codes =
            [results.0, results.1, results.2].map(|result| result.map_or_else(|e| e.code(), |_| Code::Ok));
        codes.sort_by_key(|code| *code as i32);
        assert_eq!(codes, [Code::Ok, Code::AlreadyExists, Code::AlreadyExists], "{}", service.name);
        service.events(2).await;
        let again = service.anonymous().register(registration("ann")).await;
        assert_eq!(error_of(again), (Code::AlreadyExists, "this login is taken".to_owned()));
        service.login("ann", PASSWORD).await.unwrap();
        service.events(1).await;
    }
}

#[tokio::test]
async fn a_second_login_opens_another_session_of_the_same_user() {
    for mut service in Service::on_each_database().await {
        let first = service.register("ann").await;
        let second = service.login("ann", PASSWORD).await.unwrap();
        assert_eq!(second.user, first.user, "{}", service.name);
        assert_ne!(second.session_id, first.session_id);
        assert_ne!(second.refresh_token, first.refresh_token);
        let user_id = first.user.unwrap().id;
        let logged_in = Kind::UserLoggedIn(UserLoggedIn { user_id, session_id: second.session_id });
        assert_eq!(service.events(3).await[2], logged_in);
    }
}

#[tokio::test]
async fn an_unknown_login_and_a_wrong_password_get_the_same_error_after_the_same_work() {
    for mut service in Service::on_each_database().await {
        service.register("ann").await;
        service.events(2).await;
        let recorder = PrometheusBuilder::new().build_recorder();
        let _local = metrics::set_default_local_recorder(&recorder);
        let long = "p".repeat(100_000);
        let attempts = [
            ("ann", "wrong horse"),
            ("unknown", PASSWORD),
            ("ann", "short"),
            ("ann", ""),
            ("ann", long.as_str()),
            ("ann", "correct horse\0"),
            ("A nn", PASSWORD),
            ("", PASSWORD),
            ("ann\0", PASSWORD),
            ("' or 1 = 1 --", PASSWORD),
        ];
        for (number, (login, password)) in attempts.into_iter().enumerate() {
            let expected = (Code::Unauthenticated, "the login or the password is wrong".to_owned());
            assert_eq!(
                error_of(service.login(login, password).await),
                expected,
                "{}: {login:?}",
                service.name
            );
            let metrics = recorder.handle().render();
            let checked = format!("auth_password_work_total{{work=\"verify\"}} {}\n", number + 1);
            assert!(metrics.contains(&checked), "{login:?}: one verification per attempt\n{metrics}");
            assert!(!metrics.contains("work=\"hash\""), "{metrics}");
        }
        // A text that differs from its normalised form costs two verifications, for any login.
        for (number, login) in [(1, "ann"), (2, "unknown"), (3, "")] {
            let (code, _) = error_of(service.login(login, "wrong e\u{301}").await);
            assert_eq!(code, Code::Unauthenticated, "{login:?}");
            let metrics = recorder.handle().render();
            let checked =
                format!("auth_password_work_total{{work=\"verify\"}} {}\n", attempts.len() + 2 * number);
            assert!(metrics.contains(&checked), "{login:?}: two verifications\n{metrics}");
        }
        service.login("ann", PASSWORD).await.unwrap();
        assert_eq!(service.events(1).await[0].name(), "UserLoggedIn", "a failed login appends no event");
    }
}
