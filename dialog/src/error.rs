//! Error of an operation: one variant per reaction of the caller, and the only mapping to gRPC statuses.
//! Messages are written for clients; the text of a lower layer is logged, never sent.

use std::{sync::Arc, time::Duration};

use tonic::{Code, Status};

/// Time after which a refused send may be repeated: half of a full queue is stored by then.
const BUSY_RETRY_AFTER: Duration = Duration::from_millis(500);

/// Error of an operation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A value outside its limits; the text names the limit.
    #[error("{0}")]
    Invalid(&'static str),
    /// The dialog does not exist, or the caller is not a participant. Both look the same.
    #[error("there is no such dialog")]
    NoDialog,
    /// The message does not exist, is in a dialog the caller does not take part in, or is not the
    /// caller's to change.
    #[error("there is no such message")]
    NoMessage,
    /// The client key was used before for another message or dialog.
    #[error("this clientKey was already used for something else")]
    KeyTaken,
    /// A direct dialog has exactly its two participants.
    #[error("a direct dialog cannot be joined, left or renamed")]
    Direct,
    /// A call to auth failed.
    #[error("auth call failed: {0}")]
    Auth(#[source] Status),
    /// A `Settle` call to the counter failed.
    #[error("counter call failed: {0}")]
    Counter(#[source] Status),
    /// The counter's reply does not match the request.
    #[error("the counter returned {outcomes} outcomes for {asked} messages")]
    Outcomes {
        /// Messages in the request.
        asked: usize,
        /// Outcomes in the reply.
        outcomes: usize,
    },
    /// More sends wait than the database stores in time.
    #[error("too many messages are being sent: try again later")]
    Busy,
    /// The task that stores messages panicked.
    #[error("the task that stores messages ended")]
    Interrupted,
    /// Database error. Shared by the sends of a transaction.
    #[error(transparent)]
    Database(Arc<db::Error>),
}

impl From<db::Error> for Error {
    fn from(error: db::Error) -> Self {
        Self::Database(Arc::new(error))
    }
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
            Error::Invalid(_) => Self::invalid_argument(error.to_string()),
            Error::NoDialog | Error::NoMessage => Self::not_found(error.to_string()),
            Error::KeyTaken => Self::already_exists(error.to_string()),
            Error::Direct => Self::failed_precondition(error.to_string()),
            Error::Auth(status) => match status.code() {
                Code::Unauthenticated => Self::unauthenticated(status.message()),
                Code::DeadlineExceeded => Self::deadline_exceeded("the deadline of the call has passed"),
                _ => {
                    tracing::warn!(%error, "participants could not be looked up");
                    Self::unavailable("participants cannot be looked up: try again later")
                }
            },
            Error::Busy => proto::refuse(&error.to_string(), BUSY_RETRY_AFTER),
            Error::Database(database) if let db::Error::Unavailable(source) = &**database => {
                tracing::warn!(%source, "database unavailable");
                Self::unavailable("dialogs are temporarily unavailable")
            }
            Error::Counter(_) | Error::Outcomes { .. } | Error::Interrupted | Error::Database(_) => {
                tracing::error!(%error, "operation failed");
                Self::internal("internal error")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_maps_to_its_code_and_hides_lower_layers() {
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
            (Error::Busy, Code::ResourceExhausted),
            (Error::Interrupted, Code::Internal),
            (db::Error::Unique("secret".to_owned()).into(), Code::Internal),
            (db::Error::Unavailable(sqlx::Error::PoolTimedOut).into(), Code::Unavailable),
        ] {
            let status = Status::from(error);
            assert_eq!(status.code(), code);
            assert!(!status.message().contains("secret") && !status.message().is_empty());
        }
    }
}
