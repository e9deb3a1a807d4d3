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

/// By whose authority a call is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authority {
    /// A person's.
    Caller(Caller),
    /// A service's own.
    Service,
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

    /// The person or the service that calls.
    ///
    /// # Errors
    /// As [`Guard::caller`].
    pub async fn caller_or_service(&self, metadata: &MetadataMap) -> Result<Authority, Status> {
        if self.service_token.matches(bearer(metadata)?) {
            return Ok(Authority::Service);
        }
        self.caller(metadata).await.map(Authority::Caller)
    }
}

/// The token of the authorization header.
fn bearer(metadata: &MetadataMap) -> Result<&str, Refused> {
    let value = metadata.get("authorization").ok_or(Refused::Missing)?;
    let (scheme, token) = value.to_str().ok().and_then(|text| text.split_once(' ')).ok_or(Refused::Invalid)?;
    if scheme.eq_ignore_ascii_case("bearer") { Ok(token.trim()) } else { Err(Refused::Invalid) }
}

fn now_s() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
