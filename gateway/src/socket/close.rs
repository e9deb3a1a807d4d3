//! Why the gateway closes a socket: the codes of the WebSocket table, each with a reason that fits a close frame. Client
//! libraries retry 1012, 1013, 4403 and 4408 and give up on the others: the codes are chosen for that.

use std::borrow::Cow;

/// The longest reason, in bytes. A close frame holds 123 at most; ours stay under 100.
const REASON_MAX: usize = 99;

/// A code and a reason for a close frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Close {
    /// The code on the wire.
    pub code: u16,
    reason: Cow<'static, str>,
}

impl Close {
    /// The client said that it goes.
    pub const GOODBYE: Self = Self::of(1000, "Goodbye");
    /// A frame over 64 kB.
    pub const TOO_LARGE: Self = Self::of(1009, "A message is longer than 64 kB");
    /// The bytes of a frame are not what the WebSocket protocol has.
    pub const MALFORMED: Self = Self::of(1002, "The WebSocket protocol was not kept");
    /// This gateway stops.
    pub const RESTART: Self = Self::of(1012, "The service restarts");
    /// The client has not read for a while.
    pub const STALLED: Self = Self::of(1013, "Nothing was read for too long");
    /// Tokens cannot be checked just now.
    pub const TRY_AGAIN: Self = Self::of(1013, "Try again later");
    /// An operation before the acknowledgement.
    pub const NOT_ACKNOWLEDGED: Self = Self::of(4401, "Unauthorized: the connection is not acknowledged");
    /// The session was logged out or revoked.
    pub const SESSION_OVER: Self = Self::of(4401, "Unauthorized: the session is over");
    /// A token that does not hold.
    pub const FORBIDDEN: Self = Self::of(4403, "Forbidden: the access token is not valid");
    /// The token's time is over.
    pub const EXPIRED: Self = Self::of(4403, "Forbidden: the access token has expired");
    /// No `connection_init` in time.
    pub const INIT_TIMEOUT: Self = Self::of(4408, "Connection initialisation timeout");
    /// No sign of life.
    pub const SILENT: Self = Self::of(4408, "Nothing was heard for too long");
    /// A second `connection_init`.
    pub const SECOND_INIT: Self = Self::of(4429, "Too many initialisation requests");
    /// Messages come too fast.
    pub const TOO_FAST: Self = Self::of(4429, "Too many messages: 20 a second, 100 at once");
    /// The user's sockets are all taken.
    pub const TOO_MANY_SOCKETS: Self = Self::of(4429, "Too many sockets of this user");

    const fn of(code: u16, reason: &'static str) -> Self {
        assert!(reason.len() <= REASON_MAX);
        Self { code, reason: Cow::Borrowed(reason) }
    }

    /// A message that is none.
    pub fn bad_message(reason: &str) -> Self {
        Self { code: 4400, reason: fitted(format!("Invalid message: {reason}")) }
    }

    /// An id that is in use.
    pub fn id_in_use(id: &str) -> Self {
        Self { code: 4409, reason: fitted(format!("Subscriber for {id} already exists")) }
    }

    /// What people read, under 100 bytes.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

/// Cuts at a character's boundary.
fn fitted(mut reason: String) -> Cow<'static, str> {
    reason.truncate(reason.floor_char_boundary(REASON_MAX));
    reason.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_cut_between_characters_and_stays_under_100_bytes() {
        for text in ["", "short", &"x".repeat(5000), &"ü".repeat(5000), &"x🦀".repeat(100)] {
            for close in [Close::bad_message(text), Close::id_in_use(text)] {
                assert!(close.reason().len() < 100, "{close:?}");
            }
        }
        assert_eq!(Close::id_in_use("7").reason(), "Subscriber for 7 already exists");
    }
}
