//! Every forged token is refused by the guard: where a person calls, and where a service does.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

use std::time::{SystemTime, UNIX_EPOCH};

use access::{BoxError, Claims, Guard, KeySet, ServiceToken, SigningKeys};
use testkit::invalid_tokens::{InvalidToken, ValidToken, invalid_tokens};
use tonic::{Code, metadata::MetadataMap};
use uuid::Uuid;

/// A guard, the keys that it believes, and the file that they are in.
struct Door {
    guard: Guard,
    keys: SigningKeys,
    pem: String,
    service_token: ServiceToken,
}

impl Door {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.pem");
        let keys = SigningKeys::load_or_create(&path).unwrap();
        let (jwks, service_token) = (keys.jwks(), ServiceToken::generate());
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
async fn no_forged_token_is_believed() {
    let door = Door::new();
    let token = door.token();
    assert!(door.guard.verify(&token, now_s()).await.is_ok(), "the true one is");
    let table = invalid_tokens(&ValidToken { token: &token, pem: &door.pem, jwks: &door.keys.jwks() });
    assert!(table.len() >= 40);
    for InvalidToken { description: what, token: forged } in &table {
        assert!(door.guard.verify(forged, now_s()).await.is_err(), "{what}: {forged}");
        // What a header cannot carry never comes this far.
        let Some(metadata) = metadata(&[format!("Bearer {forged}")]) else { continue };
        assert_eq!(door.guard.caller(&metadata).await.unwrap_err().code(), Code::Unauthenticated, "{what}");
        assert!(door.guard.service(&metadata).is_err(), "{what}");
    }
    println!("forged tokens: {} refused", table.len());
}

#[tokio::test]
async fn a_token_comes_as_one_bearer_and_in_no_other_way() {
    let door = Door::new();
    let (token, service) = (door.token(), door.service_token.header());
    let bearer = format!("Bearer {token}");
    let alone = metadata(std::slice::from_ref(&bearer)).unwrap();
    assert!(door.guard.caller(&alone).await.is_ok());
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
        let code = door.guard.caller(&metadata(&variant).unwrap()).await.unwrap_err().code();
        assert_eq!(code, Code::Unauthenticated, "{variant:?}");
    }
    let rotated = {
        let mut keys = door.keys.clone();
        keys.rotate();
        keys.sign(&Claims::new("tidings", Uuid::new_v4(), Uuid::new_v4(), now_s(), 300))
    };
    assert!(door.guard.verify(&rotated, now_s()).await.is_err(), "a key that is not published");
}
