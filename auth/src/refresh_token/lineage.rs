//! Lineage: the hashes that the database keeps of a session's refresh tokens. Two are enough: every
//! token of the family that is neither the newest nor the previous one was used before.

use proto::{SessionId, UserId};

use super::{Salt, Token, Verdict};

/// Stored state of a session's refresh tokens.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Lineage {
    pub session: SessionId,
    pub user: UserId,
    /// Hash of the newest token, which was never used.
    pub newest_hash: Vec<u8>,
    /// Expiry of the newest token, and with it of the session.
    pub expires_at_us: i64,
    /// The token that was exchanged for the newest one; `None` before the first exchange.
    pub previous: Option<Previous>,
    /// True after a log-out, a change of password or the reuse of a token.
    pub ended: bool,
}

/// Stored state of a token whose successor was never used.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Previous {
    pub hash: Vec<u8>,
    pub expires_at_us: i64,
    /// Salt of its successor.
    pub salt: Salt,
}

impl Lineage {
    /// Decides on a token of this family at `now_us`, in microseconds since the Unix epoch.
    pub(super) fn verdict(&self, token: &Token, now_us: i64) -> Verdict {
        let hash = token.hash();
        if self.ended || self.expires_at_us <= now_us {
            return Verdict::Refused;
        }
        if hash == self.newest_hash {
            return Verdict::Rotate;
        }
        match &self.previous {
            Some(previous) if previous.hash == hash && previous.expires_at_us <= now_us => Verdict::Refused,
            Some(previous) if previous.hash == hash => Verdict::Repeat(previous.salt.clone()),
            _ => Verdict::Reused,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Creates a session whose token was rotated once, with the first and the second token.
    fn rotated_once() -> (Lineage, Token, Token) {
        let first = Token::random();
        let salt = Salt::random();
        let second = first.successor(&salt);
        let lineage = Lineage {
            session: SessionId::now(),
            user: UserId::now(),
            newest_hash: second.hash(),
            expires_at_us: 600,
            previous: Some(Previous { hash: first.hash(), expires_at_us: 500, salt }),
            ended: false,
        };
        (lineage, first, second)
    }

    #[test]
    fn the_verdict_depends_on_the_position_of_the_token_in_its_lineage() {
        let (lineage, first, second) = rotated_once();
        let salt = lineage.previous.clone().unwrap().salt;
        let older = Token::random();
        let fresh = Lineage { previous: None, newest_hash: first.hash(), ..lineage.clone() };
        let ended = Lineage { ended: true, ..lineage.clone() };
        for (case, lineage, token, now_us, verdict) in [
            ("newest", &lineage, &second, 599, Verdict::Rotate),
            ("newest, expired", &lineage, &second, 600, Verdict::Refused),
            ("previous", &lineage, &first, 499, Verdict::Repeat(salt)),
            ("previous, expired", &lineage, &first, 500, Verdict::Refused),
            ("older", &lineage, &older, 0, Verdict::Reused),
            ("older, session expired", &lineage, &older, 600, Verdict::Refused),
            ("first of a session", &fresh, &first, 0, Verdict::Rotate),
            ("never issued", &fresh, &second, 0, Verdict::Reused),
            ("newest of an ended session", &ended, &second, 0, Verdict::Refused),
            ("previous of an ended session", &ended, &first, 0, Verdict::Refused),
            ("older of an ended session", &ended, &older, 0, Verdict::Refused),
        ] {
            assert_eq!(lineage.verdict(token, now_us), verdict, "{case}");
        }
    }
}
