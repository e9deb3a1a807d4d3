//! Error of an operation: one variant per reaction of the caller, and the only mapping to gRPC statuses.
//! Messages are written for clients; the text of a lower layer is logged, never sent.

use std::{sync::Arc, time::Duration};

use tonic::Status;

/// Time after which a caller that was refused may try again.
const BUSY_RETRY_AFTER: Duration = Duration::from_secs(1);

/// Error of an operation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A value outside its limits; the text names the limit.
    #[error("{0}")]
    Invalid(&'static str),
    /// A version that is newer than the database.
    #[error("version is newer than the current state")]
    Future,
    /// An event or change that can never be applied.
    #[error(transparent)]
    InvalidEvent(#[from] crate::event::InvalidEvent),
    /// Load shed: too many concurrent reads of the database.
    #[error("too many concurrent reads, retry later")]
    Busy,
    /// The dialog service did not return the missing changes.
    #[error("call to the dialog service failed: {0}")]
    Dialog(#[source] Status),
    /// The dialog service is at a version below one that it has published: its past is not the one that
    /// was counted.
    #[error("dialog service is at version {head}, version {missing} is missing")]
    Behind {
        /// First missing version.
        missing: i64,
        /// Newest version of the dialog service.
        head: i64,
    },
    /// A rule of the database refuses a change that cannot be refused: a deletion, a leave, a read, a join
    /// or the refusal of a message. It is repeated until the rule is dropped.
    #[error("rule `{rule}` of the database refuses a change that must apply: {input:?}")]
    Blocked {
        /// Name of the constraint, or text of the trigger.
        rule: String,
        /// The refused change.
        input: Box<crate::kernel::Input>,
    },
    /// Error of a load shared with concurrent requests for the same user.
    #[error(transparent)]
    Shared(#[from] Arc<Error>),
    /// Database error.
    #[error(transparent)]
    Database(#[from] db::Error),
}

impl Error {
    /// Returns the error itself, or the one behind a shared load.
    fn source_error(&self) -> &Self {
        match self {
            Self::Shared(error) => error.source_error(),
            error => error,
        }
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
        let error = error.source_error();
        match error {
            Error::Invalid(_) | Error::Future | Error::InvalidEvent(_) => {
                Self::invalid_argument(error.to_string())
            }
            // This service is healthy: UNAVAILABLE would open the circuit breakers around it.
            Error::Busy => proto::refuse(&error.to_string(), BUSY_RETRY_AFTER),
            Error::Database(db::Error::Unavailable(source)) => {
                tracing::warn!(%source, "database unavailable");
                Self::unavailable("unread counts are temporarily unavailable")
            }
            Error::Blocked { .. } => {
                tracing::error!(%error, "operation failed");
                Self::unavailable("unread counts are temporarily unavailable")
            }
            Error::Dialog(_) | Error::Behind { .. } | Error::Shared(_) | Error::Database(_) => {
                tracing::error!(%error, "operation failed");
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
    fn each_error_maps_to_its_code_and_hides_lower_layers() {
        for (error, code) in [
            (Error::Invalid("x"), Code::InvalidArgument),
            (proto::InvalidId.into(), Code::InvalidArgument),
            (Error::Future, Code::InvalidArgument),
            (Error::Dialog(Status::unavailable("secret")), Code::Internal),
            (Error::Behind { missing: 3, head: 2 }, Code::Internal),
            (Error::InvalidEvent(crate::event::InvalidEvent("seq must be a number")), Code::InvalidArgument),
            (Error::Busy, Code::ResourceExhausted),
            (
                Error::Blocked {
                    rule: "secret".to_owned(),
                    input: Box::new(crate::kernel::Input::Registered(proto::UserId::now())),
                },
                Code::Unavailable,
            ),
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
