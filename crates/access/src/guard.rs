//! The door of a service: from a request's metadata to who calls. A person comes with an access token, another service
//! with the service token; neither passes for the other.

use std::time::{SystemTime, UNIX_EPOCH};

use tonic::{Status, metadata::MetadataMap};

use crate::{Caller, KeySet, Refused, ServiceToken};

/// Verifies who calls. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Guard {
    keys: KeySet,
    service_token: ServiceToken,
    issuer: String,
}

impl Guard {
    /// A guard that believes tokens of this issuer.
    pub fn new(keys: KeySet, service_token: ServiceToken, issuer: impl Into<String>) -> Self {
        Self { keys, service_token, issuer: issuer.into() }
    }

    /// Who shows this access token, at this time (seconds since the Unix epoch).
    ///
    /// # Errors
    /// [`Refused`], never [`Refused::Missing`].
    pub async fn verify(&self, token: &str, now_s: i64) -> Result<Caller, Refused> {
        self.keys.verify(token, &self.issuer, now_s).await
    }

    /// The person who calls.
    ///
    /// # Errors
    /// UNAUTHENTICATED without a valid access token (a service token is none), UNAVAILABLE where nobody can say.
    pub async fn caller(&self, metadata: &MetadataMap) -> Result<Caller, Status> {
        let token = bearer(metadata)?;
        Ok(self.verify(token, now_s()).await?)
    }

    /// That a service calls.
    ///
    /// # Errors
    /// UNAUTHENTICATED without a token or with one of nobody, PERMISSION_DENIED with a person's.
    pub fn service(&self, metadata: &MetadataMap) -> Result<(), Status> {
        let token = bearer(metadata)?;
        if self.service_token.matches(token) {
            return Ok(());
        }
        // A service token has no dots.
        Err(if token.contains('.') {
            Status::permission_denied("this call is for services only")
        } else {
            Status::unauthenticated("the service token is not valid")
        })
    }
}

/// The token of the authorization header.
fn bearer(metadata: &MetadataMap) -> Result<&str, Refused> {
    let mut values = metadata.get_all("authorization").iter();
    let value = values.next().ok_or(Refused::Missing)?;
    if values.next().is_some() {
        // Two tokens: nobody can say which of them is meant.
        return Err(Refused::Invalid);
    }
    let (scheme, token) =
        value.to_str().ok().and_then(|text| text.split_once(' ')).ok_or(Refused::Invalid)?;
    if scheme.eq_ignore_ascii_case("bearer") { Ok(token.trim()) } else { Err(Refused::Invalid) }
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

    struct Door {
        guard: Guard,
        keys: SigningKeys,
        service: String,
        claims: Claims,
    }

    impl Door {
        fn new() -> Self {
            let (keys, token) = (SigningKeys::generate(), ServiceToken::generate());
            let set = KeySet::of(&keys);
            let claims = Claims::new("issuer", Uuid::new_v4(), Uuid::new_v4(), now_s(), 300);
            Self { service: token.header(), guard: Guard::new(set, token, "issuer"), keys, claims }
        }

        fn person(&self) -> String {
            format!("Bearer {}", self.keys.sign(&self.claims))
        }
    }

    fn metadata(authorization: &str) -> MetadataMap {
        let mut metadata = MetadataMap::new();
        metadata.insert("authorization", authorization.parse().expect("ascii"));
        metadata
    }

    #[tokio::test]
    async fn a_person_and_a_service_do_not_pass_for_each_other() {
        let door = Door::new();
        let (person, service) = (metadata(&door.person()), metadata(&door.service));
        let caller = door.guard.caller(&person).await.expect("a person");
        assert_eq!((caller.user, caller.session), (door.claims.sub, door.claims.sid));
        assert_eq!(door.guard.caller(&service).await.expect_err("refused").code(), Code::Unauthenticated);
        door.guard.service(&service).expect("a service");
        assert_eq!(door.guard.service(&person).expect_err("refused").code(), Code::PermissionDenied);
    }

    #[tokio::test]
    async fn who_shows_nothing_or_nonsense_is_unauthenticated_and_no_answer_repeats_it() {
        let door = Door::new();
        let person = door.person();
        let bare = person.strip_prefix("Bearer ").expect("a bearer");
        let mut headers = vec![MetadataMap::new()];
        let basic = format!("Basic {bare}");
        headers.extend(["", "Bearer", "Bearer ", "Bearer nonsense", bare, &basic].map(metadata));
        for metadata in &headers {
            for status in [
                door.guard.caller(metadata).await.expect_err("refused"),
                door.guard.service(metadata).expect_err("refused"),
            ] {
                assert_eq!(status.code(), Code::Unauthenticated, "{metadata:?}");
                assert!(!format!("{status:?}").contains("nonsense"), "{status:?}");
            }
        }
        let scheme = format!("bearer {bare}");
        assert!(door.guard.caller(&metadata(&scheme)).await.is_ok(), "schemes have no case");
    }

    #[tokio::test]
    async fn expired_and_unverifiable_tokens_are_told_apart() {
        let mut door = Door::new();
        door.claims.exp = now_s() - 1;
        let status = door.guard.caller(&metadata(&door.person())).await.expect_err("refused");
        assert_eq!(
            (status.code(), status.message()),
            (Code::Unauthenticated, "the access token has expired")
        );
        let away = KeySet::new(|| std::future::ready(Err::<String, _>(std::fmt::Error)));
        let guard = Guard::new(away, ServiceToken::generate(), "issuer");
        let status = guard.caller(&metadata(&door.person())).await.expect_err("refused");
        assert_eq!(status.code(), Code::Unavailable);
    }
}
