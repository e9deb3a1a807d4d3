//! Close codes of the WebSocket endpoint, each with a reason for the close frame.
//!
//! Client libraries reconnect after 1012, 1013, 4403 and 4408 and give up after the other codes; the codes
//! are chosen accordingly (docs/protocol.md#websocket).

use std::borrow::Cow;

/// Maximum length of a reason, in bytes. RFC 6455 allows 123; the protocol promises less than 100.
const REASON_MAX: usize = 99;

/// Code and reason of a close frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Close {
    /// Close code.
    pub code: u16,
    reason: Cow<'static, str>,
}

impl Close {
    /// The client sent `connection_terminate`.
    pub const NORMAL: Self = Self::of(1000, "Goodbye");
    /// The bytes violate the WebSocket protocol.
    pub const MALFORMED: Self = Self::of(1002, "The bytes violate the WebSocket protocol");
    /// A frame is longer than 64 kB.
    pub const TOO_LARGE: Self = Self::of(1009, "A message is longer than 64 kB");
    /// The gateway stops.
    pub const RESTART: Self = Self::of(1012, "The service is restarting");
    /// The client has read no byte for 30 s.
    pub const STALLED: Self = Self::of(1013, "The client has read nothing for 30 s");
    /// The token cannot be verified now.
    pub const TRY_AGAIN: Self = Self::of(1013, "Try again later");
    /// An operation arrived before the acknowledgement.
    pub const NOT_ACKNOWLEDGED: Self = Self::of(4401, "Unauthorized: the connection is not acknowledged");
    /// The session was logged out or revoked.
    pub const SESSION_ENDED: Self = Self::of(4401, "Unauthorized: the session has ended");
    /// The token is not valid.
    pub const FORBIDDEN: Self = Self::of(4403, "Forbidden: the access token is not valid");
    /// The token has expired.
    pub const EXPIRED: Self = Self::of(4403, "Forbidden: the access token has expired");
    /// No `connection_init` within 3 s.
    pub const INIT_TIMEOUT: Self = Self::of(4408, "Connection initialisation timeout");
    /// No frame within 40 s.
    pub const SILENT: Self = Self::of(4408, "The client has sent nothing for 40 s");
    /// No operation for 60 s on the socket of an anonymous client.
    pub const IDLE: Self = Self::of(4408, "No user has signed in and no operation ran for 60 s");
    /// A second `connection_init`.
    pub const SECOND_INIT: Self = Self::of(4429, "Too many initialisation requests");
    /// More messages than the rate limit allows.
    pub const RATE_LIMITED: Self = Self::of(4429, "Too many messages: the limit is 20 per second, burst 100");
    /// The user's quota of sockets is used up.
    pub const TOO_MANY_SOCKETS: Self = Self::of(4429, "Too many sockets of this user");

    const fn of(code: u16, reason: &'static str) -> Self {
        assert!(reason.len() <= REASON_MAX);
        Self { code, reason: Cow::Borrowed(reason) }
    }

    /// Returns the close for a frame that is not a message of the subprotocol.
    pub fn bad_message(reason: &str) -> Self {
        Self { code: 4400, reason: truncated(format!("Invalid message: {reason}")) }
    }

    /// Returns the close for an operation whose id belongs to a running operation.
    pub fn id_in_use(id: &str) -> Self {
        Self { code: 4409, reason: truncated(format!("Subscriber for {id} already exists")) }
    }

    /// Returns the reason, shorter than 100 bytes.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

/// Truncates a reason to [`REASON_MAX`], at a character boundary.
fn truncated(mut reason: String) -> Cow<'static, str> {
    reason.truncate(reason.floor_char_boundary(REASON_MAX));
    reason.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_truncated_at_a_character_boundary_and_stay_below_100_bytes() {
        for text in ["", "short", &"x".repeat(5000), &"ü".repeat(5000), &"x🦀".repeat(100)] {
            for close in [Close::bad_message(text), Close::id_in_use(text)] {
                assert!(close.reason().len() < 100, "{close:?}");
            }
        }
        assert_eq!(Close::id_in_use("7").reason(), "Subscriber for 7 already exists");
    }
}
