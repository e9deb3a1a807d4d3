//! Authentication of gRPC requests: turns the metadata into the caller. A user authenticates with an
//! access token, another service with the service token; neither is accepted in place of the other.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use tonic::{Status, metadata::MetadataMap};

use crate::{Caller, KeySet, Rejection, ServiceToken, bearer_token, verified_tokens::VerifiedTokens};

/// Verifies access tokens and the service token. Cheap to clone; clones share the verified tokens.
#[derive(Clone, Debug)]
pub struct Guard(Arc<Verifier>);

#[derive(Debug)]
struct Verifier {
    keys: KeySet,
    service_token: ServiceToken,
    issuer: String,
    verified: VerifiedTokens,
}

impl Guard {
    /// Creates a guard that accepts access tokens of this issuer.
    pub fn new(keys: KeySet, service_token: ServiceToken, issuer: impl Into<String>) -> Self {
        let verified = VerifiedTokens::default();
        Self(Arc::new(Verifier { keys, service_token, issuer: issuer.into(), verified }))
    }

    /// Verifies an access token at `now_s` (seconds since the Unix epoch) and returns its caller. The
    /// signature of a token is verified once, and again when the keys have changed.
    ///
    /// # Errors
    /// Every [`Rejection`] except [`Rejection::Missing`].
    pub async fn verify(&self, token: &str, now_s: i64) -> Result<Caller, Rejection> {
        let Verifier { keys, issuer, verified, .. } = &*self.0;
        if let Some(caller) = verified.find(token, keys.revision(), now_s) {
            return Ok(caller);
        }
        let new = keys.verify(token, issuer, now_s).await?;
        verified.insert(token, new);
        Ok(new.caller)
    }

    /// Authenticates the user who sends a request.
    ///
    /// # Errors
    /// UNAUTHENTICATED without a valid access token (the service token is not one); UNAVAILABLE if the
    /// key set is needed and cannot be fetched.
    pub async fn caller(&self, metadata: &MetadataMap) -> Result<Caller, Status> {
        let token = token_of(metadata)?;
        Ok(self.verify(token, now_s()).await?)
    }

    /// Checks that another service sends a request.
    ///
    /// # Errors
    /// UNAUTHENTICATED without a token or with an unknown one; PERMISSION_DENIED with a token in the
    /// form of an access token.
    pub fn service(&self, metadata: &MetadataMap) -> Result<(), Status> {
        let token = token_of(metadata)?;
        if self.0.service_token.matches(token) {
            return Ok(());
        }
        // A dot tells an access token from a service token: base64url text contains none.
        Err(if token.contains('.') {
            Status::permission_denied("this call is for services only")
        } else {
            Status::unauthenticated("the service token is not valid")
        })
    }
}

/// Returns the bearer token of the authorization metadata.
fn token_of(metadata: &MetadataMap) -> Result<&str, Rejection> {
    let mut values = metadata.get_all("authorization").iter();
    let value = values.next().ok_or(Rejection::Missing)?;
    if values.next().is_some() {
        // With two headers, a proxy and this service could each pick a different one.
        return Err(Rejection::Invalid);
    }
    value.to_str().ok().and_then(bearer_token).ok_or(Rejection::Invalid)
}

fn now_s() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use tonic::Code;
    use uuid::Uuid;

    use super::*;
    use crate::{BoxError, Claims, SigningKeys};

    struct Fixture {
        guard: Guard,
        keys: SigningKeys,
        service: String,
        claims: Claims,
    }

    impl Fixture {
        fn new() -> Self {
            Self::with_keys(SigningKeys::generate())
        }

        fn with_keys(keys: SigningKeys) -> Self {
            let token = ServiceToken::generate();
            let set = KeySet::of(&keys);
            let claims = Claims::new("issuer", Uuid::new_v4(), Uuid::new_v4(), now_s(), 300);
            Self { service: token.header(), guard: Guard::new(set, token, "issuer"), keys, claims }
        }

        fn user_header(&self) -> String {
            format!("Bearer {}", self.keys.sign(&self.claims))
        }
    }

    fn metadata(authorization: &str) -> MetadataMap {
        let mut metadata = MetadataMap::new();
        metadata.insert("authorization", authorization.parse().expect("ascii"));
        metadata
    }

    #[tokio::test]
    async fn access_and_service_tokens_are_not_interchangeable() {
        let fixture = Fixture::new();
        let user = metadata(&fixture.user_header());
        let service = metadata(&fixture.service);
        let caller = fixture.guard.caller(&user).await.expect("authenticated");
        assert_eq!((caller.user, caller.session), (fixture.claims.sub, fixture.claims.sid));
        assert_eq!(fixture.guard.caller(&service).await.expect_err("rejected").code(), Code::Unauthenticated);
        fixture.guard.service(&service).expect("authenticated");
        assert_eq!(fixture.guard.service(&user).expect_err("rejected").code(), Code::PermissionDenied);
    }

    #[tokio::test]
    async fn missing_and_malformed_tokens_are_unauthenticated_and_not_echoed() {
        let fixture = Fixture::new();
        let user = fixture.user_header();
        let bare = user.strip_prefix("Bearer ").expect("a bearer header");
        let mut headers = vec![MetadataMap::new()];
        let basic = format!("Basic {bare}");
        headers.extend(["", "Bearer", "Bearer ", "Bearer nonsense", bare, &basic].map(metadata));
        for metadata in &headers {
            for status in [
                fixture.guard.caller(metadata).await.expect_err("rejected"),
                fixture.guard.service(metadata).expect_err("rejected"),
            ] {
                assert_eq!(status.code(), Code::Unauthenticated, "{metadata:?}");
                assert!(!format!("{status:?}").contains("nonsense"), "{status:?}");
            }
        }
        let scheme = format!("bearer {bare}");
        assert!(fixture.guard.caller(&metadata(&scheme)).await.is_ok(), "the scheme is case-insensitive");
    }

    #[tokio::test]
    async fn expired_and_unverifiable_tokens_have_different_codes() {
        let mut fixture = Fixture::new();
        fixture.claims.exp = now_s() - 1;
        let status = fixture.guard.caller(&metadata(&fixture.user_header())).await.expect_err("rejected");
        assert_eq!(
            (status.code(), status.message()),
            (Code::Unauthenticated, "the access token has expired")
        );
        let unavailable = KeySet::new(|| std::future::ready(Err::<String, _>(std::fmt::Error)));
        let guard = Guard::new(unavailable, ServiceToken::generate(), "issuer");
        let status = guard.caller(&metadata(&fixture.user_header())).await.expect_err("rejected");
        assert_eq!(status.code(), Code::Unavailable);
    }

    /// A guard over a key set that can be replaced, and whose use always starts a fetch.
    fn rotating() -> (Guard, SigningKeys, Arc<Mutex<String>>) {
        let keys = SigningKeys::generate();
        let jwks = Arc::new(Mutex::new(keys.jwks()));
        let published = jwks.clone();
        let set = KeySet::always_stale(move || std::future::ready(Ok::<_, BoxError>(jwks.lock().clone())));
        (Guard::new(set, ServiceToken::generate(), "issuer"), keys, published)
    }

    async fn rejected_in_time(guard: &Guard, token: &str) -> Rejection {
        let rejected = async {
            loop {
                match guard.verify(token, now_s()).await {
                    Ok(_) => tokio::task::yield_now().await,
                    Err(rejection) => return rejection,
                }
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(10), rejected).await.expect("rejected")
    }

    #[tokio::test]
    async fn a_verified_token_is_rejected_as_soon_as_its_key_is_withdrawn() {
        let (guard, keys, published) = rotating();
        let claims = Claims::new("issuer", Uuid::new_v4(), Uuid::new_v4(), now_s(), 300);
        let token = keys.sign(&claims);
        for _ in 0..10 {
            assert!(guard.verify(&token, now_s()).await.is_ok());
        }
        let other = SigningKeys::generate();
        *published.lock() = other.jwks();
        assert_eq!(rejected_in_time(&guard, &token).await, Rejection::Invalid);
        assert!(guard.verify(&other.sign(&claims), now_s()).await.is_ok());
        assert_eq!(guard.verify(&token, now_s()).await, Err(Rejection::Invalid), "it stays rejected");
    }

    #[tokio::test]
    async fn a_verified_token_is_valid_for_as_long_as_one_that_is_verified_again() {
        let fixture = Fixture::new();
        let nbf = fixture.claims.iat + 30;
        let claims = Claims { nbf: Some(nbf), ..fixture.claims.clone() };
        let token = fixture.keys.sign(&claims);
        let caller = fixture.guard.verify(&token, now_s()).await.expect("valid");
        for at_s in [nbf - 61, nbf - 60, claims.exp - 1, claims.exp, claims.exp + 1_000, i64::MAX, i64::MIN] {
            let fresh = Fixture::with_keys(fixture.keys.clone());
            let expected = fresh.guard.verify(&token, at_s).await;
            assert_eq!(fixture.guard.verify(&token, at_s).await, expected, "{}", at_s - nbf);
            assert!(expected.is_err() || expected == Ok(caller));
        }
    }

    #[tokio::test]
    async fn a_token_that_differs_from_a_verified_one_is_rejected() {
        let fixture = Fixture::new();
        let token = fixture.keys.sign(&fixture.claims);
        assert!(fixture.guard.verify(&token, now_s()).await.is_ok());
        for (at, old) in token.char_indices().filter(|(_, old)| *old != '.') {
            let mut bytes = token.clone().into_bytes();
            bytes[at] = if old == 'A' { b'B' } else { b'A' };
            let forged = String::from_utf8(bytes).expect("ascii");
            assert_eq!(fixture.guard.verify(&forged, now_s()).await, Err(Rejection::Invalid), "at {at}");
        }
        for other in [&token[..token.len() - 1], &format!("{token}A"), &format!("{token}="), ""] {
            assert_eq!(fixture.guard.verify(other, now_s()).await, Err(Rejection::Invalid), "{other}");
        }
        assert!(fixture.guard.verify(&token, now_s()).await.is_ok());
    }

    #[tokio::test]
    async fn each_token_has_its_own_caller_and_clones_share_them() {
        let fixture = Fixture::new();
        let tokens: Vec<_> = (0..100)
            .map(|_| {
                let claims = Claims::new("issuer", Uuid::new_v4(), Uuid::new_v4(), now_s(), 300);
                (fixture.keys.sign(&claims), claims)
            })
            .collect();
        for _ in 0..2 {
            for (token, claims) in &tokens {
                let caller = fixture.guard.clone().verify(token, now_s()).await.expect("valid");
                assert_eq!((caller.user, caller.session), (claims.sub, claims.sid));
            }
        }
        assert!(format!("{:?}", fixture.guard).contains("VerifiedTokens(100)"), "{:?}", fixture.guard);
    }

    #[tokio::test]
    async fn rejected_tokens_are_not_kept() {
        let fixture = Fixture::new();
        let expired = Claims { exp: now_s() - 1, ..fixture.claims.clone() };
        for token in [fixture.keys.sign(&expired), SigningKeys::generate().sign(&fixture.claims)] {
            assert!(fixture.guard.verify(&token, now_s()).await.is_err());
        }
        assert!(format!("{:?}", fixture.guard).contains("VerifiedTokens(0)"));
    }
}
