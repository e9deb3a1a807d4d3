//! Error of an operation: one variant per reaction of the caller, and the only mapping to gRPC statuses.
//! Messages are written for clients; the text of a lower layer is logged, never sent.

use std::time::Duration;

use prost::Message;
use proto::auth::{EndedSession, RefreshRefused};
use tonic::{Code, Status, metadata::MetadataValue};

/// Error of an operation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A value outside its limits; the text names the limit.
    #[error("{0}")]
    Invalid(&'static str),
    /// Another user has this login.
    #[error("this login is taken")]
    LoginTaken,
    /// Unknown login or wrong password. Both look the same, so that logins cannot be enumerated.
    #[error("the login or the password is wrong")]
    Credentials,
    /// Wrong password from an address that has signed in to this login before. It looks the same; the
    /// metadata is for the gateway, which limits guesses from elsewhere.
    #[error("the login or the password is wrong")]
    CredentialsFromKnownAddress,
    /// The address has not signed in to this login before, and only such an address may now.
    #[error("this address has not signed in to this login before")]
    UnknownAddress,
    /// Wrong old password in a change of password.
    #[error("the old password is wrong")]
    OldPassword,
    /// Malformed, unknown or expired refresh token, or one of an ended session.
    #[error("the refresh token is not valid: sign in again")]
    RefreshToken,
    /// Reused refresh token, which has ended this session. To the client it looks like any other invalid one.
    #[error("the refresh token is not valid: sign in again")]
    RefreshTokenReused(EndedSession),
    /// Valid access token of an ended session.
    #[error("this session has ended: sign in again")]
    SessionEnded,
    /// No open session of the caller has this id. Malformed, unknown, foreign and ended ones look the same.
    #[error("there is no such session")]
    UnknownSession,
    /// Refused work: too many passwords wait to be hashed.
    #[error("too many concurrent sign-ins: try again later")]
    Busy,
    /// Password hashing failed, or a stored hash is malformed.
    #[error("password hashing failed: {0}")]
    Hashing(argon2::password_hash::Error),
    /// Database error.
    #[error(transparent)]
    Database(#[from] db::Error),
}

impl From<proto::InvalidId> for Error {
    fn from(_: proto::InvalidId) -> Self {
        Self::Invalid("an id has 16 bytes")
    }
}

impl From<Error> for Status {
    /// Maps each variant to its code. A failure of this service is logged here, once.
    fn from(error: Error) -> Self {
        match &error {
            Error::Invalid(_) | Error::OldPassword => Self::invalid_argument(error.to_string()),
            Error::LoginTaken => Self::already_exists(error.to_string()),
            Error::Credentials | Error::RefreshToken | Error::SessionEnded => {
                Self::unauthenticated(error.to_string())
            }
            Error::RefreshTokenReused(ended) => {
                let details = RefreshRefused { ended: vec![ended.clone()] }.encode_to_vec();
                Self::with_details(Code::Unauthenticated, error.to_string(), details.into())
            }
            Error::CredentialsFromKnownAddress => {
                let mut status = Self::unauthenticated(error.to_string());
                status.metadata_mut().insert(proto::KNOWN_ADDRESS, MetadataValue::from_static("1"));
                status
            }
            Error::UnknownSession => Self::not_found(error.to_string()),
            Error::UnknownAddress => Self::failed_precondition(error.to_string()),
            // This service is healthy: UNAVAILABLE would open the circuit breakers around it.
            Error::Busy => proto::refuse(&error.to_string(), busy_retry_after()),
            Error::Database(db::Error::Unavailable(source)) => {
                tracing::warn!(%source, "database unavailable");
                Self::unavailable("accounts are temporarily unavailable")
            }
            Error::Hashing(_) | Error::Database(_) => {
                tracing::error!(%error, "operation failed");
                Self::internal("internal error")
            }
        }
    }
}

/// Returns the time after which a client that was refused may try again: by then the queue of passwords has
/// room. It is random, from one second to two, so that the refused of one moment do not return in one moment.
fn busy_retry_after() -> Duration {
    let spread_ms = getrandom::u32().unwrap_or_default() % 1_000;
    Duration::from_millis(1_000 + u64::from(spread_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_maps_to_its_code_and_hides_lower_layers() {
        let ended = EndedSession { session_id: vec![1; 16], expires_at_us: 1 };
        for (error, code) in [
            (Error::Invalid("x"), Code::InvalidArgument),
            (proto::InvalidId.into(), Code::InvalidArgument),
            (Error::OldPassword, Code::InvalidArgument),
            (Error::LoginTaken, Code::AlreadyExists),
            (Error::Credentials, Code::Unauthenticated),
            (Error::RefreshToken, Code::Unauthenticated),
            (Error::RefreshTokenReused(ended), Code::Unauthenticated),
            (Error::SessionEnded, Code::Unauthenticated),
            (Error::UnknownSession, Code::NotFound),
            (Error::CredentialsFromKnownAddress, Code::Unauthenticated),
            (Error::UnknownAddress, Code::FailedPrecondition),
            (Error::Busy, Code::ResourceExhausted),
            (Error::Hashing(argon2::password_hash::Error::Internal), Code::Internal),
            (Error::Database(db::Error::Unique("secret".to_owned())), Code::Internal),
            (Error::Database(db::Error::Refused("secret".to_owned())), Code::Internal),
            (Error::Database(db::Error::Unavailable(sqlx::Error::PoolTimedOut)), Code::Unavailable),
        ] {
            let status = Status::from(error);
            assert_eq!(status.code(), code, "{status:?}");
            assert!(!status.message().is_empty());
            assert!(!status.message().contains("secret") && !status.message().contains("pool"), "{status:?}");
        }
    }
}
