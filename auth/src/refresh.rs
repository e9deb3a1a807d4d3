//! Refresh tokens: 32 opaque bytes, stored hashed, exchanged for a new pair in one transaction.
//!
//! The first half of a token is its session's family, random and the same in all tokens of the session; so any token that
//! was ever given out leads to its session, and the newest two are all that needs storing. The second half is random in a
//! session's first token; in every other it is made from the token before and a random salt that only the database has. So
//! an answer that was lost can be given again, the same, and nobody can make a token without the one before it and the
//! salt. A token whose successor was used is shown by a thief or by the robbed: the session ends.

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use events::{Headers, outbox};
use proto::{SessionId, UserId};
use sha2::{Digest, Sha256};

use crate::{
    App, Error, event,
    session::{self, Session},
    store,
    user::User,
};

const HALF: usize = 16;

/// A refresh token. Debug never shows it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Token([u8; 2 * HALF]);

/// What a session's next token is made with, besides the one before it. Debug never shows it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Salt([u8; HALF]);

impl Token {
    /// The first token of a new session.
    pub(crate) fn random() -> Self {
        Self(random())
    }

    /// Reads a token as a client sends it.
    ///
    /// # Errors
    /// [`Error::RefreshToken`] where it has not the shape of one.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let mut bytes = [0; 2 * HALF];
        match URL_SAFE_NO_PAD.decode_slice(text, &mut bytes) {
            Ok(length) if length == bytes.len() => Ok(Self(bytes)),
            _ => Err(Error::RefreshToken),
        }
    }

    /// The token as a client gets it.
    pub(crate) fn text(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }

    /// What is stored of the token.
    pub(crate) fn hash(&self) -> Vec<u8> {
        Sha256::digest(self.0).to_vec()
    }

    /// What is stored of the half that all tokens of a session share.
    pub(crate) fn family_hash(&self) -> Vec<u8> {
        Sha256::digest(&self.0[..HALF]).to_vec()
    }

    /// The one after this: the same for the same salt.
    pub(crate) fn successor(&self, salt: &Salt) -> Self {
        let own = Sha256::new().chain_update(salt.0).chain_update(self.0).finalize();
        let mut bytes = self.0;
        bytes[HALF..].copy_from_slice(&own[..HALF]);
        Self(bytes)
    }
}

impl Salt {
    /// A new salt.
    pub(crate) fn random() -> Self {
        Self(random())
    }

    /// A salt that comes from the database.
    pub(crate) fn stored(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The bytes, for the database.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

fn random<const LENGTH: usize>() -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    getrandom::fill(&mut bytes).expect("the system has randomness");
    bytes
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl fmt::Debug for Salt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Salt(…)")
    }
}

/// What is stored of a session's tokens.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Lineage {
    pub session: SessionId,
    pub user: UserId,
    /// The hash of the newest token, which was never used.
    pub newest_hash: Vec<u8>,
    /// When the newest token expires, and the session with it.
    pub expires_at_us: i64,
    /// The token that the newest was given for, where there is one.
    pub previous: Option<Previous>,
    /// Whether the session is over.
    pub ended: bool,
}

/// What is stored of a token whose successor was never used.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Previous {
    pub hash: Vec<u8>,
    pub expires_at_us: i64,
    /// What its successor was made with.
    pub salt: Salt,
}

/// What becomes of a token that is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    /// It is the newest: it gets a successor.
    Rotate,
    /// Its successor was never used: the answer was lost, or two ask at once. The same successor again.
    Repeat(Salt),
    /// Its successor was used: the session ends.
    Reused,
    /// It is expired or its session is over.
    Refused,
}

impl Lineage {
    fn verdict(&self, token: &Token, now_us: i64) -> Verdict {
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

/// Exchanges a refresh token for a new pair.
///
/// # Errors
/// [`Error::RefreshToken`] where the token is unknown, expired, used before, or its session is over.
#[tracing::instrument(name = "auth.session.refresh", skip_all)]
pub(crate) async fn refresh(
    app: &App,
    token: Token,
    salt: Salt,
    now_us: i64,
    headers: Headers,
) -> Result<Session, Error> {
    let (user, id, successor) = app.db.detach(exchange(app.clone(), token, salt, now_us, headers)).await?;
    Ok(session::granted(app, user, id, &successor, now_us))
}

/// One transaction. The session's row is locked first: of two that show one token at the same instant the first rotates it
/// and the second gets the same successor.
async fn exchange(
    app: App,
    token: Token,
    salt: Salt,
    now_us: i64,
    headers: Headers,
) -> Result<(User, SessionId, Token), Error> {
    let mut tx = app.db.begin().await?;
    let lineage = store::session::lock_lineage(&mut tx, &token.family_hash()).await?;
    let lineage = lineage.ok_or(Error::RefreshToken)?;
    let successor = match lineage.verdict(&token, now_us) {
        Verdict::Rotate => {
            let next = token.successor(&salt);
            let expires_at_us = now_us.saturating_add(app.settings.refresh_ttl_us());
            store::session::rotate(&mut tx, lineage.session, &next, &salt, expires_at_us).await?;
            next
        }
        Verdict::Repeat(salt) => token.successor(&salt),
        Verdict::Reused => {
            let ended = store::session::end(&mut tx, lineage.user, lineage.session).await?;
            let revoked = event::revoked(lineage.user, ended.as_slice(), &headers);
            outbox::append(&mut tx, revoked.as_slice()).await?;
            tx.commit().await?;
            metrics::counter!("auth_refresh_reused_total").increment(1);
            let (user_id, session_id) = (lineage.user, lineage.session);
            tracing::warn!(%user_id, %session_id, "a used refresh token was shown again: its session ends");
            return Err(Error::RefreshToken);
        }
        Verdict::Refused => return Err(Error::RefreshToken),
    };
    let user = store::account::get(&mut tx, lineage.user).await?;
    tx.commit().await?;
    Ok((user, lineage.session, successor))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A session with a token that was rotated once, at time 100.
    fn lineage() -> (Lineage, Token, Token) {
        let (first, salt) = (Token::random(), Salt::random());
        let second = first.successor(&salt);
        let previous = Some(Previous { hash: first.hash(), expires_at_us: 500, salt });
        let (session, user) = (SessionId::now(), UserId::now());
        let newest_hash = second.hash();
        (Lineage { session, user, newest_hash, expires_at_us: 600, previous, ended: false }, first, second)
    }

    #[test]
    fn what_becomes_of_a_token_depends_on_its_place_in_the_lineage() {
        let (lineage, first, second) = lineage();
        let salt = lineage.previous.clone().unwrap().salt;
        let older = Token::random();
        let fresh = Lineage { previous: None, newest_hash: first.hash(), ..lineage.clone() };
        let ended = Lineage { ended: true, ..lineage.clone() };
        for (case, lineage, token, now_us, verdict) in [
            ("the newest", &lineage, &second, 599, Verdict::Rotate),
            ("the newest, expired", &lineage, &second, 600, Verdict::Refused),
            ("the one before", &lineage, &first, 499, Verdict::Repeat(salt)),
            ("the one before, expired", &lineage, &first, 500, Verdict::Refused),
            ("an older one", &lineage, &older, 0, Verdict::Reused),
            ("an older one, all expired", &lineage, &older, 600, Verdict::Refused),
            ("the first of a session", &fresh, &first, 0, Verdict::Rotate),
            ("one that cannot be", &fresh, &second, 0, Verdict::Reused),
            ("the newest of an ended session", &ended, &second, 0, Verdict::Refused),
            ("the one before in an ended session", &ended, &first, 0, Verdict::Refused),
            ("an older one of an ended session", &ended, &older, 0, Verdict::Refused),
        ] {
            assert_eq!(lineage.verdict(token, now_us), verdict, "{case}");
        }
    }

    #[test]
    fn a_token_reads_back_and_nothing_else_is_one() {
        let token = Token::random();
        assert_eq!(Token::parse(&token.text()).unwrap(), token);
        assert_eq!(token.text().len(), 43);
        let (padded, longer) = (format!("{}=", token.text()), format!("{}A", token.text()));
        let loose = format!("{}B", "A".repeat(42));
        for bad in [
            "",
            "nonsense",
            "a\0",
            &token.text()[1..],
            &padded,
            &longer,
            &"é".repeat(43),
            &loose,
            &"A".repeat(5_000),
        ] {
            assert!(matches!(Token::parse(bad), Err(Error::RefreshToken)), "{bad:?}");
        }
    }

    #[test]
    fn a_successor_is_of_the_family_and_needs_both_the_token_and_the_salt() {
        let (token, salt) = (Token::random(), Salt::random());
        let next = token.successor(&salt);
        assert_eq!(next, token.successor(&salt), "a lost answer can be given again");
        assert_eq!(next.family_hash(), token.family_hash());
        assert_ne!(next, token);
        assert_ne!(next, token.successor(&Salt::random()));
        let mut stranger = Token::random();
        stranger.0[..HALF].copy_from_slice(&token.0[..HALF]);
        assert_ne!(next, stranger.successor(&salt));
        assert_ne!(Token::random().family_hash(), token.family_hash());
    }

    #[test]
    fn debug_shows_neither_token_nor_salt() {
        assert_eq!(format!("{:?} {:?}", Token::random(), Salt::random()), "Token(…) Salt(…)");
    }
}
