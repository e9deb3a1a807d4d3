//! Authentication of gRPC requests: turns the metadata into the caller. A user authenticates with an
//! access token, another service with the service token; neither is accepted in place of the other.

use std::time::{SystemTime, UNIX_EPOCH};

use tonic::{Status, metadata::MetadataMap};

use crate::{Caller, KeySet, Rejection, ServiceToken, bearer_token};

/// Verifies access tokens and the service token. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Guard {
    keys: KeySet,
    service_token: ServiceToken,
    issuer: String,
}

impl Guard {
    /// Creates a guard that accepts access tokens of this issuer.
    pub fn new(keys: KeySet, service_token: ServiceToken, issuer: impl Into<String>) -> Self {
        Self { keys, service_token, issuer: issuer.into() }
    }

    /// Verifies an access token at `now_s` (seconds since the Unix epoch) and returns its caller.
    ///
    /// # Errors
    /// Every [`Rejection`] except [`Rejection::Missing`].
    pub async fn verify(&self, token: &str, now_s: i64) -> Result<Caller, Rejection> {
        self.keys.verify(token, &self.issuer, now_s).await
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
        if self.service_token.matches(token) {
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
    use tonic::Code;
    use uuid::Uuid;

    use super::*;
    use crate::{Claims, SigningKeys};

    struct Fixture {
        guard: Guard,
        keys: SigningKeys,
        service: String,
        claims: Claims,
    }

    impl Fixture {
        fn new() -> Self {
            let keys = SigningKeys::generate();
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
}
