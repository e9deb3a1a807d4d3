//! What can go wrong: files of secrets that cannot be used, told to the operator, and tokens that are refused, told to
//! the caller. Neither ever holds a token or a key.

use std::{io, path::PathBuf};

use tonic::Status;

/// A file of secrets that cannot be used. The text is written for the operator.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system refused to read or write it.
    #[error("{}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others than its owner may read or write it.
    #[error("{0} is open to others than its owner (mode {mode:03o}); run: chmod 600 {0}", path.display())]
    Exposed {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It does not hold what it should.
    #[error("{}: {reason}", path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// Why a token is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refused {
    /// There is none.
    #[error("sign in first")]
    Missing,
    /// It is none of ours, or not for this.
    #[error("the access token is not valid")]
    Invalid,
    /// Its time is over.
    #[error("the access token has expired")]
    Expired,
    /// It is signed by an unknown key, and the keys cannot be had now: nobody can say.
    #[error("access tokens cannot be verified at the moment")]
    KeysUnavailable,
}

impl From<Refused> for Status {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Missing | Refused::Invalid | Refused::Expired => {
                Self::unauthenticated(refused.to_string())
            }
            Refused::KeysUnavailable => Self::unavailable(refused.to_string()),
        }
    }
}
