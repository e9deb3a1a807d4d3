//! What can go wrong with a call, by what its caller can do about it, and the one match to the statuses of the wire. The
//! texts are written for people; nothing from below is among them.

use tonic::Status;

/// An error of an operation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A value out of its bounds.
    #[error("{0}")]
    Invalid(&'static str),
    /// Another person has this login.
    #[error("this login is taken")]
    LoginTaken,
    /// The login is unknown or the password is not its own: nobody is told which.
    #[error("the login or the password is wrong")]
    Credentials,
    /// The old password, shown to change it, is wrong.
    #[error("the old password is wrong")]
    OldPassword,
    /// The refresh token is unknown, expired, was used before, or its session is over.
    #[error("the refresh token is not valid: sign in again")]
    RefreshToken,
    /// The access token is genuine, but its session is over.
    #[error("this session has ended: sign in again")]
    SessionEnded,
    /// More people show passwords at once than can be checked in time.
    #[error("too many people are signing in at the moment: try again")]
    Busy,
    /// More sessions were revoked within the last token lifetime than one answer holds.
    #[error("more than {0} sessions were revoked within the last token lifetime")]
    TooManyRevoked(i64),
    /// A password could not be hashed, or a stored hash is none.
    #[error("password hashing failed: {0}")]
    Hashing(argon2::password_hash::Error),
    /// The database's own.
    #[error(transparent)]
    Database(#[from] db::Error),
}

impl From<proto::InvalidId> for Error {
    fn from(_: proto::InvalidId) -> Self {
        Self::Invalid("an id has 16 bytes")
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        match &error {
            Error::Invalid(_) | Error::OldPassword => Self::invalid_argument(error.to_string()),
            Error::LoginTaken => Self::already_exists(error.to_string()),
            Error::Credentials | Error::RefreshToken | Error::SessionEnded => {
                Self::unauthenticated(error.to_string())
            }
            Error::Busy => Self::unavailable(error.to_string()),
            Error::TooManyRevoked(_) => {
                tracing::error!(%error, "revoked sessions cannot be listed");
                Self::resource_exhausted(error.to_string())
            }
            Error::Database(db::Error::Unavailable(source)) => {
                tracing::warn!(%source, "the database is unavailable");
                Self::unavailable("people cannot be looked up at the moment")
            }
            Error::Hashing(_) | Error::Database(_) => {
                tracing::error!(%error, "an operation failed");
                Self::internal("internal error")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn every_error_has_its_code_and_no_text_from_below() {
        for (error, code) in [
            (Error::Invalid("x"), Code::InvalidArgument),
            (proto::InvalidId.into(), Code::InvalidArgument),
            (Error::OldPassword, Code::InvalidArgument),
            (Error::LoginTaken, Code::AlreadyExists),
            (Error::Credentials, Code::Unauthenticated),
            (Error::RefreshToken, Code::Unauthenticated),
            (Error::SessionEnded, Code::Unauthenticated),
            (Error::Busy, Code::Unavailable),
            (Error::TooManyRevoked(1), Code::ResourceExhausted),
            (Error::Hashing(argon2::password_hash::Error::Internal), Code::Internal),
            (Error::Database(db::Error::Unique("below".to_owned())), Code::Internal),
            (Error::Database(db::Error::Refused("below".to_owned())), Code::Internal),
            (Error::Database(db::Error::Unavailable(sqlx::Error::PoolTimedOut)), Code::Unavailable),
        ] {
            let status = Status::from(error);
            assert_eq!(status.code(), code, "{status:?}");
            assert!(!status.message().is_empty());
            assert!(!status.message().contains("below") && !status.message().contains("pool"), "{status:?}");
        }
    }
}
