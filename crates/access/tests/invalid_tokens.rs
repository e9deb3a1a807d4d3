//! The guard rejects every invalid token, in calls of users and in calls of services.

#![expect(clippy::unwrap_used, reason = "a failed setup fails the test")]

use std::time::{SystemTime, UNIX_EPOCH};

use access::{BoxError, Claims, Guard, KeySet, ServiceToken, SigningKeys};
use testkit::invalid_tokens::{InvalidToken, ValidToken, invalid_tokens};
use tonic::{Code, metadata::MetadataMap};
use uuid::Uuid;

/// A guard and the keys whose tokens it accepts.
struct Fixture {
    guard: Guard,
    keys: SigningKeys,
    /// Text of the file of `keys`.
    pem: String,
    service_token: ServiceToken,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.pem");
        let keys = SigningKeys::load_or_create(&path).unwrap();
        let jwks = keys.jwks();
        let service_token = ServiceToken::generate();
        let set = KeySet::new(move || std::future::ready(Ok::<_, BoxError>(jwks.clone())));
        let guard = Guard::new(set, service_token.clone(), "tidings");
        Self { guard, pem: std::fs::read_to_string(path).unwrap(), keys, service_token }
    }

    fn token(&self) -> String {
        self.keys.sign(&Claims::new("tidings", Uuid::new_v4(), Uuid::new_v4(), now_s(), 300))
    }
}

fn now_s() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64
}

fn metadata(values: &[String]) -> Option<MetadataMap> {
    let mut metadata = MetadataMap::new();
    for value in values {
        metadata.append("authorization", value.parse().ok()?);
    }
    Some(metadata)
}

#[tokio::test]
async fn every_invalid_token_is_rejected() {
    let fixture = Fixture::new();
    let token = fixture.token();
    assert!(fixture.guard.verify(&token, now_s()).await.is_ok(), "the valid token is accepted");
    let table = invalid_tokens(&ValidToken { token: &token, pem: &fixture.pem, jwks: &fixture.keys.jwks() });
    assert!(table.len() >= 40);
    for InvalidToken { description, token: invalid } in &table {
        assert!(fixture.guard.verify(invalid, now_s()).await.is_err(), "{description}: {invalid}");
        // Some of the tokens are not valid in a header at all.
        let Some(metadata) = metadata(&[format!("Bearer {invalid}")]) else { continue };
        assert_eq!(
            fixture.guard.caller(&metadata).await.unwrap_err().code(),
            Code::Unauthenticated,
            "{description}"
        );
        assert!(fixture.guard.service(&metadata).is_err(), "{description}");
    }
    println!("invalid tokens: {} rejected", table.len());
}

#[tokio::test]
async fn only_a_single_bearer_header_is_accepted() {
    let fixture = Fixture::new();
    let token = fixture.token();
    let service = fixture.service_token.header();
    let bearer = format!("Bearer {token}");
    let single = metadata(std::slice::from_ref(&bearer)).unwrap();
    assert!(fixture.guard.caller(&single).await.is_ok());
    let variants = [
        vec![token.clone()],
        vec![format!("Basic {token}")],
        vec![format!("JWT {token}")],
        vec![format!("Bearer{token}")],
        vec![format!("Bearer:{token}")],
        vec![format!("Bearer Bearer {token}")],
        vec![format!("{bearer} {token}")],
        vec![format!("{bearer}, {bearer}")],
        vec!["Bearer".to_owned()],
        vec!["Bearer ".to_owned()],
        vec![String::new()],
        vec![bearer.clone(), bearer.clone()],
        vec![bearer.clone(), service.clone()],
        vec![service.clone(), bearer],
        vec![service],
    ];
    for variant in variants {
        let code = fixture.guard.caller(&metadata(&variant).unwrap()).await.unwrap_err().code();
        assert_eq!(code, Code::Unauthenticated, "{variant:?}");
    }
    let rotated = {
        let mut keys = fixture.keys.clone();
        keys.rotate().expect("no next key");
        keys.sign(&Claims::new("tidings", Uuid::new_v4(), Uuid::new_v4(), now_s(), 300))
    };
    assert!(fixture.guard.verify(&rotated, now_s()).await.is_err(), "the key is not published");
}
