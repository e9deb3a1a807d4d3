//! What can go wrong with a call, by what its caller can do about it, and the one match to the statuses of the wire. The
//! texts are written for people; nothing from below is among them.

use std::sync::Arc;

use tonic::Status;

/// An error of an operation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A value out of its bounds.
    #[error("{0}")]
    Invalid(&'static str),
    /// A version that the counters never gave to anyone.
    #[error("this version is of the future")]
    Future,
    /// The dialog service could not say what is missing.
    #[error("dialog did not answer: {0}")]
    Dialog(#[source] Status),
    /// The dialog service knows less than what it has told before: its past is not the one that was counted.
    #[error("dialog knows version {head} where {missing} is missing")]
    Behind {
        /// The first version that is missing.
        missing: i64,
        /// The newest version that dialog knows.
        head: i64,
    },
    /// What another service tells is out of its bounds.
    #[error(transparent)]
    Impossible(#[from] crate::event::Impossible),
    /// Too many read the database at this moment.
    #[error("counters are busy at the moment")]
    Busy,
    /// What those were told who asked for the same at the same time.
    #[error(transparent)]
    Shared(#[from] Arc<Error>),
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
        Self::from(&error)
    }
}

impl From<&Error> for Status {
    fn from(error: &Error) -> Self {
        match error {
            Error::Shared(error) => Self::from(&**error),
            Error::Busy => Self::unavailable(error.to_string()),
            Error::Invalid(_) | Error::Future | Error::Impossible(_) => {
                Self::invalid_argument(error.to_string())
            }
            Error::Database(db::Error::Unavailable(source)) => {
                tracing::warn!(%source, "the database is unavailable");
                Self::unavailable("counters cannot be reached at the moment")
            }
            Error::Dialog(_) | Error::Behind { .. } | Error::Database(_) => {
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
            (Error::Future, Code::InvalidArgument),
            (Error::Dialog(Status::unavailable("secret")), Code::Internal),
            (Error::Behind { missing: 3, head: 2 }, Code::Internal),
            (Error::Impossible(crate::event::Impossible("a seq is not a seq")), Code::InvalidArgument),
            (Error::Busy, Code::Unavailable),
            (Arc::new(Error::Future).into(), Code::InvalidArgument),
            (Error::Database(db::Error::Refused("secret".to_owned())), Code::Internal),
            (Error::Database(db::Error::Unavailable(sqlx::Error::PoolTimedOut)), Code::Unavailable),
        ] {
            let status = Status::from(error);
            assert_eq!(status.code(), code);
            assert!(!status.message().contains("secret") && !status.message().is_empty());
        }
    }
}
