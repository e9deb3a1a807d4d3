//! Invalid input and invalid credentials: a clear error and no change.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use proto::auth::{
    ChangePasswordRequest, LogoutRequest, RegisterRequest, RenameRequest, SearchRequest, Session,
    UsersRequest,
};
use tonic::Code;

use crate::app::{PASSWORD, Service, code, error_of, now_s, user_id};

#[tokio::test]
async fn an_invalid_registration_is_refused_and_changes_nothing() {
    for mut service in Service::on_each_database().await {
        let login = "a login has 3 to 32 characters";
        let password = "a password has 8 to 256 characters";
        let name = "a name has 1 to 64 characters";
        let long = "x".repeat(33);
        let cases: Vec<(&str, &str, Option<&str>, &str)> = vec![
            ("", PASSWORD, None, login),
            ("ab", PASSWORD, None, login),
            (&long, PASSWORD, None, login),
            ("ann!", PASSWORD, None, login),
            ("a nn", PASSWORD, None, login),
            (" ab ", PASSWORD, None, login),
            ("ann\0", PASSWORD, None, login),
            ("änn", PASSWORD, None, login),
            ("ann", "", None, password),
            ("ann", "1234567", None, password),
            ("ann", "correct\0horse", None, password),
            ("ann", "e\u{301}e\u{301}e\u{301}e\u{301}", None, password),
            ("ann", PASSWORD, Some(""), name),
            ("ann", PASSWORD, Some(" \u{3000}"), name),
            ("ann", PASSWORD, Some("a\0b"), name),
            ("ann", PASSWORD, Some("two\nlines"), name),
            ("ann", PASSWORD, Some("\u{3164}\u{200b}"), name),
            ("ann", PASSWORD, Some("ann\u{202e}"), name),
        ];
        let mut cases: Vec<_> =
            cases.into_iter().map(|(l, p, n, e)| (l, p.to_owned(), n.map(str::to_owned), e)).collect();
        cases.push(("ann", "p".repeat(257), None, password));
        cases.push(("ann", PASSWORD.to_owned(), Some("n".repeat(65)), name));
        for (login, password, name, expected) in cases {
            let request = RegisterRequest { login: login.to_owned(), password, name, ..Default::default() };
            let shown = (request.login.clone(), request.name.clone());
            let (code, message) = error_of(service.anonymous().register(request).await);
            assert_eq!(code, Code::InvalidArgument, "{}: {shown:?}", service.name);
            assert!(message.starts_with(expected), "{shown:?}: {message}");
        }
        let request = RegisterRequest {
            login: "x".repeat(32),
            password: "ß".repeat(256),
            name: Some("🐎".repeat(64)),
            ..Default::default()
        };
        let session = service.anonymous().register(request).await.unwrap().into_inner();
        assert_eq!(session.user.unwrap().name, "🐎".repeat(64), "the limits themselves are allowed");
        service.login(&"x".repeat(32), &"ß".repeat(256)).await.unwrap();
        service.register("ann").await;
        service.events(5).await;
    }
}

#[tokio::test]
async fn invalid_names_and_searches_are_refused_and_change_nothing() {
    for mut service in Service::on_each_database().await {
        let ann = service.register("ann").await;
        service.events(2).await;
        let mut client = service.with_token(&ann.access_token);
        for name in ["", " ", "a\0", "a\u{7f}b", "a\r\nb", "\u{2800}", "a\u{2067}b", &"n".repeat(65)] {
            let (code, message) = error_of(client.rename(RenameRequest { name: name.to_owned() }).await);
            assert_eq!(code, Code::InvalidArgument, "{}: {name:?}", service.name);
            assert!(message.contains("1 to 64"), "{message}");
        }
        let long = "a".repeat(33);
        for (prefix, first, after_login, expected) in [
            ("", 10, None, "2 to 32"),
            ("a", 10, None, "2 to 32"),
            (long.as_str(), 10, None, "2 to 32"),
            ("an\0", 10, None, "control characters"),
            ("an", 0, None, "1 to 100"),
            ("an", -1, None, "1 to 100"),
            ("an", 101, None, "1 to 100"),
            ("an", 10, Some("Not A Login"), "after a login"),
            ("an", 10, Some(""), "after a login"),
            ("an", 10, Some("ann\0"), "after a login"),
        ] {
            let request = SearchRequest {
                prefix: prefix.to_owned(),
                first,
                after_login: after_login.map(str::to_owned),
            };
            let (code, message) = error_of(client.search(request).await);
            assert_eq!(code, Code::InvalidArgument, "{prefix:?} {first} {after_login:?}");
            assert!(message.contains(expected), "{message}");
        }
        for id in [vec![], vec![0; 15], vec![0; 17], b"nonsense".to_vec()] {
            let ids = vec![user_id(&ann), id];
            assert_eq!(code(client.users(UsersRequest { ids }).await), Code::InvalidArgument);
        }
        let users = client.users(UsersRequest { ids: vec![user_id(&ann)] }).await.unwrap().into_inner().users;
        assert_eq!(users, [ann.user.unwrap()]);
    }
}

/// Invalid access tokens, each with its defect.
fn forged(service: &Service, session: &Session) -> Vec<(&'static str, String)> {
    let token = &session.access_token;
    let parts: Vec<&str> = token.split('.').collect();
    let unsigned = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"at+jwt"}"#);
    let swapped = service.forged(session, |claims| claims.exp += 1);
    let swapped: Vec<&str> = swapped.split('.').collect();
    let foreign_key = access::SigningKeys::generate().sign(&access::Claims::new(
        crate::app::ISSUER,
        uuid::Uuid::now_v7(),
        uuid::Uuid::now_v7(),
        now_s(),
        600,
    ));
    let service_token = service.service_token.header().replace("Bearer ", "");
    vec![
        ("expired", service.forged(session, |claims| claims.exp = now_s() - 1)),
        ("issued in the future", service.forged(session, |claims| claims.iat += 600)),
        ("wrong audience", service.forged(session, |claims| claims.aud = "elsewhere".to_owned())),
        ("wrong issuer", service.forged(session, |claims| claims.iss = "elsewhere".to_owned())),
        ("alg none", format!("{unsigned}.{}.", parts[1])),
        ("signature of another token", format!("{}.{}.{}", swapped[0], swapped[1], parts[2])),
        ("unknown key", foreign_key),
        ("truncated", token[..token.len() - 4].to_owned()),
        ("empty", String::new()),
        ("nonsense", "nonsense".to_owned()),
        ("long", "a".repeat(5_000)),
        ("refresh token", session.refresh_token.clone()),
        ("service token", service_token),
    ]
}

#[tokio::test]
async fn forged_expired_and_malformed_tokens_are_refused_by_every_call() {
    for mut service in Service::on_each_database().await {
        let ann = service.register("ann").await;
        service.events(2).await;
        let mut clients = vec![("none", service.anonymous())];
        for (defect, token) in forged(&service, &ann) {
            clients.push((defect, service.with_token(&token)));
        }
        for (defect, mut client) in clients {
            let change = ChangePasswordRequest { old: PASSWORD.to_owned(), new: "battery staple".to_owned() };
            let search = SearchRequest { prefix: "an".to_owned(), first: 1, after_login: None };
            let codes = [
                code(client.rename(RenameRequest { name: "Mallory".to_owned() }).await),
                code(client.logout(LogoutRequest { everywhere: true }).await),
                code(client.change_password(change).await),
                code(client.search(search).await),
                code(client.users(UsersRequest { ids: vec![user_id(&ann)] }).await),
            ];
            assert_eq!(codes, [Code::Unauthenticated; 5], "{}: {defect}", service.name);
        }
        let good = service.forged(&ann, |_| {});
        let users = UsersRequest { ids: vec![user_id(&ann)] };
        let found = service.with_token(&good).users(users).await.unwrap().into_inner().users;
        assert_eq!(found, [ann.user.clone().unwrap()], "the unaltered claims are accepted");
        service.refresh(&ann.refresh_token).await.unwrap();
        service.login("ann", PASSWORD).await.unwrap();
        service.events(1).await;
    }
}

#[tokio::test]
async fn a_valid_token_of_an_unknown_session_changes_nothing() {
    for service in Service::on_each_database().await {
        let ann = service.register("ann").await;
        let bob = service.register("bob").await;
        let absent = service.forged(&ann, |claims| claims.sid = uuid::Uuid::now_v7());
        let foreign =
            service.forged(&ann, |claims| claims.sid = uuid::Uuid::from_slice(&bob.session_id).unwrap());
        for token in [absent, foreign] {
            let mut client = service.with_token(&token);
            let change = ChangePasswordRequest { old: PASSWORD.to_owned(), new: "battery staple".to_owned() };
            let codes = [
                code(client.rename(RenameRequest { name: "Mallory".to_owned() }).await),
                code(client.logout(LogoutRequest { everywhere: false }).await),
                code(client.logout(LogoutRequest { everywhere: true }).await),
                code(client.change_password(change).await),
            ];
            assert_eq!(codes, [Code::Unauthenticated; 4], "{}", service.name);
        }
        service.refresh(&ann.refresh_token).await.unwrap();
        service.refresh(&bob.refresh_token).await.unwrap();
    }
}

#[tokio::test]
async fn a_request_over_one_mebibyte_is_refused() {
    for service in Service::on_each_database().await {
        let request = |bytes: usize| RegisterRequest {
            login: "x".repeat(bytes),
            password: PASSWORD.to_owned(),
            ..Default::default()
        };
        let within = service.anonymous().register(request(proto::REQUEST_MAX_BYTES - 100)).await;
        assert_eq!(code(within), Code::InvalidArgument, "decoded, then refused by validation");
        let over = service.anonymous().register(request(proto::REQUEST_MAX_BYTES)).await;
        assert_eq!(code(over), Code::OutOfRange);
    }
}
