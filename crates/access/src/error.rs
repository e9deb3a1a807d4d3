//! Errors of this crate: unusable secret files, reported to the operator, and rejected tokens, reported
//! to the caller. No error contains a token or a key.

use std::{io, path::PathBuf};

use tonic::Status;

/// A secret file that cannot be used. The text is written for the operator.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system failed to read or write the file.
    #[error("{}", path.display())]
    File {
        /// Path of the file.
        path: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
    /// The file is accessible to the group, or to all users. The group may read a file of root.
    #[error(
        "{0} is accessible to users other than its owner (mode {mode:03o}); run: chmod 600 {0}",
        path.display()
    )]
    Exposed {
        /// Path of the file.
        path: PathBuf,
        /// Permission bits of the file.
        mode: u32,
    },
    /// The file's content is not in the expected format.
    #[error("{}: {reason}", path.display())]
    Malformed {
        /// Path of the file.
        path: PathBuf,
        /// Description of the first fault found.
        reason: String,
    },
}

/// Reason for which an access token is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Rejection {
    /// The request carries no token.
    #[error("sign in first")]
    Missing,
    /// The token is malformed, forged, or issued for something else.
    #[error("the access token is not valid")]
    Invalid,
    /// The token is genuine and has expired.
    #[error("the access token has expired")]
    Expired,
    /// The token names an unknown key, and the key set cannot be fetched: the token may be genuine.
    #[error("access tokens cannot be verified right now")]
    KeysUnavailable,
}

impl From<Rejection> for Status {
    fn from(rejection: Rejection) -> Self {
        match rejection {
            Rejection::Missing | Rejection::Invalid | Rejection::Expired => {
                Self::unauthenticated(rejection.to_string())
            }
            Rejection::KeysUnavailable => Self::unavailable(rejection.to_string()),
        }
    }
}
