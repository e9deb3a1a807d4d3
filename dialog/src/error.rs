//! What can go wrong with a call, by what its caller can do about it, and the one match to the statuses of the wire. The
//! texts are written for people; nothing from below is among them.

use tonic::{Code, Status};

/// An error of an operation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A value out of its bounds.
    #[error("{0}")]
    Invalid(&'static str),
    /// The dialog is absent, or the caller takes no part in it: both look the same.
    #[error("there is no such dialog")]
    NoDialog,
    /// The message is absent, or in a dialog that the caller takes no part in, or not the caller's to change.
    #[error("there is no such message")]
    NoMessage,
    /// The client's key was used before, with something else.
    #[error("this clientKey was used before, with something else")]
    KeyTaken,
    /// Two people's own dialog cannot be joined or left.
    #[error("nobody joins or leaves a dialog of two people")]
    Direct,
    /// The auth service could not say who these people are.
    #[error("auth did not answer: {0}")]
    Auth(#[source] Status),
    /// The counters could not say what became of messages.
    #[error("the counters did not answer: {0}")]
    Counter(#[source] Status),
    /// The counters answered something that no question had.
    #[error("the counters gave {outcomes} outcomes for {asked} messages")]
    Outcomes {
        /// How many messages were asked about.
        asked: usize,
        /// How many outcomes came.
        outcomes: usize,
    },
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
            Error::Invalid(_) => Self::invalid_argument(error.to_string()),
            Error::NoDialog | Error::NoMessage => Self::not_found(error.to_string()),
            Error::KeyTaken => Self::already_exists(error.to_string()),
            Error::Direct => Self::failed_precondition(error.to_string()),
            Error::Auth(status) => match status.code() {
                Code::Unauthenticated => Self::unauthenticated(status.message()),
                Code::DeadlineExceeded => Self::deadline_exceeded("the time for this request is over"),
                _ => {
                    tracing::warn!(%error, "participants were not checked");
                    Self::unavailable("participants cannot be looked up at the moment")
                }
            },
            Error::Database(db::Error::Unavailable(source)) => {
                tracing::warn!(%source, "the database is unavailable");
                Self::unavailable("dialogs cannot be reached at the moment")
            }
            Error::Counter(_) | Error::Outcomes { .. } | Error::Database(_) => {
                tracing::error!(%error, "an operation failed");
                Self::internal("internal error")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_has_its_code_and_no_text_from_below() {
        let late = || Status::deadline_exceeded("late");
        for (error, code) in [
            (Error::Invalid("x"), Code::InvalidArgument),
            (proto::InvalidId.into(), Code::InvalidArgument),
            (Error::NoDialog, Code::NotFound),
            (Error::NoMessage, Code::NotFound),
            (Error::KeyTaken, Code::AlreadyExists),
            (Error::Direct, Code::FailedPrecondition),
            (Error::Auth(Status::unauthenticated("expired")), Code::Unauthenticated),
            (Error::Auth(late()), Code::DeadlineExceeded),
            (Error::Auth(Status::internal("secret")), Code::Unavailable),
            (Error::Counter(Status::internal("secret")), Code::Internal),
            (Error::Outcomes { asked: 1, outcomes: 2 }, Code::Internal),
            (Error::Database(db::Error::Unique("secret".to_owned())), Code::Internal),
            (Error::Database(db::Error::Unavailable(sqlx::Error::PoolTimedOut)), Code::Unavailable),
        ] {
            let status = Status::from(error);
            assert_eq!(status.code(), code);
            assert!(!status.message().contains("secret") && !status.message().is_empty());
        }
    }
}
