//! Verdict: the decision on a refresh token that a client presents.

use super::Salt;

/// Decision on a presented token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The newest token: issue a successor.
    Rotate,
    /// The previous token, and its successor was never used: the response was lost, or two requests are
    /// concurrent. Return the same successor, derived with this salt.
    Repeat(Salt),
    /// An older token: it was stolen, or a stolen copy of it was used. End the session.
    Reused,
    /// Expired token, or ended session.
    Refused,
}
