//! Registering and signing in.

use access::{Guard, KeySet, ServiceToken};
use metrics_exporter_prometheus::PrometheusBuilder;
use proto::{
    SessionId, UserId,
    auth::{KeysRequest, RegisterRequest},
    events::{UserLoggedIn, UserRegistered, event::Kind},
};
use telemetry::{Call, RequestId};
use tonic::Code;

use crate::app::{HOUR, ISSUER, PASSWORD, Service, now_s, refusal, registration};

#[tokio::test]
async fn who_registers_is_signed_in_and_everyone_can_tell_by_the_published_keys() {
    for mut service in Service::each().await {
        let call = Call { request_id: RequestId::parse("request-1").unwrap(), ..Call::new() };
        let request = RegisterRequest { name: Some("  Ann Ö. ".to_owned()), ..registration("ann") };
        let session = service.calling(call).register(request).await.unwrap().into_inner();
        let user = session.user.clone().unwrap();
        assert_eq!((user.login.as_str(), user.name.as_str()), ("ann", "Ann Ö."), "{}", service.name);
        assert!((user.created_at_us / 1_000_000 - now_s()).abs() < 60);

        let jwks = service.nobody().keys(KeysRequest {}).await.unwrap().into_inner().jwks;
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
        let kinds: Vec<_> = records.iter().map(|record| Kind::read(&record.payload).unwrap()).collect();
        let logged_in = UserLoggedIn { user_id: user.id.clone(), session_id: session.session_id };
        let registered = UserRegistered { user_id: user.id };
        assert_eq!(kinds, [Kind::UserRegistered(registered), Kind::UserLoggedIn(logged_in)]);
    }
}

#[tokio::test]
async fn a_person_without_a_name_is_called_by_the_login() {
    for service in Service::each().await {
        assert_eq!(service.register("ann").await.user.unwrap().name, "ann", "{}", service.name);
    }
}

#[tokio::test]
async fn of_registrations_of_one_login_at_the_same_instant_one_wins() {
    for mut service in Service::each().await {
        let mut one = service.nobody();
        let (mut two, mut three) = (one.clone(), one.clone());
        let answers = tokio::join!(
            one.register(registration("ann")),
            two.register(registration("ann")),
            three.register(registration("ann")),
        );
        let mut codes =
            [answers.0, answers.1, answers.2].map(|answer| answer.map_or_else(|e| e.code(), |_| Code::Ok));
        codes.sort_by_key(|code| *code as i32);
        assert_eq!(codes, [Code::Ok, Code::AlreadyExists, Code::AlreadyExists], "{}", service.name);
        service.happened(2).await;
        let again = service.nobody().register(registration("ann")).await;
        assert_eq!(refusal(again), (Code::AlreadyExists, "this login is taken".to_owned()));
        service.login("ann", PASSWORD).await.unwrap();
        service.happened(1).await;
    }
}

#[tokio::test]
async fn signing_in_again_is_another_session_of_the_same_person() {
    for mut service in Service::each().await {
        let first = service.register("ann").await;
        let second = service.login("ann", PASSWORD).await.unwrap();
        assert_eq!(second.user, first.user, "{}", service.name);
        assert_ne!(second.session_id, first.session_id);
        assert_ne!(second.refresh_token, first.refresh_token);
        let user_id = first.user.unwrap().id;
        let logged_in = Kind::UserLoggedIn(UserLoggedIn { user_id, session_id: second.session_id });
        assert_eq!(service.happened(3).await[2], logged_in);
    }
}

#[tokio::test]
async fn an_unknown_login_and_a_wrong_password_get_the_same_answer_after_the_same_work() {
    for mut service in Service::each().await {
        service.register("ann").await;
        service.happened(2).await;
        let recorder = PrometheusBuilder::new().build_recorder();
        let _local = metrics::set_default_local_recorder(&recorder);
        let long = "p".repeat(100_000);
        let tries = [
            ("ann", "wrong horse"),
            ("nobody", PASSWORD),
            ("ann", "short"),
            ("ann", ""),
            ("ann", long.as_str()),
            ("ann", "correct horse\0"),
            ("Ann", PASSWORD),
            ("", PASSWORD),
            ("ann\0", PASSWORD),
            ("' or 1 = 1 --", PASSWORD),
        ];
        for (number, (login, password)) in tries.into_iter().enumerate() {
            let expected = (Code::Unauthenticated, "the login or the password is wrong".to_owned());
            assert_eq!(
                refusal(service.login(login, password).await),
                expected,
                "{}: {login:?}",
                service.name
            );
            let metrics = recorder.handle().render();
            let checked = format!("auth_password_work_total{{work=\"verify\"}} {}\n", number + 1);
            assert!(metrics.contains(&checked), "{login:?}: one check of a password each\n{metrics}");
            assert!(!metrics.contains("work=\"hash\""), "{metrics}");
        }
        service.login("ann", PASSWORD).await.unwrap();
        assert_eq!(service.happened(1).await[0].name(), "UserLoggedIn", "a refusal is no event");
    }
}
